"""Standard streams while `quietly` captures them, and GPUs that the backend does not see."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.core import keras_backend, tf32
from pipeline.core.keras_backend import import_keras

ROOT = Path(__file__).resolve().parents[2]
PREPARE = "import os, sys, threading, time\nfrom pipeline.core.keras_backend import quietly\n"
PROGRAMS = {
    "held back, then open again": (
        "with quietly():\n    os.write(1, b'noise')\n    os.write(2, b'noise')\n"
        "print('out'); print('err', file=sys.stderr)",
        "out\n",
        "err\n",
    ),
    "what Python buffered goes the right way": (
        "print('before')\nwith quietly():\n    print('inside')\nprint('after')",
        "before\nafter\n",
        "",
    ),
    "nested": (
        "with quietly():\n    with quietly():\n        os.write(1, b'noise')\n    os.write(1, b'noise')\nprint('out')",
        "out\n",
        "",
    ),
    "two threads": (
        "def work():\n"
        "    for _ in range(50):\n        with quietly():\n            os.write(1, b'noise'); time.sleep(0.0005)\n"
        "threads = [threading.Thread(target=work) for _ in range(4)]\n"
        "[thread.start() for thread in threads]; [thread.join() for thread in threads]\n"
        "print('out'); print('err', file=sys.stderr)",
        "out\n",
        "err\n",
    ),
    "shown if it fails": (
        "try:\n    with quietly():\n        os.write(1, b'why\\n')\n        raise ValueError\n"
        "except ValueError:\n    print('out')",
        "out\n",
        "why\n",
    ),
    "nothing to show of an interrupt": (
        "try:\n    with quietly():\n        os.write(2, b'noise')\n        raise KeyboardInterrupt\n"
        "except KeyboardInterrupt:\n    print('out')",
        "out\n",
        "",
    ),
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_streams_are_restored(program: str) -> None:
    code, out, err = PROGRAMS[program]
    buffered = os.environ | {"PYTHONUNBUFFERED": ""}
    done = subprocess.run(
        [sys.executable, "-c", PREPARE + code], cwd=ROOT, capture_output=True, text=True, env=buffered
    )
    assert (done.stdout, done.stderr) == (out, err)


def test_an_import_restores_the_garbage_collector() -> None:
    code = "import gc, sys\nfrom pipeline.core.keras_backend import import_keras\n"
    code += "for wanted in (True, False):\n    gc.enable() if wanted else gc.disable()\n"
    code += "    sys.modules.pop('keras', None)\n    import_keras()\n    print(gc.isenabled())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "True\nFalse\n", done.stderr


def test_closed_streams_are_tolerated(tmp_path: Path) -> None:
    code = f"{PREPARE}with quietly():\n    os.write(1, b'noise'); os.write(2, b'noise')\n"
    code += "print(*(os.path.realpath(f'/dev/fd/{n}') == os.devnull for n in (1, 2)), file=open(sys.argv[1], 'w'))"
    for redirection, expected in {">&-": "True False", "2>&-": "False True", ">&- 2>&-": "True True"}.items():
        command = ["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-c", code, str(tmp_path / "result")]
        done = subprocess.run(command, cwd=ROOT, capture_output=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
        assert (tmp_path / "result").read_text().strip() == expected


def test_a_gpu_invisible_to_the_backend_is_reported_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keras_backend, "DEVICES", tmp_path)
    assert keras_backend.unseen_gpu() is None
    (tmp_path / "kfd").touch()
    assert "install JAX or PyTorch for ROCm" in str(keras_backend.unseen_gpu())
    (tmp_path / "nvidia0").touch()
    assert keras_backend.unseen_gpu() == (
        f"tensorflow does not see the GPU of this machine ({tmp_path}/nvidia0); run pip install 'image-vectors[cuda]'"
    )
    with monkeypatch.context() as hidden:
        hidden.setenv("CUDA_VISIBLE_DEVICES", "")
        assert keras_backend.unseen_gpu() is None
    monkeypatch.setattr(keras_backend, "accelerators", lambda: ["gpu:0"])
    assert keras_backend.unseen_gpu() is None


def test_float32_is_not_rounded_unless_tf32_is_allowed() -> None:
    import_keras()
    import tensorflow

    is_rounded = tensorflow.config.experimental.tensor_float_32_execution_enabled
    assert not is_rounded()
    with tf32.allowed("tensorflow"):
        with tf32.allowed("tensorflow"):
            assert is_rounded()
        assert is_rounded()  # the other block has ended, perhaps in another thread
    assert not is_rounded()
