"""Files that appear whole or not at all."""

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from pipeline.core.errors import PipelineError, RequestError, cause
from pipeline.core.leftovers import create_file, own_path, remove_abandoned

UNFINISHED = ".unfinished-"
URLS = ("s3:", "gs:", "az:", "http:", "https:")  # as the first part of a path


@contextlib.contextmanager
def atomic_write(file: Path) -> Iterator[Path]:
    """Write a file in full before it takes its place.

    Several processes may write one file at once: each writes its own, and the last to finish wins.

    Args:
        file: The file to write or replace. Where it is a link, the link is replaced.

    Yields:
        A new, empty file beside it with the same suffix and a random name. It replaces `file` when the block succeeds
        and is removed otherwise. What killed processes left in the folder is removed, too.

    Raises:
        PipelineError: The block or the replacement raised an OSError.
    """
    remove_unfinished(file.parent)
    try:
        with _unfinished_path(file, create_file) as unfinished:
            try:
                yield unfinished
                os.replace(unfinished, file)
            finally:
                with contextlib.suppress(OSError):
                    unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise PipelineError(f"{file} cannot be written ({cause(error)}).") from error


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Write a folder in full before it takes its place.

    Args:
        folder: The folder to create; what is there is not replaced.

    Yields:
        A new, empty folder beside it with a random name. It becomes `folder` when the block succeeds and is removed
        otherwise.

    Raises:
        PipelineError: The block or the renaming raised an OSError.
    """
    remove_unfinished(folder.parent)
    try:
        with _unfinished_path(folder, os.mkdir) as unfinished:
            try:
                yield unfinished
                os.rename(unfinished, folder)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
    except OSError as error:
        raise PipelineError(f"{folder} cannot be written ({cause(error)}).") from error


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes left of `atomic_write` and `atomic_folder` in a folder.

    Other files, links, and what another process is writing stay as they are.
    """
    remove_abandoned(folder, UNFINISHED)


def _unfinished_path(path: Path, create: Callable[[Path], object]) -> AbstractContextManager[Path]:
    """A new file or folder beside a path, under a name that nobody can guess."""
    suffix = path.suffix if re.fullmatch(r"\.\w+", path.suffix) else ""  # Keras tells formats by it
    return own_path(path.parent, UNFINISHED, suffix, create)


def check_output_file(file: Path, suffixes: Sequence[str], parameter: str) -> None:
    """Refuse a file that cannot be written, before any work is spent on its content.

    Args:
        file: The file.
        suffixes: The formats it may have, such as ".npz".
        parameter: What the caller calls this file, for the message.

    Raises:
        RequestError: The suffix is not one of `suffixes`, the file is a folder, or no file can be created there.
    """
    if file.suffix.lower() not in suffixes:
        raise RequestError(f"{parameter} {file}: the name must end in {' or '.join(suffixes)}.")
    _check_place(file, parameter)
    if file.is_dir():
        raise RequestError(f"{parameter} {file}: this is a folder; name a file.")


def check_new_folder(folder: Path, parameter: str, suffix: str = "") -> None:
    """Refuse a folder that cannot be created, before any work is spent on its content.

    Args:
        folder: The folder.
        parameter: What the caller calls it, for the message.
        suffix: How its name must end, such as ".lance".

    Raises:
        RequestError: The suffix is another, the folder exists, or none can be created there.
    """
    if not folder.name.lower().endswith(suffix):
        raise RequestError(f"{parameter} {folder}: the name must end in {suffix}.")
    _check_place(folder, parameter)
    if os.path.lexists(folder):
        raise RequestError(f"{parameter} {folder} exists; choose a new name.")


def _check_place(path: Path, parameter: str) -> None:
    """Refuse a path in a folder where nothing can be created, or that the system does not take."""
    if path.parts[:1] and path.parts[0] in URLS:
        raise RequestError(f"{parameter} {path} is a URL; name a local place, and copy it there.")
    try:
        if not path.parent.is_dir():
            raise RequestError(f"{parameter} {path}: the folder {path.parent} does not exist; create it first.")
        with contextlib.suppress(FileNotFoundError):
            path.lstat()
    except OSError as error:  # such as a name that is too long
        raise RequestError(f"{parameter} {path} cannot be written ({cause(error)}); choose another name.") from error
    check_writable(path.parent, f"{parameter} {path}")


def check_writable(folder: Path, what: str) -> None:
    """Refuse a folder in which no file can be created.

    Args:
        folder: The folder, which exists.
        what: What is to be written there, for the message.

    Raises:
        RequestError: No file can be created, as the system says, for permissions and quotas have many forms.
    """
    try:
        with _unfinished_path(folder / "new", create_file) as unfinished:
            unfinished.unlink()
    except OSError as error:
        raise RequestError(f"{what}: the folder {folder} is not writable ({cause(error)}); choose another.") from error
