"""Runs on disk: a folder per training with its decoders, baselines, report and `run.json`."""

import contextlib
import errno
import itertools
import json
import logging
import os
import re
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.core.atomic import atomic_write, check_writable
from pipeline.core.errors import PipelineError, RequestError, cause
from pipeline.core.json_values import parse_json, typed
from pipeline.core.leftovers import locked
from pipeline.core.model_files import check_format

log = logging.getLogger(__name__)

FORMAT = 2  # 1: before `run.json` had a format number
CHECKSUM = "checksum"
RUN_FILE = "run.json"
REPORT_FILE = "report.html"
EVALUATION_FILE = "evaluation.html"
CHECKPOINT_FILE = "checkpoint.npz"
TENSORBOARD_FOLDER = "logs"
STRINGS = (
    "images",
    "features",
    "targets",
    "noise_ceiling",
    "root",
    "label_pattern",
    "on_missing",
)  # text options that other commands read from a run
HEXADECIMAL = re.compile("([0-9a-f]{2})*")


@dataclass(frozen=True)
class SplitRecord:
    """The training and held-out images of a run.

    Attributes:
        rule: The split rule, as written on the command line.
        train: Path -> content digest of the training images.
        validation: Path -> content digest of the held-out images; empty for a cross-validated run.
        selection: Path -> content digest of the images that select the epoch.
        moved: Path -> content digest of images that were removed from the held-out or selection images because of a
            near-duplicate.
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
        """The images that the validation curves are computed on: "selection", "held-out" or "training"."""
        return "selection" if self.selection else "held-out" if self.validation else "training"


@dataclass(frozen=True)
class RunRecord:
    """The content of a `run.json`.

    Attributes:
        options: The options of the `train` command; with them, it can be repeated.
        extractor: The extractor's description.
        training: The training config, as JSON values.
        seed: The random seed.
        split: The training and held-out images.
        targets: The content digest of the target embeddings.
        versions: Package -> version.
        fitted: The outcome of the training while decoders are saved but not scored: "models" and "shares" as in the
            result, and "diverged", an error or None. None before and after.
        result: The result of the finished run; None before.
        kept_epoch: Model -> the epoch of its weights.
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
        """The saved decoders, scored or not: "models" and "shares"; empty before they are saved."""
        return self.result or self.fitted or {}

    def to_json(self) -> dict[str, Any]:
        """The record as JSON values, with its format number."""
        return json.loads(json.dumps({"format": FORMAT, **asdict(self)}))

    @classmethod
    def from_json(cls, record: Mapping[str, Any], file: Path) -> "RunRecord":
        """Parse the output of `to_json`; `file` is named in messages.

        Raises:
            RequestError: The record has another format.
            ValueError: A field is missing or unknown, or a value has the wrong type or is out of range.
        """
        check_format(record.get("format", 1), FORMAT, str(file))
        parsed = typed(cls, {name: value for name, value in record.items() if name != "format"})
        if not 0 <= parsed.seed < 2**31:
            raise ValueError(f"its seed is {parsed.seed}")
        typed(Mapping[str, str | int | float | bool | None], parsed.options, "options")
        if not {"images", "features"} & set(parsed.options):
            raise ValueError("options has no 'images'")
        for name in STRINGS:
            typed(str | None, parsed.options.get(name), f"options.{name}")
        for name in ("train", "validation", "selection", "moved"):
            if not all(map(HEXADECIMAL.fullmatch, getattr(parsed.split, name).values())):
                raise ValueError(f"split.{name} has an invalid digest")
        return parsed


def check_run_name(models: Path, name: str) -> None:
    """Check the name of a new run, before any work is done.

    Args:
        models: The folder of all runs.
        name: The name.

    Raises:
        RequestError: The name is not valid, or a run or file of that name exists.
    """
    if not re.fullmatch(r"\w[\w.+=@-]*", name):
        raise RequestError(f"name {name!r} cannot name a run; use letters, digits and any of . _ - + = @")
    if (models / name).exists():
        raise RequestError(f"{models / name} exists; choose another name.")


def new_run(models: Path, record: RunRecord, name: str | None = None) -> Path:
    """Create a new run; an error or an interrupt while its `run.json` is written leaves no folder.

    Args:
        models: The folder of all runs, created if missing.
        record: The content of its `run.json`.
        name: The run's name; None for the local time, with a number appended if that name is taken.

    Returns:
        The run's folder.

    Raises:
        RequestError: A run of that name exists.
        PipelineError: The folder cannot be created, or the file cannot be written.
    """
    folder = _new_folder(models, name)
    try:
        write_run(folder, record)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def _new_folder(models: Path, name: str | None) -> Path:
    """Create the folder of a new run; see `new_run`."""
    time = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for number in itertools.count(1):
        folder = models / (name or (time if number == 1 else f"{time}_{number}"))
        try:
            folder.mkdir(parents=True)
            return folder
        except OSError as error:
            if isinstance(error, FileExistsError) and folder.is_dir():
                if name:
                    raise RequestError(f"{folder} exists; choose another name.") from error
                continue
            raise PipelineError(f"Runs cannot be saved in {models} ({cause(error)}); choose another folder.") from error
    raise AssertionError("unreachable")


def check_can_save(models: Path) -> None:
    """Refuse a folder in which no run can be saved, before any work is done.

    Raises:
        PipelineError: No run can be saved in the folder.
    """
    existing = next(folder for folder in (models, *models.absolute().parents) if folder.exists())
    try:
        if not existing.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        check_writable(existing, "models")
    except (OSError, RequestError) as error:
        why = cause(error.__cause__ or error)
        raise PipelineError(f"Runs cannot be saved in {models} ({why}); choose another folder.") from error


@contextlib.contextmanager
def lock_run(folder: Path) -> Iterator[None]:
    """Lock a run, so that no other process trains in it. The lock is released when this process ends, even if killed.

    Raises:
        RequestError: Another process holds the lock.
    """
    with locked(folder) as is_locked:
        if is_locked is False:
            raise RequestError(f"{folder} is in training{_holder(folder)}; wait for its end, or stop it first.")
        yield


def _holder(folder: Path) -> str:
    """The process that holds a folder's lock, for a message; without its number if the system does not report it."""
    with contextlib.suppress(OSError):
        inode = str(folder.stat().st_ino)
        for line in Path("/proc/locks").read_text().splitlines():  # 1: FLOCK ADVISORY WRITE 4321 08:02:1234567 0 EOF
            fields = line.split()
            if "FLOCK" in fields and fields[-3].rpartition(":")[2] == inode:
                return f" by process {fields[-4]}"
    return " by another process"


def can_resume(folder: Path) -> bool:
    """Whether a run has a decoder, or a checkpoint to resume from."""
    return (folder / CHECKPOINT_FILE).exists() or any(folder.glob("*.keras"))


def read_run(folder: Path, allow_edits: bool = False) -> RunRecord:
    """Read a run's `run.json`.

    Args:
        folder: The run's folder.
        allow_edits: Whether to accept, with a warning, a file whose checksum does not match its content.

    Raises:
        RequestError: The folder is not a run, or its `run.json` is damaged or has another format.
    """
    file = folder / RUN_FILE
    try:
        if file.exists() and not file.is_file():
            raise ValueError("it is not a file")  # a pipe or a device may be endless
        record = parse_json(file.read_text(encoding="utf-8"))
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
    """Write a run's `run.json` atomically.

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
