"""Leaks of memory, file handles and processes; Ctrl-C; and unusual environments."""

import os
import signal
import subprocess
from pathlib import Path

import psutil
import pytest
from helpers import SMALL, is_gone_soon, make_image, make_images, run_program, wait_until, write_targets


@pytest.mark.parametrize("count", [300, pytest.param(3000, marks=pytest.mark.faults)])
@pytest.mark.parametrize("engine", ["mnn", "keras"])
def test_many_batches_leak_nothing(engine: str, count: int, times: int, tmp_path: Path) -> None:
    measured = run_program("leak", engine, tmp_path / "cache", count * times).json
    memory, handles, third = measured["memory"], measured["handles"], count * times // 3
    assert len(memory) == count * times
    assert memory[-1] < 1.01 * memory[-third]
    assert handles[-1] == handles[third]


@pytest.mark.parametrize("everyone", [True, False], ids=["Ctrl-C", "SIGTERM"])
def test_an_interrupted_extraction_says_how_to_resume(start, fresh_cache, everyone: bool, tmp_path: Path) -> None:
    images, cache = make_images(tmp_path / "images", range(400)), fresh_cache("cache")
    process = start("extract", images, *SMALL, "--cache", cache)
    wait_until(lambda: list(cache.glob("features/*/data/*")), process)
    # Ctrl-C goes to all processes of the terminal, SIGTERM to one process.
    os.killpg(process.pid, signal.SIGINT) if everyone else process.terminate()
    out, messages = process.communicate(timeout=60)
    assert process.returncode == (130 if everyone else 143), messages
    assert "the same command resumes" in messages
    assert not any(word in messages for word in ("leaked", "Exception", "Traceback")), messages
    assert out == ""
    assert is_gone_soon(process.pid)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_with_stopped_workers_can_be_interrupted_at_once(start, fresh_cache, number: int, tmp_path: Path) -> None:
    images, cache = make_images(tmp_path / "images", range(400)), fresh_cache("cache")
    process = start("extract", images, *SMALL, "--cache", cache)
    wait_until(lambda: list(cache.glob("features/*/data/*")), process)
    for child in psutil.Process(process.pid).children():
        if any("spawn_main" in part for part in child.cmdline()):  # not multiprocessing's resource tracker
            child.send_signal(signal.SIGSTOP)
    process.send_signal(number)
    _, messages = process.communicate(timeout=15)
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[number], messages
    assert "the same command resumes" in messages
    assert is_gone_soon(process.pid)


@pytest.mark.faults
def test_a_terminated_training_says_how_to_resume(start, tmp_path: Path) -> None:
    images = make_images(tmp_path / "images" / "red", range(4)).parent
    options = ("--epochs", 10**6, "--models", tmp_path / "models")
    process = start(
        "train", images, "--targets", write_targets(tmp_path, "red"), *SMALL, *options, program="frequent_checkpoints"
    )
    wait_until(lambda: list(tmp_path.glob("models/*/checkpoint.npz")), process)
    process.terminate()
    _, messages = process.communicate(timeout=60)
    assert process.returncode == 143, messages
    [run] = (tmp_path / "models").iterdir()
    assert f"Resume with: python -m pipeline train --resume {run}" in messages
    assert "Traceback" not in messages
    assert is_gone_soon(process.pid)


@pytest.mark.faults
def test_unusual_folders_and_clocks(run, run_process, fresh_cache, tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("é" * 60) / ("f" * 100)
    (deep / "red").mkdir(parents=True)
    for number in range(5):
        make_image(number).save(deep / "red" / f"{'n' * 200}{number}.png")
    still = tmp_path / "still"
    still.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", still], capture_output=True)
    if mounted.returncode:
        still.chmod(0o555)
    odd = {
        **{"HOME": str(tmp_path / "no" / "home"), "TZ": "Pacific/Kiritimati"},
        **{"LC_ALL": "C", "LANG": "tr_TR.UTF-8", "PYTHONUTF8": "0"},
    }
    cache = ("--cache", fresh_cache("cache"), "--json")
    try:
        options = ("--epochs", 2, "--api", "functional", "--models", tmp_path / "models")
        targets = write_targets(tmp_path, "red")
        trained = run_process("train", deep, "--targets", targets, *SMALL, *cache, *options, cwd=still, **odd).json
        assert trained["images"] == 5
        assert run("evaluate", trained["run"], *cache, cwd=still, **odd).json["images"] == 1
    finally:
        subprocess.run(["umount", "--lazy", still], capture_output=True)
