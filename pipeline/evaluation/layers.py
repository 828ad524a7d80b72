"""Layers compared: the score of a decoder for each layer, on the same held-out images."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.core.vectors import cosines
from pipeline.evaluation import charts
from pipeline.evaluation.intervals import both
from pipeline.evaluation.results import Bounds
from pipeline.evaluation.sections import Chart, Section, Table


@dataclass(frozen=True)
class LayerScore:
    """The score of a layer's decoder.

    Attributes:
        layer: The layer.
        dim: The dimension of its features.
        out_of_fold: The mean cosine (for one dimension, minus the mean squared error) for training images, predicted
            without their fold; layers are chosen by it. None if there were no two folds.
        cosine: The mean cosine of the held-out images.
        ci95: Its 95 % interval over clusters, or None.
        ci95_same_labels: Its 95 % interval for new images of the same labels, or None.
        difference: The mean difference in cosine from the chosen layer, on the same images.
        difference_ci95: Its 95 % interval over clusters, or None.
        difference_ci95_same_labels: Its 95 % interval for new images of the same labels, or None.
        chosen: Whether it has the highest out-of-fold score.
    """

    layer: str
    dim: int
    out_of_fold: float | None
    cosine: float
    ci95: Bounds | None
    ci95_same_labels: Bounds | None
    difference: float
    difference_ci95: Bounds | None
    difference_ci95_same_labels: Bounds | None
    chosen: bool


@dataclass(frozen=True)
class LayerPredictions:
    """A layer's decoder: the layer, the dimension of its features, its out-of-fold score, and its predictions.

    The predictions are those for the held-out images, shape (M, D).
    """

    layer: str
    dim: int
    out_of_fold: float | None
    predictions: np.ndarray


@dataclass(frozen=True)
class LayerComparison:
    """The scores of several layers, in the order of the option; one is chosen."""

    layers: Sequence[LayerScore]

    @classmethod
    def of(
        cls, layers: Sequence[LayerPredictions], chosen: int, targets: np.ndarray, clusters: Sequence[str]
    ) -> "LayerComparison":
        """Score the decoders of several layers.

        Args:
            layers: The layers.
            chosen: The position of the chosen one.
            targets: The targets of the held-out images, shape (M, D).
            clusters: The cluster of each image, such as its label or group; intervals generalize over clusters.
        """
        values = [cosines(layer.predictions, targets) for layer in layers]
        scores = []
        for number, layer in enumerate(layers):
            difference = values[number] - values[chosen]
            ci95, ci95_same_labels = both(values[number], clusters, 1.0)
            difference_ci95, difference_ci95_same_labels = both(difference, clusters, 2.0)
            scores.append(
                LayerScore(
                    layer=layer.layer,
                    dim=layer.dim,
                    out_of_fold=layer.out_of_fold,
                    cosine=float(values[number].mean()),
                    ci95=ci95,
                    ci95_same_labels=ci95_same_labels,
                    difference=float(difference.mean()),
                    difference_ci95=difference_ci95,
                    difference_ci95_same_labels=difference_ci95_same_labels,
                    chosen=number == chosen,
                )
            )
        return cls(scores)

    @property
    def chosen(self) -> LayerScore:
        """The chosen layer."""
        return next(layer for layer in self.layers if layer.chosen)

    def section(self) -> Section:
        """The section of the report."""
        chosen, marks = self.chosen, {layer.layer: (layer.cosine, _interval(layer)) for layer in self.layers}
        return Section(
            id="layers",
            title="Layers",
            paragraphs=[
                f"A decoder was trained on each layer. {chosen.layer} was chosen, because it has the highest "
                "out-of-fold score on the training images; the rest of this report is about its decoder. Held-out "
                "images had no part in the choice. The highest held-out score of several layers would be too "
                "optimistic as an estimate for new images.",
                self._verdict(),
                "Each interval of a difference is for one comparison: of many equally good layers, some seem to differ "
                "by chance.",
            ],
            charts=[Chart("layers", "Held-out cosine by layer", charts.points(marks, "cosine to the target"))],
            tables=[
                Table(
                    "Layers: out-of-fold score on the training images, and held-out cosine",
                    ("layer", "out of fold", "held out", "95 % interval"),
                    self.rows(),
                ),
                Table(
                    f"Difference in held-out cosine from {chosen.layer}, the chosen layer",
                    ("layer", "difference", "95 % interval"),
                    self.difference_rows(),
                ),
            ],
        )

    def _verdict(self) -> str:
        """Whether the next best layer by the training images differs from the chosen one.

        The held-out images do not choose it; the best of several layers by their scores would differ too often.
        """
        others = [layer for layer in self.layers if not layer.chosen]
        other = max(others, key=lambda layer: -math.inf if layer.out_of_fold is None else layer.out_of_fold)
        difference = (
            f"the difference of {other.layer}, the next best on the training images, is {other.difference:+.4f}"
        )
        interval = _interval_of_difference(other)
        if interval is None:
            return f"On the held-out images, {difference}; there is no interval for it."
        within = f"95 % interval {interval[0]:+.4f} to {interval[1]:+.4f}"
        differs = "not shown to differ" if interval[0] <= 0 <= interval[1] else "shown to differ"
        return f"On the held-out images, {difference} ({within}): {differs}."

    def rows(self) -> list[tuple[str, ...]]:
        """A row for each layer, as text."""
        return [
            (
                f"{layer.layer} (chosen)" if layer.chosen else layer.layer,
                "-" if layer.out_of_fold is None else f"{layer.out_of_fold:.4f}",
                f"{layer.cosine:.4f}",
                _text(_interval(layer), ".3f"),
            )
            for layer in self.layers
        ]

    def difference_rows(self) -> list[tuple[str, ...]]:
        """A row for each layer that was not chosen, as text."""
        return [
            (layer.layer, f"{layer.difference:+.4f}", _text(_interval_of_difference(layer), "+.4f"))
            for layer in self.layers
            if not layer.chosen
        ]


def _interval(layer: LayerScore) -> Bounds | None:
    return layer.ci95 or layer.ci95_same_labels


def _interval_of_difference(layer: LayerScore) -> Bounds | None:
    return layer.difference_ci95 or layer.difference_ci95_same_labels


def _text(interval: Bounds | None, form: str) -> str:
    return "-" if interval is None else f"{interval[0]:{form}} to {interval[1]:{form}}"
