"""The result of `train`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.core.errors import RequestError
from pipeline.core.json_values import typed
from pipeline.core.model_files import find_equal
from pipeline.core.runs import REPORT_FILE, RUN_FILE
from pipeline.core.wording import joined
from pipeline.evaluation.bands import BandScores
from pipeline.evaluation.layers import LayerComparison
from pipeline.evaluation.learning_curve import LearningCurve
from pipeline.evaluation.refits import Refits
from pipeline.evaluation.retraining import RetrainingTest


@dataclass(frozen=True)
class FoldScore:
    """A held-out cosine, or the difference between two, over folds.

    Attributes:
        mean: The mean of the folds' means.
        ci95: Its 95 % interval, with Nadeau and Bengio's correction for folds that share training images, or None.
    """

    mean: float
    ci95: tuple[float, float] | None


@dataclass(frozen=True)
class FoldDifference(FoldScore):
    """The paired difference of two held-out cosines over folds: `of` minus `minus`, both names."""

    of: str
    minus: str


@dataclass(frozen=True)
class FoldResult:
    """The scores of a cross-validation.

    Attributes:
        folds: The number of folds.
        repeats: The number of repeats.
        validation_cosine: API style -> held-out cosine over all folds.
        baselines: Name -> held-out cosine over all folds.
        differences: The difference between each API style and each baseline.
    """

    folds: int
    repeats: int
    validation_cosine: Mapping[str, FoldScore]
    baselines: Mapping[str, FoldScore] = field(default_factory=dict)
    differences: Sequence[FoldDifference] = ()


@dataclass(frozen=True)
class TrainedModel:
    """The training of one decoder: its epochs, seconds, and mean cosines on training and held-out images."""

    epochs: int
    seconds: float
    train_cosine: float
    validation_cosine: float


@dataclass(frozen=True)
class TrainResult:
    """The result of `train`.

    Attributes:
        run: The run's folder.
        images: The number of images.
        train: The number of training images.
        validation: The number of held-out images; with cross-validation, all images are held out in turn.
        target_dim: The dimension of the targets.
        models: API style -> a summary of its training.
        baselines: Name -> mean held-out cosine.
        ceiling: The output ceiling on the held-out targets.
        shares: Candidate -> its share in a blend; empty for a single network.
        folds: The scores of a cross-validation, or None.
        headline: The verdict in one line.
        above_mean: Whether the best decoder was shown to be better than the mean baseline; None if unknown.
        bands: R² by layer of banded ridge regression on several layers; None for other decoders.
        scores: The file of the scores of every image and every dimension, or None.
        permutations: How ridge regression scores after training on permuted targets, or None.
        learning_curve: The scores of decoders trained on parts of the training images, or None.
        layers: The scores of several layers, of which one was chosen, or None.
        refits: The scores of refits with other seeds and to halves of the training images, or None.
    """

    run: Path
    images: int
    train: int
    validation: int
    target_dim: int
    models: Mapping[str, TrainedModel]
    baselines: Mapping[str, float]
    ceiling: float
    shares: Mapping[str, float]
    folds: FoldResult | None
    headline: str
    above_mean: bool | None = None
    bands: BandScores | None = None
    scores: str | None = None
    permutations: RetrainingTest | None = None
    learning_curve: LearningCurve | None = None
    layers: LayerComparison | None = None
    refits: Refits | None = None

    @property
    def titles(self) -> dict[str, str]:
        """The first of equal decoders -> the names of all of them; their weights and scores are identical."""
        equal = find_equal({style: self.run / f"{style}.keras" for style in self.models})
        return joined(
            {style: first if self._scores(style) == self._scores(first) else style for style, first in equal.items()}
        )

    def _scores(self, style: str) -> tuple[object, ...]:
        """The scores of a style; scores over folds come from other decoders than the saved one."""
        model = self.models[style]
        return model.train_cosine, model.validation_cosine, self.folds and self.folds.validation_cosine[style]

    def to_json(self) -> dict[str, Any]:
        """The JSON document of `train`."""
        return {
            **asdict(self),
            "run": str(self.run),
            "models": {
                style: {"path": str(self.run / f"{style}.keras"), **asdict(model)}
                for style, model in self.models.items()
            },
            "baselines": {name: {"validation_cosine": cosine} for name, cosine in self.baselines.items()},
            "report": str(self.run / REPORT_FILE),
        }

    def record(self) -> dict[str, Any]:
        """The result as stored in `run.json`, without the folder of the run and the file of scores."""
        return {name: value for name, value in asdict(self).items() if name not in ("run", "scores")}

    @classmethod
    def from_record(cls, folder: Path, record: Mapping[str, Any]) -> "TrainResult":
        """Restore a result from its `record`, for a run in a folder.

        Raises:
            RequestError: The record is damaged.
        """
        try:
            return typed(cls, {**record, "run": folder})
        except ValueError as error:
            raise RequestError(f"{folder / RUN_FILE} is damaged (of its result, {error}).") from error
