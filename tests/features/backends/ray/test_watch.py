"""The program that reports that Ray has ended a run."""

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.features.backends.ray import watch


@contextlib.contextmanager
def listening(family: socket.AddressFamily, address: str | tuple[str, int], is_there: bool) -> Iterator[socket.socket]:
    """A program's socket; nobody listens on it if the program is gone."""
    with socket.socket(family) as opened:
        opened.bind(address)
        if is_there:
            opened.listen()
        yield opened


@pytest.mark.parametrize(
    ("last_words", "gone", "expected"),
    [
        (b"", "raylet", "its program raylet is gone"),
        (b"", "gcs_server", "its program gcs_server is gone"),
        (b"", "raylet gcs_server", "its program raylet and gcs_server is gone"),
        (b"", "", ""),  # the run was killed, but not by Ray
        (b"done", "raylet", ""),
    ],
)
def test_the_missing_program_is_named(last_words: bytes, gone: str, expected: str, tmp_path: Path) -> None:
    with (
        listening(socket.AF_UNIX, str(tmp_path / "raylet"), "raylet" not in gone),
        listening(socket.AF_INET, ("127.0.0.1", 0), "gcs_server" not in gone) as gcs,
    ):
        ended = subprocess.run(
            [sys.executable, "-I", watch.__file__, tmp_path / "raylet", f"127.0.0.1:{gcs.getsockname()[1]}"],
            input=last_words,
            capture_output=True,
            timeout=60,
        )
    assert (ended.returncode, ended.stdout) == (0, b"")
    assert expected in ended.stderr.decode()
    assert bool(expected) == bool(ended.stderr)
