"""Child processes do not import the program that starts them."""

import multiprocessing
import sys
from pathlib import Path

import pytest
from helpers import SMALL, environment_at, make_images, run_python

from pipeline.core.child_processes import start_spawned

SCRIPT = f"""
with open("runs.txt", "a") as log:
    print("run", file=log)
from pipeline import VGG16Features
vectors = VGG16Features({SMALL[1]!r}, {SMALL[3]!r}, cache="cache", workers=2).fit_transform(["0000.png", "0001.png"])
print(vectors.shape)
"""


@pytest.mark.parametrize("file", ["script.py", "-"])
def test_a_script_without_a_guard_runs_once(file: str, fresh_cache, home: Path, tmp_path: Path) -> None:
    make_images(tmp_path, range(2))
    fresh_cache("cache")
    (tmp_path / "script.py").write_text(SCRIPT)
    finished = run_python(file, cwd=tmp_path, env=environment_at(home), input=SCRIPT)
    assert (finished.code, finished.out) == (0, "(2, 512)\n"), finished.err
    assert (tmp_path / "runs.txt").read_text() == "run\n"


def test_the_main_module_is_unchanged_even_if_a_process_cannot_start() -> None:
    main, spec = sys.modules["__main__"], sys.modules["__main__"].__spec__
    with pytest.raises((AttributeError, TypeError), match="pickle"):
        start_spawned(multiprocessing.get_context("spawn").Process(target=lambda: None))
    assert sys.modules["__main__"] is main
    assert main.__spec__ is spec
