"""Atomic writes: a file or folder appears complete or not at all."""

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from pipeline.core.errors import PipelineError, RequestError, cause
from pipeline.core.leftovers import create_file, own_path, remove_abandoned
from pipeline.core.locations import STORAGE

UNFINISHED = ".unfinished-"
URLS = (*(f"{scheme}:" for scheme in STORAGE), "http:", "https:")  # as the first part of a path


@contextlib.contextmanager
def atomic_write(file: Path) -> Iterator[Path]:
    """Write a file under a temporary name, then rename it.

    Several processes may write the same file at once: each writes its own copy, and the last to finish wins.

    Args:
        file: The file to write or replace. If it is a link, the link is replaced.

    Yields:
        A new, empty file in the same folder, with the same suffix and a random name. It replaces `file` when the block
        succeeds and is removed otherwise. Files left in the folder by killed processes are removed, too.

    Raises:
        PipelineError: The block or the renaming raised an OSError.
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
    """Write a folder under a temporary name, then rename it.

    Args:
        folder: The folder to create; existing files are not replaced.

    Yields:
        A new, empty folder next to it with a random name. It is renamed to `folder` when the block succeeds and removed
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
    """Remove what killed processes left in a folder during `atomic_write` and `atomic_folder`.

    Other files, links, and anything that another process is writing are left alone.
    """
    remove_abandoned(folder, UNFINISHED)


def _unfinished_path(path: Path, create: Callable[[Path], object]) -> AbstractContextManager[Path]:
    """Create a file or folder next to a path, under an unpredictable name."""
    suffix = path.suffix if re.fullmatch(r"\.\w+", path.suffix) else ""  # Keras infers the format from it
    return own_path(path.parent, UNFINISHED, suffix, create)


def check_output_file(file: Path, suffixes: Sequence[str], parameter: str) -> None:
    """Refuse an output file that cannot be written, before any work is done.

    Args:
        file: The file.
        suffixes: The allowed suffixes, such as ".npz".
        parameter: The name of the parameter, for the message.

    Raises:
        RequestError: The suffix is not one of `suffixes`, the file is a folder, or no file can be created there.
    """
    if file.suffix.lower() not in suffixes:
        raise RequestError(f"{parameter} {file}: the name must end in {' or '.join(suffixes)}.")
    _check_creatable(file, parameter)
    if file.is_dir():
        raise RequestError(f"{parameter} {file}: this is a folder; name a file.")


def check_new_folder(folder: Path, parameter: str, suffix: str = "") -> None:
    """Refuse an output folder that cannot be created, before any work is done.

    Args:
        folder: The folder.
        parameter: The name of the parameter, for the message.
        suffix: The required suffix, such as ".lance".

    Raises:
        RequestError: The suffix is different, the folder exists, or it cannot be created.
    """
    if not folder.name.lower().endswith(suffix):
        raise RequestError(f"{parameter} {folder}: the name must end in {suffix}.")
    _check_creatable(folder, parameter)
    if os.path.lexists(folder):
        raise RequestError(f"{parameter} {folder} exists; choose a new name.")


def _check_creatable(path: Path, parameter: str) -> None:
    """Refuse a URL, a path that the system rejects, and one in a folder that is missing or not writable."""
    if path.parts[:1] and path.parts[0] in URLS:
        raise RequestError(f"{parameter} {path} is a URL; name a local place, and copy it there.")
    try:
        if not path.parent.is_dir():
            raise RequestError(f"{parameter} {path}: the folder {path.parent} does not exist; create it first.")
        with contextlib.suppress(FileNotFoundError):
            path.lstat()
    except OSError as error:  # for example, the name is too long
        raise RequestError(f"{parameter} {path} cannot be written ({cause(error)}); choose another name.") from error
    check_writable(path.parent, f"{parameter} {path}")


def check_writable(folder: Path, what: str) -> None:
    """Refuse a folder in which no file can be created.

    A file is created as a test, because permissions and quotas have many forms.

    Args:
        folder: An existing folder.
        what: The output to be written there, for the message.

    Raises:
        RequestError: No file can be created.
    """
    try:
        with _unfinished_path(folder / "new", create_file) as unfinished:
            unfinished.unlink()
    except OSError as error:
        raise RequestError(f"{what}: the folder {folder} is not writable ({cause(error)}); choose another.") from error
