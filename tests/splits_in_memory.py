"""Split examples in memory, without images or a network."""

from dataclasses import dataclass, field

import numpy as np

from pipeline.commands.examples import Examples, SplitExamples
from pipeline.core.vectors import ArrayRows
from pipeline.data.images import ImageRef, ImageSet
from pipeline.data.splits import Split, SplitRule
from pipeline.data.targets import TargetTable


@dataclass(frozen=True)
class InMemory:
    """Features without a network."""

    images: ImageSet
    values: ArrayRows
    bands: dict[str, int] = field(default_factory=dict)

    @property
    def dim(self) -> int:
        return self.values.shape[1]

    @property
    def paths(self) -> list[str]:
        return list(self.images.paths)

    def subset(self, rows: np.ndarray) -> "InMemory":
        return InMemory(self.images.subset(rows), self.values.subset(rows))

    def stored(self) -> ArrayRows:
        return self.values

    def scaled_by(self, rows: np.ndarray) -> "InMemory":
        return self


def split_of(x: np.ndarray, y: np.ndarray, labels: np.ndarray, train: int, rule: str = "random") -> SplitExamples:
    """The first `train` images are for training."""
    names, paths = [f"label {label:02}" for label in labels], [f"{row:03}.png" for row in range(len(x))]
    images = ImageSet("images", paths, [ImageRef(path) for path in paths], names)
    every = np.arange(len(x))
    features = InMemory(images, ArrayRows(x.astype(np.float32), every))
    table = TargetTable("targets.csv", dict(zip(paths, every.tolist(), strict=True)), y.astype(np.float32))
    examples = Examples(features, paths, y.astype(np.float32), table, images)
    nothing = np.array([], np.intp)
    return SplitExamples(examples, SplitRule(rule), Split(every[:train], every[train:], nothing), nothing, every)
