"""stdout contains only results, in a user's environment."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, SMALL, Finished, environment_at, make_images, run_python

# Prints like libraries do: through C's buffer, which is flushed at exit, directly, and in a child process.
PRINTS = """
import ctypes, multiprocessing, os, sys
from pipeline.core.standard_streams import keep_results_apart, silence_libraries

def chatter():
    ctypes.CDLL(None).puts(b"from C's buffer")
    os.write(1, b"to descriptor 1\\n")
    os.write(2, b"to descriptor 2\\n")

if __name__ == "__main__":
    keep_results_apart()
    if sys.argv[1] == "quiet":
        silence_libraries()
    chatter()
    child = multiprocessing.get_context("spawn").Process(target=chatter)
    child.start()
    child.join()
    print("result")
    print("message", file=sys.stderr)
"""


@pytest.mark.parametrize("how", ["aloud", "quiet"])
def test_output_of_libraries_stays_off_stdout(how: str, tmp_path: Path) -> None:
    (tmp_path / "prints.py").write_text(PRINTS)
    finished = run_python(tmp_path / "prints.py", how, env=environment_at(tmp_path))
    assert finished.out == "result\n"
    lines = finished.err.splitlines()
    if how == "quiet":
        assert lines == ["message"]
    else:
        assert sorted(lines) == sorted([*["from C's buffer", "to descriptor 1", "to descriptor 2"] * 2, "message"])


def test_the_result_of_a_command_is_one_document(home: Path, tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", range(2))
    with open(tmp_path / "out", "w") as out:
        command = [sys.executable, "-m", "pipeline", "extract", images, *SMALL[:-1], "--json"]
        subprocess.run(list(map(str, command)), cwd=ROOT, env=environment_at(home), stdout=out, check=True)
    assert json.loads((tmp_path / "out").read_text())["images"] == 2


def into(stdout: str, *arguments: object, home: Path) -> Finished:
    """Run a command with a stdout that cannot be written to."""
    redirection = {"closed": ">&-", "full": "> /dev/full", "gone": "| true"}[stdout]
    script = f'"$@" {redirection}; exit ${{PIPESTATUS[0]}}'
    if stdout == "gone":  # the reader must exit first
        script = '(sleep 0.2; exec "$@") | true; exit ${PIPESTATUS[0]}'
    command = ["bash", "-c", script, "bash", sys.executable, "-m", "pipeline", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=environment_at(home), capture_output=True, text=True)
    return Finished(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("stdout", ["closed", "full", "gone"])
@pytest.mark.parametrize("command", [("--help",), ("cache",), ("cache", "--json")])
def test_an_unwritable_result_gives_one_message(stdout: str, command: tuple, home: Path) -> None:
    finished = into(stdout, *command, home=home)
    causes = {"closed": "Bad file descriptor", "full": "No space left on device", "gone": "Broken pipe"}
    assert finished.code == 1
    assert finished.err == f"error: The result cannot be written to stdout ({causes[stdout]}).\n"


@pytest.mark.skipif(sys.platform == "win32", reason="descriptors are those of POSIX")
def test_a_closed_stderr_breaks_nothing_else(home: Path, tmp_path: Path) -> None:
    command = f"exec {sys.executable} -m pipeline cache --json --cache {tmp_path} 2>&-"
    done = subprocess.run(["sh", "-c", command], cwd=ROOT, env=environment_at(home), capture_output=True, text=True)
    assert (done.returncode, json.loads(done.stdout)["stores"]) == (0, [])
    assert os.listdir(tmp_path) == []
