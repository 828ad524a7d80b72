"""Temporary files of libraries are removed when the process ends, or by the next process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, environment_at, run_python

PROGRAM = """
import os, subprocess, sys, tempfile, time
tempfile.gettempdir()  # known before
from pipeline.core.temporary_folder import shared_folder, use_own_temporary_folder

use_own_temporary_folder()
tempfile.mkdtemp()
tempfile.NamedTemporaryFile(delete=False)
subprocess.run([sys.executable, "-c", "import tempfile; tempfile.mkdtemp()"])
assert not os.stat(tempfile.gettempdir()).st_mode & 0o077
print(shared_folder(), os.listdir(tempfile.gettempdir()).__len__(), flush=True)
time.sleep(float(sys.argv[1]))
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "temporary").mkdir()
    return environment_at(tmp_path) | {"TMPDIR": str(tmp_path / "temporary")}


def test_temporary_files_are_removed_when_the_process_ends(environment: dict[str, str]) -> None:
    shared = Path(environment["TMPDIR"])
    assert run_python("-c", PROGRAM, 0, env=environment).out == f"{shared} 3\n"
    assert list(shared.iterdir()) == []


def test_leftovers_of_a_kill_are_removed_by_the_next_process(environment: dict[str, str]) -> None:
    shared = Path(environment["TMPDIR"])
    (shared / "image-vectors-0123456789abcdef").symlink_to(ROOT)
    (shared / "image-vectors-notes").mkdir()
    command = [sys.executable, "-c", PROGRAM, "600"]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        process.stdout.readline()
        run_python("-c", PROGRAM, 0, env=environment)
        assert len(os.listdir(shared)) == 3  # it is still alive
    finally:
        process.kill()
        process.communicate()
    run_python("-c", PROGRAM, 0, env=environment)
    assert sorted(os.listdir(shared)) == ["image-vectors-0123456789abcdef", "image-vectors-notes"]


def test_a_command_leaves_no_temporary_files(run_process, environment: dict[str, str], tmp_path: Path) -> None:
    run_process("cache", "--cache", tmp_path, TMPDIR=environment["TMPDIR"])
    assert os.listdir(environment["TMPDIR"]) == []


def test_without_a_private_folder_the_systems_is_used(run_process, tmp_path: Path) -> None:
    run_process("cache", "--cache", tmp_path, TMPDIR=str(tmp_path / "none"))
