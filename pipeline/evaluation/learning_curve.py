"""How a held-out score grows with the number of training images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.core.vectors import cosines
from pipeline.core.wording import counted
from pipeline.evaluation import charts
from pipeline.evaluation.intervals import both
from pipeline.evaluation.results import Bounds
from pipeline.evaluation.sections import Chart, Section, Table


@dataclass(frozen=True)
class CurvePoint:
    """The held-out score of a decoder trained on part of the training images.

    Attributes:
        images: The number of images it was trained on.
        cosine: The mean cosine of the held-out images.
        ci95: Its 95 % interval over clusters, or None.
        ci95_same_labels: Its 95 % interval for new images of the same labels, or None.
    """

    images: int
    cosine: float
    ci95: Bounds | None
    ci95_same_labels: Bounds | None


@dataclass(frozen=True)
class LearningCurve:
    """Held-out scores by the number of training images, all on the same held-out images.

    Attributes:
        points: From the fewest training images to all of them.
        gain: The mean difference in cosine between the last two points, on the same images.
        gain_ci95: Its 95 % interval over clusters, or None.
        gain_ci95_same_labels: Its 95 % interval for new images of the same labels, or None.
    """

    points: Sequence[CurvePoint]
    gain: float
    gain_ci95: Bounds | None
    gain_ci95_same_labels: Bounds | None

    @classmethod
    def of(
        cls, sizes: Sequence[int], predictions: Sequence[np.ndarray], targets: np.ndarray, clusters: Sequence[str]
    ) -> "LearningCurve":
        """Score predictions.

        Args:
            sizes: At least two numbers of training images, in ascending order.
            predictions: Those of each decoder for the held-out images, shape (M, D).
            targets: The targets of the held-out images, shape (M, D).
            clusters: The cluster of each image, such as its label or group; intervals generalize over clusters.
        """
        values = [cosines(predicted, targets) for predicted in predictions]
        points = [
            CurvePoint(size, float(value.mean()), *both(value, clusters, 1.0))
            for size, value in zip(sizes, values, strict=True)
        ]
        gain = values[-1] - values[-2]
        return cls(points, float(gain.mean()), *both(gain, clusters, 2.0))

    def section(self) -> Section:
        """The section of the report."""
        marks = [(point.images, point.cosine, point.ci95 or point.ci95_same_labels) for point in self.points]
        return Section(
            id="training-images",
            title="Score by number of training images",
            paragraphs=[
                self.sentence(),
                "Each decoder was trained on a random part of the training images, which contains the smaller parts, "
                "and scored on the same held-out images. The intervals are for these decoders on new images; another "
                "draw of the parts would move the points as well.",
            ],
            charts=[Chart("training-images", "Held-out cosine by number of training images", charts.curve(marks))],
            tables=[
                Table(
                    "Held-out cosine by number of training images",
                    ("training images", "held out", "95 % interval"),
                    self.rows(),
                )
            ],
        )

    def sentence(self) -> str:
        """Whether the last step to more training images raised the score."""
        fewer, all_images = self.points[-2].images, self.points[-1].images
        step = f"{counted(all_images, 'training image')} instead of {fewer}: held-out cosine {self.gain:+.4f}"
        interval = self.gain_ci95 or self.gain_ci95_same_labels
        if interval is None:
            return f"{step}; there is no interval for this difference."
        shown = "more images helped" if interval[0] > 0 else "more images are not shown to have helped"
        return f"{step} (95 % interval {interval[0]:+.4f} to {interval[1]:+.4f}); {shown}."

    def rows(self) -> list[tuple[str, ...]]:
        """A row for each point, as text."""
        rows: list[tuple[str, ...]] = []
        for point in self.points:
            interval = point.ci95 or point.ci95_same_labels
            text = f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else "-"
            rows.append((str(point.images), f"{point.cosine:.4f}", text))
        return rows
