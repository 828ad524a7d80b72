"""Files that appear whole or not at all."""

import contextlib
import os
import re
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pipeline.core.errors import PipelineError, RequestError, cause

UNFINISHED = ".unfinished-"
URLS = ("s3:", "gs:", "az:", "http:", "https:")  # as the first part of a path
OLD = 7 * 86_400  # seconds; longer than any file takes
_NAME = re.compile(rf"{re.escape(UNFINISHED)}[0-9a-f]{{16}}(\.\w+)?")


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
        with _new_path(file, _create_file) as unfinished:
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
        with _new_path(folder, os.mkdir) as unfinished:
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
    with contextlib.suppress(OSError):  # the folder cannot be read
        for path in folder.iterdir():
            if _NAME.fullmatch(path.name):
                _remove_if_abandoned(path)


@contextlib.contextmanager
def _new_path(path: Path, create: Callable[[Path], object]) -> Iterator[Path]:
    """Create a file or a folder beside a path, under a name that nobody can guess, and hold its lock."""
    suffix = path.suffix if re.fullmatch(r"\.\w+", path.suffix) else ""  # Keras tells formats by it
    while True:
        new = path.with_name(f"{UNFINISHED}{secrets.token_hex(8)}{suffix}")
        create(new)
        with _locked(new) as is_locked:
            if is_locked is False or not new.exists():  # taken for abandoned before it was locked
                continue
            yield new
            return


def _create_file(path: Path) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))


def _remove_if_abandoned(path: Path) -> None:
    """Remove a file or a folder of this user if its writer has ended: its lock is free, or there are no locks."""
    with contextlib.suppress(OSError):
        status = path.lstat()
        if sys.platform != "win32" and status.st_uid != os.geteuid():
            return
        is_folder, is_old = stat.S_ISDIR(status.st_mode), time.time() - status.st_mtime > OLD
        if not is_folder and not stat.S_ISREG(status.st_mode):
            return
        with _locked(path) as is_locked:
            if is_locked or (is_locked is None and is_old):
                shutil.rmtree(path) if is_folder else path.unlink()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool | None]:
    """Hold the lock of a file or a folder; yields False where another process has it, None where there are no locks."""
    if sys.platform == "win32":
        yield None
        return
    import fcntl

    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_locked: bool | None = True
        except BlockingIOError:
            is_locked = False
        except OSError:  # a network file system without locks
            is_locked = None
        yield is_locked
    finally:
        os.close(descriptor)


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
        raise RequestError(f"{parameter} {file}: the format must be one of {', '.join(suffixes)}.")
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
        with _new_path(folder / "new", _create_file) as unfinished:
            unfinished.unlink()
    except OSError as error:
        raise RequestError(f"{what}: the folder {folder} is not writable ({cause(error)}); choose another.") from error
