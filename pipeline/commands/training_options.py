"""The options of training: the examples, the decoder, and cross-validation."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.core.errors import Parameter, RequestError
from pipeline.core.options import Options, group, option
from pipeline.data.options import SourceOptions, TargetOptions
from pipeline.decoders.options import MEMORY, DecoderOptions
from pipeline.features.options import ExtractionOptions, ExtractorOptions, check_features

if TYPE_CHECKING:
    from pipeline.data.splits import SplitRule
    from pipeline.decoders.network import ApiStyle

FEWEST_PERMUTATIONS = 20  # with fewer, no p-value is below 0.05
SMALLEST_MEMORY = 64 * 2**20  # bytes


def _parse_memory(text: str) -> int:
    """Parse an amount of memory such as 512MB or 4GB; returns bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?", text.strip(), re.IGNORECASE)
    size = int(float(match[1]) * 1024 ** " KMGT".index(match[2].upper() or " ")) if match else 0
    if size < SMALLEST_MEMORY:
        raise ValueError(f"{text!r} is not a size of at least 64MB, such as 512MB or 4GB.")
    return size


def images_argument(**settings: Any) -> Any:
    """The argument IMAGES."""
    return option(**settings, argument=True)


def cluster_option() -> Any:
    """What intervals generalize over."""
    return option(
        None,
        help="What intervals generalize over.",
        usual="groups, else labels with a common target, else images",
    )


def check_scores(file: Path | None) -> None:
    """Refuse a file of scores that cannot be written.

    Raises:
        RequestError: It has another suffix, or no file can be created there.
    """
    from pipeline.core.atomic import check_output_file

    if file:
        check_output_file(file, (".parquet", ".csv"), "scores")


def scores_option() -> Any:
    """Where to write every score; see `check_scores`."""
    return option(
        None,
        path="output",
        metavar="FILE",
        kept=False,
        help="Also write the scores of every image and every dimension to a .parquet or .csv file.",
    )


@dataclass(frozen=True)
class ExampleOptions(Options):
    """Images with targets, and their split."""

    images: str | None = images_argument(default=None)
    split: str = option(
        "random",
        metavar="RULE",
        help="Which images to hold out: random, group or classes, with :SHARE (0.2 by default); or column.",
    )
    seed: int = option(0, commands=["train"], least=0, most=2**31 - 1, metavar="N", help="Random seed.")
    targets: TargetOptions = group(TargetOptions)
    sources: SourceOptions = group(SourceOptions)

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.rule  # checks it

    @property
    def rule(self) -> "SplitRule":
        """The split rule."""
        from pipeline.data.splits import SplitRule

        return SplitRule.parse(self.split)


@dataclass(frozen=True)
class FoldOptions(Options):
    """Cross-validation."""

    folds: int = option(
        None, least=2, metavar="N", help="Cross-validate: hold out every image once, then train on all of them."
    )
    repeats: int = option(1, least=1, metavar="N", help="Repeats of the folds.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.folds is None:
            raise RequestError(
                "repeats is the number of times that folds are repeated; it needs ", Parameter("folds", "N"), "."
            )


@dataclass(frozen=True)
class TrainOptions(Options):
    """What to train, and how."""

    api: Literal["both", "functional", "sequential"] = option(
        "both", help="The Keras API style to build the decoder in."
    )
    cluster: Literal["group", "label", "image"] | None = cluster_option()
    memory: int = option(
        MEMORY,
        parse=_parse_memory,
        metavar="SIZE",
        help="Memory for features (more are streamed from disk), and for a blend or banded ridge regression.",
        usual="4GB",
    )
    compare_layers: bool = option(
        False, help="Train on each layer by itself, and keep the one that is best on training images."
    )
    permutations: int | None = option(
        None,
        least=FEWEST_PERMUTATIONS,
        metavar="N",
        help="Test whether ridge regression learns anything, by training it again on N permutations of the targets.",
    )
    refits: int | None = option(
        None,
        least=2,
        metavar="N",
        help="Measure how much the score moves, by N refits with other seeds and N to halves of the training images.",
    )
    learning_curve: bool = option(
        False, help="Also train on parts of the training images, to see whether more images help."
    )
    tensorboard: bool = option(False, help="Write learning curves for TensorBoard into models/RUN/logs.")
    scores: Path | None = scores_option()
    models: Path = option(Path("models"), path="folder", help="Folder to save the run in.", kept=False)
    name: str | None = option(None, metavar="NAME", help="Name of the run.", usual="the local time", kept=False)
    examples: ExampleOptions = group(ExampleOptions)
    decoder: DecoderOptions = group(DecoderOptions)
    folds: FoldOptions | None = group(FoldOptions, optional=True)
    extractor: ExtractorOptions = group(ExtractorOptions)
    extraction: ExtractionOptions = group(ExtractionOptions)

    def __post_init__(self) -> None:
        from pipeline.core.runs import check_run_name
        from pipeline.decoders.callbacks import require_tensorboard

        super().__post_init__()
        check_features(self.extractor, self.extraction)
        check_scores(self.scores)
        if self.name:
            check_run_name(self.models, self.name)
        if self.tensorboard and not self.decoder.is_network:
            network = Parameter("preset", "network")
            raise RequestError("tensorboard shows the curves of a single network; choose ", network, " with it.")
        if self.tensorboard:
            require_tensorboard()
        if self.decoder.preset == "banded":
            from pipeline.decoders.banded import require_himalaya

            require_himalaya()
        if self.compare_layers:
            self._check_layers()
        if self.folds and self.refits:
            raise RequestError(
                "refits are scored on one set of held-out images; folds show how much the score moves with ",
                Parameter("repeats", "N"),
                ".",
            )
        if self.folds and self.learning_curve:
            curve = Parameter("learning_curve", True)
            raise RequestError(curve, " scores all parts on one set of held-out images; leave out the folds.")
        if self.folds and self.decoder.keeps_best:
            last = Parameter("keep", "last")
            raise RequestError("folds hold out all images in turn and leave none to choose an epoch; use ", last, ".")
        if self.folds and self.examples.rule.fraction is not None:
            raise RequestError(
                f"{self.folds.folds} folds hold out a share of 1/{self.folds.folds} each; leave out the share of ",
                Parameter("split", str(self.examples.rule)),
                ", or the folds.",
            )

    def _check_layers(self) -> None:
        """Check that layers can be compared."""
        compare = Parameter("compare_layers", True)
        if len((self.extractor.layer or "").split(",")) < 2:
            raise RequestError(compare, " needs several layers: ", Parameter("layer", "NAME,NAME"), ".")
        if self.decoder.is_network or self.decoder.preset != "default":
            default = Parameter("preset", "default")
            raise RequestError(compare, " chooses by out-of-fold predictions, which only ", default, " makes.")
        if self.folds:
            raise RequestError(compare, " scores all layers on one set of held-out images; leave out the folds.")

    @property
    def styles(self) -> "tuple[ApiStyle, ...]":
        """The API styles to build the decoder in."""
        return ("functional", "sequential") if self.api == "both" else (self.api,)
