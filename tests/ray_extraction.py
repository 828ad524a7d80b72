"""Extractions on Ray that tests interrupt."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from helpers import processes_with

IMAGES = 500


@dataclass
class Extraction:
    """An `extract --ray` that has stored some images and is far from finished."""

    images: Path
    cache: Path
    process: subprocess.Popen
    mark: str


def runs(process: psutil.Process, program: str) -> bool:
    """Whether a process runs a program; before that, and after its end, it has no command line."""
    command = process.cmdline()
    return bool(command) and Path(command[0]).name == program


def actors(variable: str, mark: str) -> list[Any]:
    return [each for each in processes_with(variable, mark) if "MapWorker" in "".join(each.cmdline()[:1])]


def finish(extraction: Extraction) -> dict:
    out, err = extraction.process.communicate(timeout=240)
    assert extraction.process.returncode == 0, err
    assert err == ""
    return json.loads(out)
