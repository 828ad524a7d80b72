"""Which layer explains what: the R² of banded ridge regression, split by layer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.evaluation import charts
from pipeline.evaluation.sections import Chart, Section, Table


@dataclass(frozen=True)
class BandScores:
    """The held-out R² of banded ridge regression, split by layer.

    R² is the explained share of the squared deviations from the mean training target, so 0 is the mean baseline. The
    split is the product measure (Pratt 1987; Dupré la Tour et al. 2022), which sums to R². With correlated layers, a
    part can be negative even if R² is lower without the layer.

    Attributes:
        layers: Layer -> its part of R², mean over the dimensions.
        r2: R² of all layers together, mean over the dimensions.
    """

    layers: Mapping[str, float]
    r2: float

    @classmethod
    def of(cls, layers: Sequence[str], explained: np.ndarray, total: np.ndarray) -> "BandScores | None":
        """Summarise sums over the held-out images.

        Args:
            layers: The B layers.
            explained: The squares that each layer explains, shape (B, D).
            total: The squared deviations from the mean training target, shape (D,).

        Returns:
            The scores; None if no dimension deviates.
        """
        varies = total > 0
        if not varies.any():
            return None
        r2 = (explained[:, varies] / total[varies]).mean(axis=1)
        return cls(dict(zip(layers, r2.tolist(), strict=True)), float(r2.sum()))

    def section(self) -> Section:
        """A section of the report."""
        best = max(self.layers, key=lambda layer: self.layers[layer])
        text = (
            f"Banded ridge regression explains {self.r2:.3f} of the squared deviations from the mean training target "
            "(R² of the held-out images, mean over the dimensions; 0 is the mean baseline). The largest part is that "
            f"of {best}: {self.layers[best]:.3f}. What several layers explain is divided among them, so a part is not "
            "what the layer would explain alone. Layers of a network are correlated: the largest part need not be that "
            "of the layer that the targets depend on, and a part can be negative even if the layer improves the "
            "prediction."
        )
        return Section(
            id="bands",
            title="Which layer explains what",
            paragraphs=[text],
            charts=[Chart("bands", "R² by layer", charts.bars(self.layers, "part of R²"))],
            tables=[Table("Parts of R² by layer; they sum to that of all layers", ("layer", "R²"), self.rows())],
        )

    def rows(self) -> list[tuple[str, str]]:
        """A row for each layer and one for all, as text."""
        return [(layer, f"{r2:+.4f}") for layer, r2 in (*self.layers.items(), ("all layers", self.r2))]
