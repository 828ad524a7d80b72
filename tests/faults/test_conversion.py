"""Interrupted conversions leave no process and no half-written network; the next run converts again.

The full VGG16 is converted: a narrow one would be done before a signal arrives.
"""

import os
import signal
import subprocess
from pathlib import Path

import psutil
import pytest
from helpers import is_gone_soon, make_images, wait_until

GRAPH = "vgg16.onnx"  # the converter's input
WEIGHTS = ".__convert_external_data.bin"  # its output, written while it holds the GIL


@pytest.fixture
def command(tmp_path: Path) -> tuple:
    """An extraction that has to convert the network first; its messages are shown."""
    images = make_images(tmp_path / "images", range(2))
    return ("extract", images, "--weights", "random:0", "--cache", tmp_path / "cache", "--layer")


def converting(cache: Path, file: str = GRAPH) -> bool:
    return any(cache.glob(f"networks/.unfinished-*/{file}"))


def finished(process: subprocess.Popen) -> str:
    """The messages of a command; fail unless it succeeds."""
    _, messages = process.communicate(timeout=300)
    assert process.returncode == 0, messages
    return messages


def test_ctrl_c_stops_a_conversion_and_the_next_run_converts(start, command: tuple, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    process = start(*command, "block5_pool")
    wait_until(lambda: converting(cache), process)
    os.killpg(process.pid, signal.SIGINT)
    _, messages = process.communicate(timeout=60)
    assert process.returncode == 130, messages
    assert "converts again (10 to 60 s)" in messages.replace("\n", " ")
    assert not any(word in messages for word in ("leaked", "Exception", "Traceback"))
    assert is_gone_soon(process.pid)
    assert [file.name for file in (cache / "networks").iterdir()] == ["converting.lock"]


@pytest.mark.parametrize(
    ("layer", "state"), [("block5_pool", GRAPH), pytest.param("fc1", WEIGHTS, marks=pytest.mark.faults)]
)
def test_a_kill_ends_the_converter_and_the_next_run_converts_again(
    start, command: tuple, layer: str, state: str, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    process = start(*command, layer)
    wait_until(lambda: converting(cache, state), process)
    process.kill()
    process.wait()
    assert is_gone_soon(process.pid)
    assert not list(cache.rglob("*.mnn"))  # the converter ended before it wrote a network

    messages = finished(start(*command, layer))
    assert "again, for an earlier conversion was killed (10 to 60 s)" in messages
    assert sorted(file.suffix for file in (cache / "networks").iterdir()) == [".lock", ".mnn"]


@pytest.mark.faults
def test_ctrl_c_in_one_terminal_does_not_stop_the_conversion_in_another(start, command: tuple, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = start(*command, "fc1")
    wait_until(lambda: converting(cache), first)
    second = start(*command, "fc1")  # waits for the network of the first run
    handles = psutil.Process(second.pid)
    wait_until(lambda: any(Path(file.path).name == "converting.lock" for file in handles.open_files()), second)
    os.killpg(second.pid, signal.SIGINT)
    _, messages = second.communicate(timeout=60)
    assert second.returncode == 130
    assert "Waiting for another process that converts VGG16 (10 to 60 s)." in messages.replace("\n", " ")
    finished(first)
    assert sorted(file.suffix for file in (cache / "networks").iterdir()) == [".lock", ".mnn"]
