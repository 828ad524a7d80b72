"""Files that appear whole or not at all."""

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.core.errors import PipelineError, RequestError, cause

UNFINISHED = ".unfinished-"
URLS = ("s3:", "gs:", "az:", "http:", "https:")  # as the first part of a path


@contextlib.contextmanager
def atomic_write(file: Path) -> Iterator[Path]:
    """Write a file in full before it takes its place.

    The temporary name follows from the file's, so that what a kill leaves behind is overwritten the next time.

    Args:
        file: The file to write or replace.

    Yields:
        A hidden file beside it. It replaces `file` when the block succeeds and is removed otherwise.

    Raises:
        PipelineError: The block or the replacement raised an OSError.
    """
    unfinished = file.with_name(f"{UNFINISHED}{file.name}")
    try:
        yield unfinished
        os.replace(unfinished, file)
    except OSError as error:
        raise PipelineError(f"{file} cannot be written ({cause(error)}).") from error
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Write a folder in full before it takes its place.

    Args:
        folder: The folder to create; what is there is not replaced.

    Yields:
        A hidden folder beside it, empty. It becomes `folder` when the block succeeds and is removed otherwise.

    Raises:
        PipelineError: The block or the renaming raised an OSError.
    """
    unfinished = folder.with_name(f"{UNFINISHED}{folder.name}")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)  # what a kill left behind
        unfinished.mkdir()
        yield unfinished
        os.rename(unfinished, folder)
    except OSError as error:
        raise PipelineError(f"{folder} cannot be written ({cause(error)}).") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what a kill during `atomic_write` left in a folder that no other process writes to."""
    for file in folder.glob(f"{UNFINISHED}*"):
        file.unlink(missing_ok=True)


def check_output_file(file: Path, suffixes: Sequence[str], parameter: str) -> None:
    """Refuse a file that cannot be written, before any work is spent on its content.

    Args:
        file: The file.
        suffixes: The formats it may have, such as ".npz".
        parameter: What the caller calls this file, for the message.

    Raises:
        RequestError: The suffix is not one of `suffixes`, the file is a folder, or its folder is missing or read-only.
    """
    if file.suffix.lower() not in suffixes:
        raise RequestError(f"{parameter} {file}: the format must be one of {', '.join(suffixes)}.")
    if file.is_dir():
        raise RequestError(f"{parameter} {file}: this is a folder; name a file.")
    _check_place(file, parameter)


def check_new_folder(folder: Path, parameter: str, suffix: str = "") -> None:
    """Refuse a folder that cannot be created, before any work is spent on its content.

    Args:
        folder: The folder.
        parameter: What the caller calls it, for the message.
        suffix: How its name must end, such as ".lance".

    Raises:
        RequestError: The suffix is another, the folder exists, or the one that it lies in is missing or read-only.
    """
    if folder.exists():
        raise RequestError(f"{parameter} {folder} exists; choose a new name.")
    if not folder.name.lower().endswith(suffix):
        raise RequestError(f"{parameter} {folder}: the name must end in {suffix}.")
    _check_place(folder, parameter)


def _check_place(path: Path, parameter: str) -> None:
    """Refuse what lies in a folder that cannot be written to."""
    if path.parts[:1] and path.parts[0] in URLS:
        raise RequestError(f"{parameter} {path} is a URL; name a local place, and copy it there.")
    if not path.parent.is_dir():
        raise RequestError(f"{parameter} {path}: the folder {path.parent} does not exist; create it first.")
    if not os.access(path.parent, os.W_OK):
        raise RequestError(f"{parameter} {path}: the folder {path.parent} is not writable; choose another.")
