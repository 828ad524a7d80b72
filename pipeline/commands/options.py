"""The options of the commands."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.commands.training_options import (
    FEWEST_PERMUTATIONS,
    ExampleOptions,
    check_scores,
    cluster_option,
    images_argument,
    scores_option,
)
from pipeline.core.errors import Parameter, RequestError
from pipeline.core.locations import Location
from pipeline.core.options import Options, group, option
from pipeline.data.options import SourceOptions, TargetOptions
from pipeline.features.options import ExtractionOptions, ExtractorOptions, cache_option, check_features

INDEXED_ABOVE = 1_000_000  # images; up to this number, search is exact
TABLES = ("parquet", "lance")  # formats of `export` that are not models
DecoderName = Literal["functional", "sequential", "ridge"]


def _api() -> Any:
    return option(
        None,
        help="Which decoder of the run: an API style, or its ridge regression.",
        usual="functional, else sequential",
    )


@dataclass(frozen=True)
class ExtractOptions(Options):
    """What to extract."""

    images: str = images_argument()
    out: Path | None = option(
        None, path="output", help="Also write the vectors to a .npz, .npy, .parquet, .csv, .h5 or .mat file."
    )
    shard: str | None = option(
        None,
        metavar="N/COUNT",
        help="Compute only a fixed share of IMAGES: 3/16 is the third of sixteen.",
    )
    sources: SourceOptions = group(SourceOptions)
    extractor: ExtractorOptions = group(ExtractorOptions)
    extraction: ExtractionOptions = group(ExtractionOptions)


@dataclass(frozen=True)
class EvaluateOptions(Options):
    """What to evaluate, and on which images."""

    models: tuple[str, ...] = option(argument=True, metavar="RUN|MODEL...")
    images: str | None = option(
        None, metavar="IMAGES", help="Images to evaluate on.", usual="those that the run held out"
    )
    report: Path | None = option(
        None,
        path="output",
        metavar="FILE.html",
        help="Where to write the report.",
        usual="models/RUN/evaluation.html",
    )
    scores: Path | None = scores_option()
    vocabulary: Path | None = option(
        None, path="file", help="Word vectors that are candidates for retrieval, in addition to the targets."
    )
    cluster: Literal["group", "label", "image"] | None = cluster_option()
    shuffled: bool = option(False, help="Add a baseline: a decoder trained on shuffled targets.")
    permutations: int | None = option(
        None,
        least=FEWEST_PERMUTATIONS,
        metavar="N",
        help="Test whether scores are above chance, with N permutations of the targets; 1000 is usual.",
    )
    targets: TargetOptions = group(TargetOptions)
    sources: SourceOptions = group(SourceOptions)
    extractor: ExtractorOptions = group(ExtractorOptions)
    extraction: ExtractionOptions = group(ExtractionOptions)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_features(self.extractor, self.extraction)
        check_scores(self.scores)

    @property
    def has_own_images(self) -> bool:
        """Whether to evaluate on images or vectors other than those that the run held out."""
        return self.images is not None or self.extractor.features is not None


@dataclass(frozen=True)
class PredictOptions(Options):
    """What to predict, from which images, and with which decoder."""

    model: Path = option(argument=True, metavar="RUN|MODEL")
    out: Path = option(
        path="output", help="Where to write the embeddings: a .npz, .npy, .parquet, .csv, .h5 or .mat file."
    )
    images: str | None = images_argument(default=None)
    api: DecoderName | None = _api()
    nearest: int | None = option(
        None, least=1, metavar="K", help="Also find the K nearest words or labels of each image."
    )
    vocabulary: Path | None = option(
        None, path="file", help="Word vectors to find them among.", usual="the labels of the run's targets"
    )
    sources: SourceOptions = group(SourceOptions)
    extractor: ExtractorOptions = group(ExtractorOptions)
    extraction: ExtractionOptions = group(ExtractionOptions)

    def __post_init__(self) -> None:
        from pipeline.core.atomic import check_output_file
        from pipeline.core.vector_files import SUFFIXES

        super().__post_init__()
        check_features(self.extractor, self.extraction)
        if (self.images is None) == (self.extractor.features is None):
            either = "Name either IMAGES, or a table of vectors with "
            raise RequestError(either, Parameter("features", "FILE"), ".")
        check_output_file(self.out, SUFFIXES, "out")
        if self.vocabulary and self.nearest is None:
            count = Parameter("nearest", "K")
            raise RequestError("vocabulary is where the nearest words are looked for; say how many with ", count, ".")
        if self.nearest and self.out.suffix.lower() == ".npy":
            raise RequestError(f"out {self.out}: a .npy cannot store the nearest names; choose another format.")


@dataclass(frozen=True)
class SearchOptions(Options):
    """What to search for, and where.

    Attributes:
        index_above: The number of images up to which the search stays exact.
    """

    images: str = images_argument()
    query: str = option(metavar="IMAGE|WORD|FILE.npy", help="What to look for.")
    k: int = option(10, flag="-k", least=1, metavar="K", help="How many images to find.")
    space: Literal["features", "embeddings"] | None = option(
        None, help="Whose cosines count.", usual="embeddings with --model, else features"
    )
    model: Path | None = option(None, metavar="RUN|MODEL", help="The decoder that predicts the embeddings.")
    vocabulary: Path | None = option(
        None, path="file", help="Word vectors that have the word.", usual="the labels of the run's targets"
    )
    index: bool = option(
        False, help="Above a million images, search features by an index, which is built once and may miss some."
    )
    index_above: int = INDEXED_ABOVE
    report: Path | None = option(None, path="output", metavar="FILE.html", help="Also write a page of thumbnails.")
    sources: SourceOptions = group(SourceOptions)
    extractor: ExtractorOptions = group(ExtractorOptions)
    extraction: ExtractionOptions = group(ExtractionOptions)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.space == "embeddings" and self.model is None:
            raise RequestError("Embeddings are those of a model; name it with ", Parameter("model", "RUN"), ".")
        if self.index and self.in_space == "embeddings":
            raise RequestError(
                Parameter("index", True),
                " is for features; embeddings are predicted while they are searched. Leave it out, or search with ",
                Parameter("space", "features"),
                ".",
            )
        if self.is_word and self.in_space == "features":
            raise RequestError(
                f"The query {self.query!r} is not a file. To search for a word, name a model with ",
                Parameter("model", "RUN"),
                *((", without ", Parameter("space", "features")) if self.space else ()),
                ".",
            )
        if self.vocabulary and not self.is_word:
            raise RequestError("vocabulary is where a word is looked up; the query is a file.")

    @property
    def in_space(self) -> Literal["features", "embeddings"]:
        """The space of the cosines."""
        return self.space or ("embeddings" if self.model else "features")

    @property
    def is_image(self) -> bool:
        """Whether the query is an image."""
        from pipeline.data.image_names import SUFFIXES

        return Path(self.query).suffix.lower() in SUFFIXES

    @property
    def is_word(self) -> bool:
        """Whether the query is a word."""
        return not self.is_image and Path(self.query).suffix.lower() != ".npy"


@dataclass(frozen=True)
class RsaOptions(Options):
    """What to compare, and how."""

    images: str | None = images_argument(default=None)
    dissimilarity: Literal["correlation", "cosine", "euclidean", "crossnobis"] = option(
        "correlation", help="The dissimilarity of two conditions; crossnobis needs repeated targets (--noise-ceiling)."
    )
    method: Literal["rho-a", "spearman", "corr", "cosine", "tau-a"] = option(
        "rho-a", help="How two dissimilarity matrices are compared."
    )
    model: str | None = option(None, metavar="RUN|MODEL", help="Also compare the predictions of a decoder.")
    bootstraps: int = option(1000, least=100, metavar="N", help="Bootstrap samples of conditions for the intervals.")
    seed: int = option(0, least=0, most=2**31 - 1, metavar="N", help="Random seed of the bootstrap.")
    report: Path | None = option(None, path="output", metavar="FILE.html", help="Also write a page with the matrices.")
    targets: TargetOptions = group(TargetOptions)
    sources: SourceOptions = group(SourceOptions)
    extractor: ExtractorOptions = group(ExtractorOptions)
    extraction: ExtractionOptions = group(ExtractionOptions)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_features(self.extractor, self.extraction)
        if self.model and self.extractor.features:
            raise RequestError("Predictions from a table of vectors are not compared; leave out the model.")


@dataclass(frozen=True)
class CompareOptions(Options):
    """The study, on your own data if images and targets are named."""

    seeds: int = option(3, least=1, metavar="N", help="Number of random seeds.")
    epochs: int = option(2000, least=1, metavar="N", help="Epochs of each training.")
    plot: Path | None = option(None, path="output", help="Plot the learning curves to a .png, .svg or .pdf file.")
    examples: ExampleOptions = group(ExampleOptions)
    extractor: ExtractorOptions = group(ExtractorOptions)
    extraction: ExtractionOptions = group(ExtractionOptions)


@dataclass(frozen=True)
class ExportOptions(Options):
    """What to export, and where to."""

    source: str = option(argument=True, metavar="RUN|MODEL|IMAGES")
    format: Literal["savedmodel", "keras", "onnx", "litert", "parquet", "lance"] = option(
        help="savedmodel: a folder for TensorFlow and TensorFlow Serving; keras: a file for plain Keras; "
        "onnx: an .onnx file for ONNX Runtime; litert: a .tflite file for LiteRT (TensorFlow Lite); "
        "parquet: a table of the run's images, vectors and predictions; lance: a table of IMAGES and their vectors, "
        "for LanceDB.",
    )
    out: Path = option(path="output", metavar="PATH", help="Where to write it.")
    api: DecoderName | None = _api()
    images: str | None = option(
        None, metavar="IMAGES", help="Images to check the exported model on.", usual="those of the run"
    )
    sources: SourceOptions = group(SourceOptions)
    extractor: ExtractorOptions = group(ExtractorOptions)
    extraction: ExtractionOptions = group(ExtractionOptions)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.format != "lance":
            self._refuse(asdict(self.extractor), "the features are those that the decoder was trained on")
        if self.format == "parquet":
            self._refuse({"images": self.images, "root": self.sources.root}, "the images are the run's")
        if self.format == "lance":
            self._refuse({"api": self.api, "images": self.images}, "it takes IMAGES in place of a run")

    def _refuse(self, options: Mapping[str, Any], why: str) -> None:
        """Reject options that do not apply to the format."""
        named = [Parameter(name, value) for name, value in options.items() if value is not None]
        if named:
            commas = [part for parameter in named for part in (", ", parameter)][1:]
            raise RequestError(Parameter("format", self.format), " does not take ", *commas, f": {why}.")


@dataclass(frozen=True)
class ModelsOptions(Options):
    """Which runs to list."""

    folder: Path = option(Path("models"), argument=True)


@dataclass(frozen=True)
class CacheOptions(Options):
    """Which cache to list, prune or merge into."""

    cache: Location | Path | str | None = cache_option()

    @property
    def folder(self) -> Location | Path | str:
        """The cache; by default, the user's."""
        from pipeline.features.cache import usual_folder

        return self.cache or usual_folder()


@dataclass(frozen=True)
class PruneOptions(CacheOptions):
    """What to remove from a cache."""

    older_than: float | None = option(
        None, least=0, metavar="DAYS", help="Remove stores and networks not used for DAYS days."
    )
    images: str | None = option(
        None, flag="--not-in", metavar="IMAGES", help="Remove the features of all images but these."
    )
    set_aside: bool = option(False, help="Remove damaged stores that were set aside, with all that they hold.")
    sources: SourceOptions = group(SourceOptions)


@dataclass(frozen=True, kw_only=True)
class MergeOptions(CacheOptions):
    """Which caches to merge into one."""

    sources: tuple[str, ...] = option(argument=True, metavar="CACHE...")
