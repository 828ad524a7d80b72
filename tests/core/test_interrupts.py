"""Ctrl-C and SIGTERM at any moment: one message, an exit code, no traceback."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import ROOT, SMALL, Finished, environment_at, make_images, run_python

# Runs the command line, and sends itself a signal when a certain module is imported.
PROGRAM = """
import os, sys
number, module, *sys.argv[1:] = sys.argv[1:]

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), int(number))

sys.meta_path.insert(0, Finder())
from pipeline.__main__ import main

if __name__ == "__main__":
    main()
"""
MODULES = ["click", "tqdm", "numpy", "pipeline.commands.extract", "PIL.Image", "lance", "pyarrow.lib", "filelock"]


@pytest.mark.parametrize("module", MODULES)
def test_an_interrupt_during_an_import(module: str, home: Path, tmp_path: Path) -> None:
    number = signal.SIGTERM if MODULES.index(module) % 2 else signal.SIGINT
    (tmp_path / "program.py").write_text(PROGRAM)
    images = make_images(tmp_path / "images", range(2))
    command = ("extract", images, *SMALL, "--cache", tmp_path / "cache")
    finished = run_python(tmp_path / "program.py", int(number), module, *command, env=environment_at(home))
    check_interrupted(finished, number)


@pytest.mark.parametrize("delay", [0.1, 0.2, 0.4, 0.8])
def test_an_interrupt_during_startup(delay: float, home: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipeline", "extract", tmp_path / "none", "--weights", "random:0"]
    process = subprocess.Popen(
        list(map(str, command)), cwd=ROOT, env=environment_at(home), stderr=subprocess.PIPE, text=True
    )
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    if process.returncode not in (2, -signal.SIGINT):  # finished before, or not started
        check_interrupted(Finished(process.returncode, "", err), signal.SIGINT)


def test_an_interrupt_is_repeated_if_python_ignores_it(tmp_path: Path) -> None:
    code = """
import os, signal, time
from pipeline.core.interrupts import arrived_interrupt, end_at_interrupts, raise_interrupts

class Closing:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)

end_at_interrupts()
raise_interrupts()
try:
    Closing()
    time.sleep(60)
except KeyboardInterrupt as error:
    print(type(error).__name__, type(arrived_interrupt()).__name__)
"""
    finished = run_python("-c", code, env=environment_at(tmp_path))
    assert (finished.out, finished.err) == ("Terminated Terminated\n", "")


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_an_interrupt_keeps_its_message_if_a_library_raises_another_error(number: str, tmp_path: Path) -> None:
    code = f"""
import os, signal, time
from pipeline.core.errors import Interrupted, interrupted_with
from pipeline.core.interrupts import end_at_interrupts, raise_interrupts

end_at_interrupts()
raise_interrupts()
try:
    with interrupted_with("Interrupted. Resume with B."):
        raise ValueError("no interrupt")
except ValueError as error:
    print(error)
try:
    with interrupted_with("Interrupted. Resume with B."):
        try:
            os.kill(os.getpid(), signal.{number})
            time.sleep(60)
        except KeyboardInterrupt:
            raise ImportError("half a module")
except Interrupted as error:
    print(error)
"""
    finished = run_python("-c", code, env=environment_at(tmp_path))
    assert (finished.out, finished.err) == ("no interrupt\nInterrupted. Resume with B.\n", "")


def check_interrupted(finished: Finished, number: signal.Signals) -> None:
    assert finished.code == 128 + number, finished.err
    assert finished.err.strip().startswith("Interrupted")
    assert len(finished.err.strip().splitlines()) == 1
