"""Where Python finds modules: not in the folder that a command runs in, for images and anything else may lie there."""

import os
import sys


def leave_out_working_folder() -> None:
    """Take the working folder off the import path of this process and of those that it starts.

    `python -m` puts it first, so that a `numpy.py` among images would run. Where this package lies there itself, in a
    checkout, it is moved to the end, behind what is installed.

    To be called before any module is imported but the few that Python holds frozen.
    """
    try:
        here = os.path.realpath(os.getcwd())
    except FileNotFoundError:  # it was removed; sys.path cannot lead there, either
        here = ""
    checkout = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
    last = [checkout] if here == checkout else []
    sys.path[:] = [*_outside(here, sys.path), *last]
    if path := os.environ.get("PYTHONPATH"):
        os.environ["PYTHONPATH"] = os.pathsep.join(_outside(here, path.split(os.pathsep)))
    os.environ["PYTHONSAFEPATH"] = "1"  # child processes are started with -c, which puts the working folder first, too


def _outside(folder: str, entries: list[str]) -> list[str]:
    return [entry for entry in entries if entry and os.path.realpath(entry) != folder]
