"""Runs on disk: a folder for each training, with its decoders, baselines, report and `run.json`."""

import itertools
import json
import logging
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.core.atomic import atomic_write
from pipeline.core.errors import PipelineError, RequestError, cause
from pipeline.core.model_files import check_format

log = logging.getLogger(__name__)

FORMAT = 2  # 1: before `run.json` had a format number
CHECKSUM = "checksum"
RUN_FILE = "run.json"
REPORT_FILE = "report.html"
EVALUATION_FILE = "evaluation.html"
CHECKPOINT_FILE = "checkpoint.npz"
TENSORBOARD_FOLDER = "logs"


@dataclass(frozen=True)
class SplitRecord:
    """Which images a run was trained on, and which it held out.

    Attributes:
        rule: The split rule, as the command line writes it.
        train: Path -> content digest of the training images.
        validation: Path -> content digest of the held-out images; none where the run was cross-validated.
        selection: Path -> content digest of the images that chose an epoch.
        moved: Path -> content digest of images that left the held-out side, or those that choose an epoch, because of
            a near-duplicate.
        near_duplicates: Groups of paths of images that were detected as near-duplicates of each other.
    """

    rule: str
    train: Mapping[str, str]
    validation: Mapping[str, str]
    selection: Mapping[str, str] = field(default_factory=dict)
    moved: Mapping[str, str] = field(default_factory=dict)
    near_duplicates: Sequence[Sequence[str]] = ()

    @property
    def validation_of(self) -> str:
        """What the validation curves of a training are of: "selection", "held-out" or "training" images."""
        return "selection" if self.selection else "held-out" if self.validation else "training"


@dataclass(frozen=True)
class RunRecord:
    """The content of a `run.json`.

    Attributes:
        options: The options of the `train` command, so that it can be repeated.
        extractor: The extractor's description.
        training: The training config, as JSON values.
        seed: The random seed.
        split: The training and the held-out images.
        targets: The content digest of the target embeddings.
        versions: Package -> version.
        fitted: How the training went, from when the decoders are saved until they are scored: "models" and "shares" as
            in the result, and "diverged", an error or None. None before and after.
        result: The result of the finished run; None before.
        kept_epoch: Model -> the epoch whose weights it has.
        curves: Model -> learning curves, with None for values that are not finite.
    """

    options: Mapping[str, Any]
    extractor: Mapping[str, str]
    training: Mapping[str, Any]
    seed: int
    split: SplitRecord
    targets: str
    versions: Mapping[str, str]
    fitted: Mapping[str, Any] | None = None
    result: Mapping[str, Any] | None = None
    kept_epoch: Mapping[str, int] = field(default_factory=dict)
    curves: Mapping[str, Mapping[str, Sequence[float | None]]] = field(default_factory=dict)

    @property
    def trained(self) -> Mapping[str, Any]:
        """What is known of the saved decoders, scored or not: "models" and "shares"; empty before they are saved."""
        return self.result or self.fitted or {}

    def to_json(self) -> dict[str, Any]:
        """The record as JSON values, with its format number."""
        return json.loads(json.dumps({"format": FORMAT, **asdict(self)}))

    @classmethod
    def from_json(cls, record: Mapping[str, Any], file: Path) -> "RunRecord":
        """Read what `to_json` returned; `file` is named in messages.

        Raises:
            RequestError: The record has another format.
            ValueError: The record lacks a part, or has one too many.
        """
        check_format(record.get("format", 1), FORMAT, str(file))
        parts = {name: value for name, value in record.items() if name != "format"}
        try:
            return cls(**{**parts, "split": SplitRecord(**parts["split"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"a part is missing or unknown: {error}") from error


def new_run(models: Path) -> Path:
    """Create the folder of a new run, named by the local time, with a number appended where that name is taken.

    Args:
        models: The folder of all runs, created when it is missing.

    Returns:
        The run's folder, empty.

    Raises:
        PipelineError: The folder cannot be created.
    """
    name = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for number in itertools.count(1):
        folder = models / (name if number == 1 else f"{name}_{number}")
        try:
            folder.mkdir(parents=True)
            return folder
        except OSError as error:
            if isinstance(error, FileExistsError) and folder.is_dir():
                continue
            raise PipelineError(f"Runs cannot be saved in {models} ({cause(error)}); choose another folder.") from error
    raise AssertionError("unreachable")


def can_resume(folder: Path) -> bool:
    """Whether a run holds a decoder, or a checkpoint to resume from."""
    return (folder / CHECKPOINT_FILE).exists() or any(folder.glob("*.keras"))


def read_run(folder: Path, allow_edits: bool = False) -> RunRecord:
    """Read a run's `run.json`.

    Args:
        folder: The run's folder.
        allow_edits: Whether to accept, with a warning, a file whose checksum does not fit its content.

    Raises:
        RequestError: The folder holds no run, or its `run.json` is damaged or of another format.
    """
    file = folder / RUN_FILE
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(record, dict):
            raise ValueError("it is not an object")
        if record.pop(CHECKSUM, None) != _checksum(record):
            if not allow_edits:
                raise ValueError("its checksum does not fit its content")
            log.warning("%s was edited after the run.", file)
        return RunRecord.from_json(record, file)
    except FileNotFoundError as error:
        raise RequestError(f"{folder} is not a run: it has no {RUN_FILE}.") from error
    except RequestError:
        raise
    except (OSError, ValueError) as error:
        raise RequestError(f"{file} is damaged ({cause(error)}).") from error


def write_run(folder: Path, record: RunRecord) -> None:
    """Write a run's `run.json`, whole or not at all.

    Raises:
        PipelineError: The file cannot be written.
    """
    content = record.to_json()
    with atomic_write(folder / RUN_FILE) as unfinished:
        text = json.dumps(content | {CHECKSUM: _checksum(content)}, indent=2)
        unfinished.write_text(f"{text}\n", encoding="utf-8")


def _checksum(record: Mapping[str, Any]) -> str:
    """CRC-32 of the record's content, independent of its layout."""
    return f"{zlib.crc32(json.dumps(record, sort_keys=True).encode()):08x}"
