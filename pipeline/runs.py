"""Runs on disk: a folder for each training, with the decoders, the baselines and `run.json`.

A decoder is a plain `.keras` file that plain Keras loads. Its archive holds one member more, `pipeline.json`, which
says what features the decoder was trained on, so that a model alone can refuse features that are not its own.
"""

import itertools
import json
import logging
import os
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from pipeline.backend import import_keras
from pipeline.errors import PipelineError, RequestError
from pipeline.outputs import replacing
from pipeline.vgg16 import Extractor

log = logging.getLogger(__name__)

CARD = "pipeline.json"
CHECKSUM = "checksum"
RUN_FILE = "run.json"
BASELINES_FILE = "baselines.npz"
REPORT_FILE = "report.html"
CHECKPOINT_FILE = "checkpoint.npz"
TENSORBOARD_FOLDER = "logs"


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
    """Save a decoder as a `.keras` file with its card, whole or not at all.

    Raises:
        PipelineError: It cannot be written.
    """
    try:
        with replacing(file) as unfinished:
            model.save(unfinished)
            with zipfile.ZipFile(unfinished, "a", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr(CARD, json.dumps(asdict(card), indent=2))
    except OSError as error:
        raise PipelineError(f"{file} cannot be written ({error.strerror or error}).") from error


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
    except Exception as error:  # zipfile raises whatever a damaged file makes it stumble on
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


def new_run(models: Path) -> Path:
    """Make the folder of a new run: named by the local time, with a number behind it where another run has that name.

    Args:
        models: The folder of all runs, made when it is missing.

    Returns:
        The run's folder, empty.

    Raises:
        PipelineError: The folder cannot be made.
    """
    name = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for number in itertools.count(1):
        folder = models / (name if number == 1 else f"{name}_{number}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            if not folder.is_dir():  # then it is models itself that is no folder
                raise PipelineError(
                    f"No run can be saved in {models}: it is no folder; name another --models."
                ) from None
        except OSError as error:
            raise PipelineError(
                f"No run can be saved in {models} ({error.strerror}); name another --models."
            ) from error


def is_worth_keeping(folder: Path) -> bool:
    """Whether a run holds a result, or a checkpoint to go on from."""
    if (folder / CHECKPOINT_FILE).exists():
        return True
    try:
        return "result" in read_run(folder)
    except RequestError:
        return False


def write_checkpoint(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a checkpoint; a kill at any moment leaves the one before or the new one.

    Raises:
        PipelineError: It cannot be written.
    """
    try:
        with replacing(file) as unfinished, open(unfinished, "wb") as opened:
            np.savez(opened, **arrays)
            opened.flush()
            os.fsync(opened.fileno())
    except OSError as error:
        raise PipelineError(f"The checkpoint {file} cannot be written ({error.strerror or error}).") from error


def read_checkpoint(file: Path) -> dict[str, np.ndarray]:
    """Read what `write_checkpoint` wrote; the archive's CRCs are checked.

    Raises:
        PipelineError: The file is damaged.
    """
    try:
        with np.load(file, allow_pickle=False) as saved:
            return dict(saved)
    except Exception as error:  # NumPy and zipfile raise whatever a damaged file makes them stumble on
        raise PipelineError(f"{file} is damaged ({error}); delete it to train from the first epoch.") from error


def read_run(folder: Path, may_be_edited: bool = False) -> dict:
    """Read a run's `run.json`.

    Args:
        folder: The run's folder.
        may_be_edited: Whether to accept, with a warning, one whose checksum is not that of its content.

    Raises:
        RequestError: The folder holds no run, or its `run.json` is damaged.
    """
    file = folder / RUN_FILE
    try:
        run = json.loads(file.read_text())
        if not isinstance(run, dict) or not {"options", "split"} <= set(run):
            raise ValueError("it lacks the options or the split")
        if run.pop(CHECKSUM, None) != _checksum(run):
            if not may_be_edited:
                raise ValueError("its checksum is not that of what it says")
            log.warning("%s has been changed since it was written.", file)
        return run
    except FileNotFoundError as error:
        raise RequestError(f"{folder} is not a run: it has no {RUN_FILE}.") from error
    except (OSError, ValueError) as error:
        raise RequestError(f"{file} is damaged ({error}).") from error


def write_run(folder: Path, run: dict) -> None:
    """Write a run's `run.json`, whole or not at all.

    Raises:
        PipelineError: It cannot be written.
    """
    try:
        with replacing(folder / RUN_FILE) as unfinished:
            unfinished.write_text(json.dumps(run | {CHECKSUM: _checksum(run)}, indent=2) + "\n")
    except OSError as error:
        raise PipelineError(f"{folder / RUN_FILE} cannot be written ({error.strerror}).") from error


def _checksum(run: dict) -> str:
    """CRC-32 of what a `run.json` says, however it is laid out."""
    return f"{zlib.crc32(json.dumps(run, sort_keys=True).encode()):08x}"
