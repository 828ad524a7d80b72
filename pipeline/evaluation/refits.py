"""How much a held-out score moves if the training images or the random seed change."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.core.wording import counted
from pipeline.evaluation.sections import Section, Table


@dataclass(frozen=True)
class RefitScores:
    """Held-out mean cosines of several trainings: their mean, standard deviation (n - 1), lowest and highest."""

    mean: float
    deviation: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, cosines: Sequence[float]) -> "RefitScores":
        """Summarise at least two cosines."""
        return cls(float(np.mean(cosines)), float(np.std(cosines, ddof=1)), min(cosines), max(cosines))


@dataclass(frozen=True)
class Refits:
    """The held-out mean cosine of refits of the decoder, all on the same held-out images.

    A half of the training images is drawn without replacement, so no image is in a half twice, which would leak between
    the folds that a decoder is tuned on. It has half of each label's images or, if the split holds out groups or labels
    as a whole, half of these. To first order, the standard deviation over random halves is that over training sets of
    the full size (the delete-half jackknife; Shao and Wu 1989, "A General Theory for Jackknife Variance Estimation").
    It is too large where half of the images are too few to learn from. The mean is that of decoders trained on half of
    the images, so it is usually lower.

    Attributes:
        count: The number of refits of each kind.
        cosine: The held-out mean cosine of the decoder itself.
        half: The number of training images in each half, on average.
        seeds: The same training images, with other seeds.
        halves: Random halves of the training images, each with another seed.
    """

    count: int
    cosine: float
    half: int
    seeds: RefitScores
    halves: RefitScores

    def section(self) -> Section:
        """The section of the report."""
        return Section(
            id="refits",
            title="Other training images, other seeds",
            paragraphs=[
                f"The decoder, with a held-out cosine of {self.cosine:.4f}, was fitted again {self.count} times with "
                f"other random seeds and {self.count} times to random halves of its training images (about "
                f"{counted(self.half, 'image')}, also with other seeds). All were scored on the same held-out images.",
                "The standard deviation over halves estimates how much the score would move with other training "
                "images, as many as these, and another seed; with few images it is too large. Decoders trained on half "
                "of the images usually score lower, so their mean is not the decoder's. This is not an interval for "
                "new images: the held-out images are always the same.",
            ],
            tables=[
                Table(
                    "Held-out cosine of refits, on the same held-out images",
                    ("refits", "standard deviation", "mean", "range"),
                    self.rows(),
                )
            ],
        )

    def rows(self) -> list[tuple[str, ...]]:
        """A row for each kind of refit, as text."""
        kinds = {"other seeds": self.seeds, "random halves, other seeds": self.halves}
        return [
            (kind, f"{scores.deviation:.4f}", f"{scores.mean:.4f}", f"{scores.lowest:.4f} to {scores.highest:.4f}")
            for kind, scores in kinds.items()
        ]
