"""The permutation test with retraining: does training on these images teach anything about the held-out ones?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.core.nearest import TIE
from pipeline.core.wording import counted
from pipeline.evaluation.results import Permutations
from pipeline.evaluation.sections import Section, Table


@dataclass(frozen=True)
class RetrainingTest:
    """How ridge regression scores after training on permuted targets.

    Attributes:
        permutations: How the training targets were permuted; with cross-validation, all targets.
        statistic: The held-out score: "centred cosine", its mean, or "r" if targets have one dimension.
        score: The score of ridge regression; None if there is no p-value.
        chance: The mean of the same over permutations.
        chance_p95: Its 95th percentile over permutations.
        p: The share of permutations, the observed order among them, with a score as high.
    """

    permutations: Permutations
    statistic: str
    score: float | None = None
    chance: float | None = None
    chance_p95: float | None = None
    p: float | None = None

    @classmethod
    def of(
        cls, permutations: Permutations, statistic: str, observed: float, permuted: Sequence[float]
    ) -> "RetrainingTest":
        """The test of an observed score, by the scores of all permutations."""
        scores = np.array([observed, *permuted])
        return cls(
            permutations,
            statistic,
            observed,
            chance=float(scores[1:].mean()),
            chance_p95=float(np.percentile(scores[1:], 95)),
            p=float((~(scores < observed - TIE)).mean()),
        )

    def sentence(self) -> str:
        """The result, or why there is none."""
        how = self.permutations
        if self.p is None:
            return how.too_few or ""
        return (
            f"Ridge regression, trained again on {how.count:,} permutations of the targets among "
            f"{counted(how.clusters, how.kind)}: p = {self.p:.2g} ({self.statistic} {self.score:.3f}; with "
            f"permuted targets {self.chance:.3f} on average, 95th percentile {self.chance_p95:.3f})."
        )

    def section(self) -> Section:
        """The section of the report."""
        what = (
            "This test asks whether training on these images teaches ridge regression anything about the held-out "
            "ones: whether its score is above chance, not how high it is for other images. It is about ridge "
            "regression, whose penalty is chosen anew for each permutation, not about the decoder."
        )
        table = Table(
            f"Held-out {self.statistic} of ridge regression", ("training targets", self.statistic), self.rows()
        )
        return Section(
            "retraining", "Permutation test with retraining", [self.sentence(), what], tables=[table] if self.p else []
        )

    def rows(self) -> list[tuple[str, str]]:
        """The scores, as text."""
        scores = {
            "as they are": self.score,
            "permuted, mean": self.chance,
            "permuted, 95th percentile": self.chance_p95,
        }
        return [(name, f"{score:.4f}") for name, score in scores.items() if score is not None]
