"""The import path, without the working folder: images and any other files may be there."""

import os
import sys


def leave_out_working_folder() -> None:
    """Remove the working folder from the import path of this process and its child processes.

    `python -m` puts it first, so that a `numpy.py` among images would run. If it is a checkout of this package, it is
    moved to the end instead, after the installed packages.

    Call it before importing any module except the few that are frozen in Python.
    """
    try:
        working = os.path.realpath(os.getcwd())
    except FileNotFoundError:  # it was removed, so sys.path cannot lead there either
        working = ""
    checkout = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
    last = [checkout] if working == checkout else []
    sys.path[:] = [*_without(working, sys.path), *last]
    if path := os.environ.get("PYTHONPATH"):
        os.environ["PYTHONPATH"] = os.pathsep.join(_without(working, path.split(os.pathsep)))
    os.environ["PYTHONSAFEPATH"] = "1"  # child processes start with -c, which also puts the working folder first


def _without(folder: str, entries: list[str]) -> list[str]:
    return [entry for entry in entries if entry and os.path.realpath(entry) != folder]
