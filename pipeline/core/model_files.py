"""Decoders on disk: `.keras` files that plain Keras can load.

The archive has one additional member, `pipeline.json`: the model card. It records which features the decoder was
trained on, so that features of another extractor can be refused even without the run.
"""

import hashlib
import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.archives import check_members
from pipeline.core.atomic import atomic_write
from pipeline.core.errors import Parameter, RequestError, first_line
from pipeline.core.hdf5_files import check_contained
from pipeline.core.json_values import parse_json, typed
from pipeline.core.keras_backend import import_keras
from pipeline.core.regular_files import open_regular

CARD = "pipeline.json"
HDF5 = b"\x89HDF\r\n\x1a\n"  # the file signature
FORMAT = 2  # 1: before cards had a format number
LARGEST_FORMAT = 1000
LARGEST_DIM = 10**7
LARGEST_CONFIG = 2**26  # bytes of JSON
CONFIG, WEIGHTS = "config.json", "model.weights.h5"  # members written by Keras
LAYERS = ("InputLayer", "Normalization", "Dense")  # the layer types of decoders
SETTINGS = ("batch_shape", "axis", "invert", "mean", "variance", "units", "activation", "use_bias")  # of these layers


@dataclass(frozen=True)
class ModelCard:
    """The description of a decoder in its file.

    Attributes:
        weights: The `weights` option of its features; "" for the vectors of a table.
        fingerprint: The fingerprint of the extractor's description.
        extractor: The extractor's description; for a table of vectors, its name as "table" and digest as "vectors".
        feature_dim: F, the dimension of the features.
        target_dim: D, the dimension of the embeddings.
        output_activation: The activation of the output, which determines the output ceiling.
        scales: The divisor of the features of each layer if there are several; empty for one layer.
    """

    weights: str
    fingerprint: str
    extractor: Mapping[str, str]
    feature_dim: int
    target_dim: int
    output_activation: str
    scales: Sequence[float] = ()

    def to_json(self) -> dict[str, Any]:
        """The card as JSON values, with its format number."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, card: Mapping[str, Any], file: Path) -> "ModelCard":
        """Parse the output of `to_json`; `file` is named in messages.

        Raises:
            RequestError: The card has another format.
            ValueError: A value has the wrong type or is out of range.
        """
        check_format(card.get("format", 1), FORMAT, f"The model card of {file}")
        parsed = typed(cls, {name: value for name, value in card.items() if name != "format"})
        parsed = replace(parsed, scales=tuple(parsed.scales))
        if not (0 < parsed.feature_dim <= LARGEST_DIM and 0 < parsed.target_dim <= LARGEST_DIM):
            raise ValueError(f"it has dimensions {parsed.feature_dim} and {parsed.target_dim}")
        if not all(0 < scale < math.inf for scale in parsed.scales):
            raise ValueError("its scales are not positive")
        if parsed.table is None and (missing := {"layer", "precision"} - set(parsed.extractor)):
            raise ValueError(f"its extractor has no {min(missing)!r}")
        return parsed

    @property
    def table(self) -> str | None:
        """The name of the table of vectors that the decoder was trained on; None if a network computed its features."""
        return self.extractor.get("table")

    def check_features(self, file: Path, description: Mapping[str, str], dim: int) -> None:
        """Refuse features of another extractor, and vectors of another dimension.

        Args:
            file: The model file, for the message.
            description: The description of the extractor of the features, or of a table.
            dim: F, their dimension.

        Raises:
            RequestError: The features differ from those the decoder was trained on; the message says how.
        """
        if self.table is not None or "table" in description:
            self._check_vectors(file, description.get("table"), dim)
            return
        differences = [
            f"{name}: trained on {_setting(self.extractor, name)}, given {_setting(description, name)}"
            for name in {**self.extractor, **description}
            if description.get(name) != self.extractor.get(name)
        ]
        options = "".join(
            f", {name} {self.extractor[name]!r}" for name in ("pool", "project") if name in self.extractor
        )
        if differences:
            raise RequestError(
                f"{file} does not fit these features: {'; '.join(differences)}. "
                f"It needs weights {self.weights!r}, layer {self.extractor['layer']!r}{options} "
                f"and precision {self.extractor['precision']!r}."
            )

    def _check_vectors(self, file: Path, table: str | None, dim: int) -> None:
        """Refuse a network's features for a decoder of a table's vectors, the reverse, and another dimension."""
        features = Parameter("features", "FILE")
        if table is None:
            raise RequestError(
                f"{file} was trained on the vectors in {self.table} ({self.feature_dim} numbers each), which are not "
                "a network's features of images; name vectors of the same model with ",
                features,
                ".",
            )
        if self.table is None:
            raise RequestError(
                f"{file} was trained on features that a network computes from images; name IMAGES, without ",
                features,
                ".",
            )
        if dim != self.feature_dim:
            raise RequestError(
                f"{file} was trained on vectors of {self.feature_dim} numbers (in {self.table}); those in {table} have "
                f"{dim}."
            )


def _setting(description: Mapping[str, str], name: str) -> str:
    return repr(description[name]) if name in description else "the default"


def check_format(number: object, expected: int, what: str) -> None:
    """Refuse a file written by another version of this program.

    Args:
        number: The format number in the file.
        expected: The format number that this version reads.
        what: The file, for the message.

    Raises:
        RequestError: The format numbers differ; the message says which is older.
    """
    if type(number) is not int or not 0 < number < LARGEST_FORMAT:
        raise RequestError(f"{what} is damaged (its format is no number of a version).")
    if number != expected:
        age = "an older" if number < expected else "a newer"
        raise RequestError(
            f"{what} has format {number}, written by {age} version; this version reads format {expected}. "
            "Retrain, or use the version that wrote it."
        )


def save_decoder(model: Any, file: Path, card: ModelCard) -> None:
    """Save a decoder and its card atomically as a `.keras` file.

    Raises:
        PipelineError: The file cannot be written.
    """
    with atomic_write(file) as unfinished:
        model.save(unfinished)
        with zipfile.ZipFile(unfinished, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(CARD, json.dumps(card.to_json(), indent=2))


def read_card(file: Path) -> ModelCard:
    """Read the card of a decoder file without loading the model.

    Raises:
        RequestError: The file does not exist, or is not a decoder saved by this pipeline.
    """
    if not file.is_file():
        raise RequestError(f"{file}: no such model. Name the folder of a run or a .keras file in one.")
    try:
        with zipfile.ZipFile(file) as archive:
            return ModelCard.from_json(parse_json(_member(archive, CARD)), file)
    except RequestError:
        raise
    except KeyError as error:
        raise RequestError(
            f"{file} does not say what features it was trained on (it has no {CARD}); only models that "
            "`python -m pipeline train` saved can be used."
        ) from error
    except Exception as error:  # zipfile raises many types for damaged files
        raise RequestError(f"{file} is damaged or not a .keras file ({first_line(error)}).") from error


def is_decoder(file: Path) -> bool:
    """Whether a file is a decoder saved by `train`; False for any other Keras model, such as an exported one.

    Raises:
        RequestError: The file does not exist, or is not a `.keras` file.
    """
    if not file.is_file():
        raise RequestError(f"{file}: no such model. Name the folder of a run or a .keras file.")
    try:
        with zipfile.ZipFile(file) as archive:
            # The card of an exported model has the key "decoder".
            return CARD in archive.namelist() and "decoder" not in parse_json(_member(archive, CARD))
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        if _starts_with(file, HDF5):
            raise RequestError(
                f"{file} is a model in Keras's legacy HDF5 format; convert it once with "
                f'keras.models.load_model("{file.name}", compile=False).save("{file.stem}.keras").'
            ) from error
        raise RequestError(f"{file} is damaged or not a .keras file ({first_line(error)}).") from error


def _starts_with(file: Path, start: bytes) -> bool:
    with open(file, "rb") as stream:
        return stream.read(len(start)) == start


def load_decoder(file: Path) -> Any:
    """Load a decoder in Keras's safe mode, which runs no code from the file.

    Returns:
        The `keras.Model` from (N, F) to (N, D); its weights are finite.

    Raises:
        RequestError: The file is damaged, needs custom code or more memory than its size, or its model does not match
            its card.
    """
    keras = import_keras()
    try:
        _check_archive(file)
        model = keras.saving.load_model(file, compile=False, safe_mode=True)
        card = read_card(file)
        _check_model(model, card, keras)
    except RequestError:
        raise
    except Exception as error:  # Keras raises many types for damaged files
        raise RequestError(f"{file} cannot be loaded ({first_line(error)}).") from error
    return model


def find_equal(files: Mapping[str, Path]) -> dict[str, str]:
    """Find decoders with the same layers and bit-identical weights, whatever the layers' names and the API style.

    Args:
        files: Name -> a decoder file.

    Returns:
        Name -> the first name with an equal decoder, perhaps itself. A file that cannot be read equals no other.
    """
    firsts: dict[object, str] = {}
    digests = {name: _digest(file) or name for name, file in files.items()} if len(files) > 1 else dict(files)
    return {name: firsts.setdefault(digest, name) for name, digest in digests.items()}


def _digest(file: Path) -> bytes | None:
    """A hash of everything that a decoder's predictions depend on; None if the file cannot be read."""
    import h5py

    try:
        _check_archive(file)
        with zipfile.ZipFile(file) as archive, archive.open(WEIGHTS) as stream, h5py.File(stream, "r") as root:
            layers = parse_json(_member(archive, CONFIG))["config"]["layers"]
            config = [[layer["class_name"], *map(layer["config"].get, SETTINGS)] for layer in layers]
            scales = parse_json(_member(archive, CARD))["scales"]
            digest = hashlib.blake2b(json.dumps([config, scales]).encode())
            root["layers"].visititems(
                lambda name, item: digest.update(item[()].tobytes()) if isinstance(item, h5py.Dataset) else None
            )
        return digest.digest()
    except Exception:  # as in `load_decoder`
        return None


def load_model(file: Path) -> Any:
    """Load any Keras model in Keras's safe mode, which runs no code from the file.

    Unlike a decoder's layers, its layers may need more memory than the file has bytes.

    Raises:
        RequestError: The file is damaged, or needs custom code.
    """
    import h5py

    keras = import_keras()
    try:
        with open_regular(file) as content, zipfile.ZipFile(content) as archive:
            check_members(archive, file)
            with archive.open(WEIGHTS) as stream, h5py.File(stream, "r") as root:
                check_contained(root, archive.getinfo(WEIGHTS).file_size)
        return keras.saving.load_model(file, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises many types for damaged files
        reason = first_line(error)
        if "unsafe_deserialization" in reason:  # Keras's message advises running the code
            reason = "a Lambda layer in it would run code; build it of other layers"
        raise RequestError(f"{file} cannot be loaded ({reason}).") from error


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    """The content of a JSON member.

    Raises:
        KeyError: There is no such member.
        ValueError: It is larger than any member that this pipeline writes.
    """
    if archive.getinfo(name).file_size > LARGEST_CONFIG:
        raise ValueError(f"{name} is too large")
    return archive.read(name)


def _check_archive(file: Path) -> None:
    """Refuse a model that needs far more memory than the file has bytes, before Keras allocates it.

    Raises:
        ValueError: Members, layers or arrays declare too much, or the layers are not those of a decoder.
    """
    import h5py

    with open_regular(file) as content, zipfile.ZipFile(content) as archive:
        check_members(archive, file)
        needed, size = 4 * _weight_count(parse_json(_member(archive, CONFIG))), archive.getinfo(WEIGHTS).file_size
        if needed > size:
            raise ValueError(f"its layers need {needed:,} bytes of weights, and it has {size:,}")
        with archive.open(WEIGHTS) as stream, h5py.File(stream, "r") as root:
            check_contained(root, size)


@dataclass(frozen=True)
class _BuildConfig:
    """The shape that Keras builds a layer with, before it reads the weights."""

    input_shape: tuple[None, int]


def _weight_count(config: Mapping[str, Any]) -> int:
    """An upper bound of the number of weights in the Dense layers of a model's configuration.

    Raises:
        ValueError: The configuration is not a stack of LAYERS.
    """
    layers = typed(Sequence[Mapping[str, Any]], typed(Mapping[str, Any], config.get("config")).get("layers"), "layers")
    units, inputs = [], []
    for layer in layers:
        kind, settings = layer.get("class_name"), typed(Mapping[str, Any], layer.get("config"), "config")
        if layer.get("module") != "keras.layers" or kind not in LAYERS:
            raise ValueError(f"its layer {kind!s:.40} is not one of a decoder")
        build = typed(_BuildConfig | None, layer.get("build_config"), "build_config")
        shape = settings.get("batch_shape") if kind == "InputLayer" else build and build.input_shape
        inputs.append(typed(tuple[None, int], list(shape), "shape")[1] if shape else None)
        units.append(typed(int, settings.get("units"), "units") if kind == "Dense" else 0)  # Keras refuses Dense(0)
    sizes = [size for size in (*filter(None, units), *inputs) if size is not None]
    if any(not 0 < size <= LARGEST_DIM for size in sizes):
        raise ValueError("a layer has no possible size")
    widest = max(sizes, default=0)
    return sum(count * ((size or widest) + 1) for count, size in zip(units, inputs, strict=True))


def _check_model(model: Any, card: ModelCard, keras: Any) -> None:
    """Refuse a model whose shapes differ from its card, or whose weights or output are not finite float32 numbers.

    Raises:
        ValueError: The shapes differ, or weights or output are not finite.
    """
    shapes = model.input_shape, model.output_shape
    if shapes != ((None, card.feature_dim), (None, card.target_dim)):
        raise ValueError(f"its card does not fit its shapes, {shapes[0]} and {shapes[1]}")
    if not all(np.isfinite(weight).all() for weight in model.get_weights()):
        raise ValueError("its weights are not finite numbers")
    output = keras.ops.convert_to_numpy(model(np.ones((1, card.feature_dim), np.float32)))
    if output.dtype != np.float32 or not np.isfinite(output).all():
        raise ValueError("its answers are not finite numbers")
