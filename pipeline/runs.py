"""Runs on disk: a folder for each training, with the decoders, the baselines and `run.json`.

A decoder is a plain `.keras` file that plain Keras loads. Its archive holds one member more, `pipeline.json`, which
says what features the decoder was trained on, so that a model alone can refuse features that are not its own.
"""

import contextlib
import json
import shutil
import uuid
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from pipeline.backend import import_keras
from pipeline.errors import PipelineError, RequestError
from pipeline.vgg16 import Extractor

CARD = "pipeline.json"
RUN_FILE = "run.json"
BASELINES_FILE = "baselines.npz"


@dataclass(frozen=True)
class Card:
    """What a decoder file says of itself.

    Attributes:
        weights: The `--weights` that its features were made with.
        fingerprint: The extractor's fingerprint.
        extractor: The extractor's description.
        feature_dim: F, the dimension of the features.
        target_dim: D, the dimension of the embeddings.
        output_activation: The output's activation, which sets the ceiling.
    """

    weights: str
    fingerprint: str
    extractor: dict[str, str]
    feature_dim: int
    target_dim: int
    output_activation: str

    def check(self, file: Path, extractor: Extractor) -> None:
        """Refuse features of another extractor.

        Raises:
            RequestError: They differ from those the decoder was trained on; the message says in what.
        """
        differences = [
            f"{name}: trained on {theirs!r}, given {extractor.description.get(name)!r}"
            for name, theirs in self.extractor.items()
            if extractor.description.get(name) != theirs
        ]
        if differences:
            raise RequestError(
                f"{file} does not fit these features: {'; '.join(differences)}. "
                f"It needs --weights {self.weights} --layer {self.extractor['layer']} "
                f"--precision {self.extractor['precision']}."
            )

    def check_targets(self, file: Path, dim: int) -> None:
        """Refuse targets of another dimension than the decoder predicts.

        Raises:
            RequestError: The dimensions differ.
        """
        if dim != self.target_dim:
            raise RequestError(f"{file} predicts embeddings of dimension {self.target_dim}; the targets have {dim}.")


def save_decoder(model, file: Path, card: Card) -> None:
    """Save a decoder as a `.keras` file with its card."""
    model.save(file)
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(CARD, json.dumps(asdict(card), indent=2))


def read_card(file: Path) -> Card:
    """Read the card of a decoder file, without loading the model.

    Raises:
        RequestError: There is no such file, or it is no decoder that this pipeline has saved.
    """
    if not file.is_file():
        raise RequestError(f"{file}: no such model. Name a run's folder or a .keras file in one.")
    try:
        with zipfile.ZipFile(file) as archive:
            return Card(**json.loads(archive.read(CARD)))
    except KeyError as error:
        raise RequestError(
            f"{file} does not say what features it was trained on (no {CARD} in it); only models that "
            "`python -m pipeline train` has saved can be evaluated."
        ) from error
    except (OSError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise RequestError(f"{file} is damaged or no .keras file ({error}).") from error


def load_decoder(file: Path):
    """Load a decoder in Keras's safe mode, which runs no code that a file brings along.

    Returns:
        The `keras.Model`.

    Raises:
        RequestError: The file is damaged, or would need code of its own.
    """
    keras = import_keras()
    try:
        return keras.saving.load_model(file, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises whatever the damaged part makes it stumble on
        raise RequestError(f"{file} cannot be loaded ({str(error).strip().splitlines()[0]}).") from error


@contextlib.contextmanager
def unfinished_run(models: Path) -> Iterator[Path]:
    """Make a hidden folder to fill, which is gone after the block unless `publish` has given it its name.

    Args:
        models: The folder of all runs, made when it is missing.

    Yields:
        The hidden folder.

    Raises:
        PipelineError: The folder cannot be made.
    """
    hidden = models / f".unfinished-{uuid.uuid4().hex}"
    try:
        hidden.mkdir(parents=True)
    except OSError as error:
        raise PipelineError(f"No run can be saved in {models} ({error.strerror}); name another --models.") from error
    try:
        yield hidden
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def publish(hidden: Path) -> Path:
    """Give a filled run its name: the local time, with a number behind it where another run has that already.

    Args:
        hidden: What `unfinished_run` gave.

    Returns:
        The run's folder.
    """
    name = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    folder, number = hidden.with_name(name), 1
    while True:
        try:
            return hidden.rename(folder)
        except OSError:
            if not folder.exists():  # the name is free, so something else is wrong
                raise
            number += 1
            folder = hidden.with_name(f"{name}_{number}")


def read_run(folder: Path) -> dict:
    """Read a run's `run.json`.

    Raises:
        RequestError: The folder holds no run, or its `run.json` is damaged.
    """
    file = folder / RUN_FILE
    try:
        return json.loads(file.read_text())
    except FileNotFoundError as error:
        raise RequestError(f"{folder} is not a run: it has no {RUN_FILE}.") from error
    except (OSError, ValueError) as error:
        raise RequestError(f"{file} is damaged ({error}).") from error


def write_run(folder: Path, run: dict) -> None:
    """Write a run's `run.json`."""
    (folder / RUN_FILE).write_text(json.dumps(run, indent=2) + "\n")
