"""The options of the feature stage."""

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.core.errors import Parameter, RequestError
from pipeline.core.locations import Location
from pipeline.core.machine import usable_cores
from pipeline.core.options import Options, group, option
from pipeline.data.options import MAX_PIXELS

if TYPE_CHECKING:
    from pipeline.features.extractor import Extractor

EngineName = Literal["auto", "keras", "mnn"]
Precision = Literal["float32", "tf32", "bfloat16", "float16", "int8"]
Resize = Literal["squash", "crop", "keras", "squash-bicubic"]
INSTALL_RAY = "pip install 'image-vectors[ray]'"


@dataclass(frozen=True)
class ExtractorOptions(Options):
    """How an image becomes a vector.

    None keeps the setting in a description, such as that of a decoder's extractor, or else the default.
    """

    weights: str | None = option(
        None,
        metavar="imagenet|random[:SEED]|FILE",
        help="Weights of the network.",
        usual="$IMAGE_VECTORS_WEIGHTS, else imagenet",
    )
    layer: str | None = option(
        None,
        metavar="NAME[:pre],...",
        help="The layer whose activation is the feature, by its Keras name; :pre is before the ReLU. Several in one "
        "pass, separated by commas.",
        usual="fc2",
    )
    pool: str | None = option(
        None,
        metavar="mean|max|grid:N|flat",
        help="Pooling of a convolutional layer's positions: their mean, maximum, means of N x N cells, or none.",
        usual="mean",
    )
    project: str | None = option(
        None, metavar="DIM[:SEED]", help="Project each layer to DIM dimensions with a sparse random projection."
    )
    resize: Resize | None = option(
        None,
        help="Squash the whole image, crop its centre, or squash with nearest-pixel sampling like Keras's load_img, or "
        "with a bicubic filter like Caffe pipelines.",
        usual="squash",
    )
    precision: Precision | None = option(
        None,
        help="Precision of the network's arithmetic: bfloat16 is for GPUs and CPUs with AMX; tf32 is float32 with "
        "factors rounded to TF32, on NVIDIA GPUs since Ampere; int8 runs on ONNX Runtime or OpenVINO (extra int8).",
        usual="float32",
    )
    preprocess: Literal["caffe", "torch"] | None = option(
        None,
        help="Preprocessing that the weights were trained with: caffe is BGR minus the ImageNet means, torch is RGB "
        "minus means, over deviations.",
        usual="that of known weights, else torch for files of PyTorch and safetensors, and caffe",
    )
    network: Literal["vgg16", "vgg19"] | None = option(None, help="The network.", usual="vgg16")
    features: Path | None = option(
        None,
        path="table",
        commands=["train", "evaluate", "predict", "rsa"],
        metavar="FILE[:NAME]",
        help="Vectors of another model in place of the network's: a table with a column path, or an array; NAME is a "
        "variable or column. IMAGES are then optional.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        settings = [Parameter(name, value) for name, value in asdict(self).items() if name != "features" and value]
        if self.features and settings:
            commas = [part for setting in settings for part in (", ", setting)][1:]
            raise RequestError(
                Parameter("features", str(self.features)), " takes the place of the network; leave out ", *commas, "."
            )

    def extractors(self) -> "tuple[Extractor, ...]":
        """The default extractor with these settings, for each layer.

        Raises:
            RequestError: See `Extractor`, `check_one_pass` and `weights_from`.
        """
        from pipeline.features.weights import default_weights

        return self.applied_to(default_weights(), {})

    def applied_to(self, weights: str, description: Mapping[str, str]) -> "tuple[Extractor, ...]":
        """The extractors of a description with these settings, for each layer.

        Args:
            weights: The weights that these settings may replace; see `weights_from`.
            description: The description of one or several extractors; see `describe`.

        Raises:
            RequestError: See `Extractor`, `check_one_pass` and `weights_from`.
        """
        from pipeline.features.extractor import described_network, described_settings, extractors_for
        from pipeline.features.weights import weights_from

        settings = {name: value for name, value in asdict(self).items() if value is not None}
        changes = {name: value for name, value in settings.items() if name not in ("weights", "features")}
        network = {name: changes.pop(name) for name in ("network", "preprocess") if name in changes}
        source = weights_from(self.weights or weights, **described_network(description) | network)
        return extractors_for(source, **described_settings(description) | changes)


@dataclass(frozen=True)
class RayOptions(Options):
    """Where Ray runs, and the resources of its actors.

    Attributes:
        address: "local" starts Ray on this machine; "auto" joins the cluster of this machine, or of the
            environment variable RAY_ADDRESS.
    """

    address: str = option(
        None,
        flag="--ray",
        metavar="auto|local",
        help="Compute on Ray: on the cluster that this machine belongs to, or on one that is started here (extra ray).",
        kept=False,
    )
    actors: int | None = option(
        None, least=1, metavar="N", help="Actors that compute on Ray.", usual="one per node, or per GPU", kept=False
    )
    gpus_each: float = option(0, least=0, metavar="X", help="GPUs of an actor on Ray.", kept=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.address is None:
            name = "gpus_each" if self.actors is None else "actors"
            raise RequestError(
                Parameter(name, getattr(self, name)),
                " is for actors on Ray; it needs ",
                Parameter("ray", "auto"),
                " or ",
                Parameter("ray", "local"),
                ".",
            )
        address = self.address if self.address != "auto" else os.environ.get("RAY_ADDRESS", "")
        if "://" in address:
            raise RequestError(
                f"{address}: extraction does not run through Ray's client, whose connection all results would "
                "have to take. Submit it as a job: ray job submit --address http://HOST:8265 -- "
                "python -m pipeline extract ... --ray auto."
            )
        if self.address not in ("auto", "local"):
            raise RequestError(f"ray {self.address!r} is neither 'auto' nor 'local'.")
        if self.gpus_each > 1 and self.gpus_each != int(self.gpus_each):
            raise RequestError(f"gpus_each is a share of a GPU or a whole number of them, not {self.gpus_each}.")
        if not (find_spec("ray") and find_spec("pandas")):  # Ray Data needs pandas, which Ray alone does not install
            raise RequestError(
                Parameter("ray", self.address), f" needs Ray with Ray Data, which is not installed: {INSTALL_RAY}."
            )


def _cache_location(text: str) -> Location:
    from pipeline.features.cache import cache_location

    return cache_location(text)


def cache_option() -> Any:
    """The option `--cache`: a folder or the URL of a bucket."""
    return option(
        None,
        path="folder",
        parse=_cache_location,
        metavar="DIR|URL",
        help="Folder of the feature stores, or its URL in a bucket: s3://, gs:// or az://.",
        usual="the user's cache folder",
        kept=False,
    )


def _devices(text: str) -> str:
    """Devices by Keras's names, separated by commas; PyTorch's "cuda" becomes "gpu".

    Raises:
        RequestError: A name is not that of a device, or the devices are of different kinds.
    """
    names = [name.strip().lower().replace("cuda", "gpu") for name in text.split(",")]
    if wrong := [name for name in names if not re.fullmatch(r"(cpu|gpu|tpu)(:\d+)?", name)]:
        raise RequestError(f"device {wrong[0]!r} is unknown; choose cpu, gpu, or some GPUs, such as gpu:0,gpu:1.")
    if len({name.partition(":")[0] for name in names}) > 1:  # vectors would depend on which device was free
        raise RequestError(f"device {text!r} names devices of different kinds; choose one kind.")
    return ",".join(names)


@dataclass(frozen=True)
class ExtractionOptions(Options):
    """How the feature stage runs.

    No option changes the features beyond rounding.
    """

    engine: EngineName = option(
        "auto", help="What runs the network: mnn is fast on CPUs, keras runs on GPUs; auto chooses."
    )
    device: str | None = option(
        None,
        parse=_devices,
        metavar="cpu|gpu|gpu:N,...",
        help="Devices of the Keras engine: the processor, all GPUs, or some of them.",
        usual="all GPUs, or else cpu",
    )
    batch_size: int | None = option(None, least=1, metavar="N", help="Images in a batch.", usual="the engine's choice")
    workers: int | None = option(
        None, least=1, metavar="N", help="Processes that read images.", usual="one per core", kept=False
    )
    cache: Location | Path | str = cache_option()
    progress: bool = option(True, flag="--quiet", help="Show warnings and errors only.", kept=False)
    max_pixels: int = option(MAX_PIXELS, least=1, metavar="N", help="Skip images with more than N pixels.")
    verify: bool = option(
        False, commands=["extract"], help="Check all stored vectors, and compute damaged ones again.", kept=False
    )
    ray: RayOptions | None = group(RayOptions, optional=True, commands=["extract"])

    def __post_init__(self) -> None:
        from pipeline.features.cache import cache_location, usual_folder

        super().__post_init__()
        object.__setattr__(self, "cache", cache_location(usual_folder() if self.cache is None else self.cache))

    @property
    def folder(self) -> Path:
        """The folder of converted networks and the file index."""
        from pipeline.features.cache import local_folder

        return local_folder(self.cache)

    @property
    def worker_count(self) -> int:
        """The number of processes that read and decode."""
        return self.workers or usable_cores()


def check_features(extractor: ExtractorOptions, extraction: ExtractionOptions) -> None:
    """Refuse options of the network if vectors replace it.

    Raises:
        RequestError: The engine, the device or the batch size is set, although no network runs.
    """
    values = {name: getattr(extraction, name) for name in ("engine", "device", "batch_size")}
    named = [Parameter(name, value) for name, value in values.items() if value not in ("auto", None)]
    if extractor.features and named:
        raise RequestError(
            Parameter("features", str(extractor.features)), " takes the place of the network; leave out ", named[0], "."
        )
