"""Decoders on disk: plain `.keras` files that plain Keras loads.

The archive holds one member more, the model card in `pipeline.json`, which says what features the decoder was trained
on, so that a model alone can refuse features that are not its own.
"""

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.core.atomic import atomic_write
from pipeline.core.errors import RequestError, first_line
from pipeline.core.keras_backend import import_keras

CARD = "pipeline.json"
HDF5 = b"\x89HDF\r\n\x1a\n"  # how a file begins
FORMAT = 2  # 1: before cards had a format number


@dataclass(frozen=True)
class ModelCard:
    """What a decoder file says about itself.

    Attributes:
        weights: The `weights` option that its features were computed with.
        fingerprint: The extractor's fingerprint.
        extractor: The extractor's description.
        feature_dim: F, the dimension of the features.
        target_dim: D, the dimension of the embeddings.
        output_activation: The activation of the output, which sets the output ceiling.
        scales: What the features by each of several layers were divided by; empty for one layer.
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
        """Read what `to_json` returned; `file` is named in messages.

        Raises:
            RequestError: The card has another format.
        """
        check_format(card.get("format", 1), FORMAT, f"The model card of {file}")
        values = {name: value for name, value in card.items() if name != "format"}
        return cls(**values | {"scales": tuple(card.get("scales", ()))})

    def check_features(self, file: Path, description: Mapping[str, str]) -> None:
        """Refuse features of another extractor.

        Args:
            file: The model file, for the message.
            description: The extractor's description.

        Raises:
            RequestError: They differ from those the decoder was trained on; the message says how.
        """
        differences = [
            f"{name}: trained on {_named(self.extractor, name)}, given {_named(description, name)}"
            for name in {**self.extractor, **description}
            if description.get(name) != self.extractor.get(name)
        ]
        others = "".join(f", {name} {self.extractor[name]!r}" for name in ("pool", "project") if name in self.extractor)
        if differences:
            raise RequestError(
                f"{file} does not fit these features: {'; '.join(differences)}. "
                f"It needs weights {self.weights!r}, layer {self.extractor['layer']!r}{others} "
                f"and precision {self.extractor['precision']!r}."
            )

    def check_targets(self, file: Path, dim: int) -> None:
        """Refuse targets of another dimension than the decoder predicts.

        Raises:
            RequestError: The dimensions differ.
        """
        if dim != self.target_dim:
            raise RequestError(f"{file} predicts embeddings of dimension {self.target_dim}; the targets have {dim}.")


def _named(description: Mapping[str, str], name: str) -> str:
    return repr(description[name]) if name in description else "the default"


def check_format(found: object, expected: int, what: str) -> None:
    """Refuse what another version of this program has written.

    Raises:
        RequestError: The format numbers differ; the message says which is older.
    """
    if found != expected:
        age = "an older" if isinstance(found, int) and found < expected else "a newer"
        raise RequestError(
            f"{what} has format {found}, written by {age} version; this version reads format {expected}. "
            "Retrain, or use the version that wrote it."
        )


def save_decoder(model: Any, file: Path, card: ModelCard) -> None:
    """Save a decoder as a `.keras` file with its card, whole or not at all.

    Raises:
        PipelineError: The file cannot be written.
    """
    with atomic_write(file) as unfinished:
        model.save(unfinished)
        with zipfile.ZipFile(unfinished, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(CARD, json.dumps(card.to_json(), indent=2))


def read_card(file: Path) -> ModelCard:
    """Read the card of a decoder file, without loading the model.

    Raises:
        RequestError: The file does not exist, or is not a decoder that this pipeline saved.
    """
    if not file.is_file():
        raise RequestError(f"{file}: no such model. Name the folder of a run or a .keras file in one.")
    try:
        with zipfile.ZipFile(file) as archive:
            return ModelCard.from_json(json.loads(archive.read(CARD)), file)
    except RequestError:
        raise
    except KeyError as error:
        raise RequestError(
            f"{file} does not say what features it was trained on (it has no {CARD}); only models that "
            "`python -m pipeline train` saved can be used."
        ) from error
    except Exception as error:  # zipfile raises many types for damaged files
        raise RequestError(f"{file} is damaged or not a .keras file ({first_line(error)}).") from error


def has_card(file: Path) -> bool:
    """Whether a file is a Keras model with a card; False for a Keras model of another program.

    Raises:
        RequestError: The file does not exist, or is not a `.keras` file.
    """
    if not file.is_file():
        raise RequestError(f"{file}: no such model. Name the folder of a run or a .keras file.")
    try:
        with zipfile.ZipFile(file) as archive:
            return CARD in archive.namelist()
    except (OSError, zipfile.BadZipFile) as error:
        if _starts_with(file, HDF5):
            raise RequestError(
                f"{file} is a model in Keras's legacy HDF5 format; convert it once with "
                'keras.models.load_model("FILE.h5", compile=False).save("FILE.keras").'
            ) from error
        raise RequestError(f"{file} is damaged or not a .keras file ({first_line(error)}).") from error


def _starts_with(file: Path, start: bytes) -> bool:
    with open(file, "rb") as opened:
        return opened.read(len(start)) == start


def load_decoder(file: Path) -> Any:
    """Load a decoder in Keras's safe mode, which runs no code from the file.

    Returns:
        The `keras.Model`.

    Raises:
        RequestError: The file is damaged, or would need code of its own.
    """
    keras = import_keras()
    try:
        return keras.saving.load_model(file, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises many types for damaged files
        raise RequestError(f"{file} cannot be loaded ({first_line(error)}).") from error
