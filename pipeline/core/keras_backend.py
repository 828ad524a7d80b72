"""Lazy, quiet import of Keras: TensorFlow takes seconds to load and writes its own log to the terminal."""

import contextlib
import ctypes
import gc
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType

from pipeline.core import tf32
from pipeline.core.machine import usable_cores
from pipeline.core.standard_streams import open_closed_streams

# Device files of NVIDIA, WSL and AMD GPUs and of TPUs in Linux's /dev. Checking them is free; importing a backend takes
# seconds.
DEVICES = Path("/dev")
NVIDIA, AMD, OTHERS = ("nvidia[0-9]*", "dxg"), ("kfd",), ("accel*", "vfio/[0-9]*")
# Backend -> how to make it see an NVIDIA GPU, and an AMD GPU.
ADVICE = {
    "tensorflow": (
        "run pip install 'image-vectors[cuda]'",
        "install JAX or PyTorch for ROCm, and set KERAS_BACKEND to jax or torch",
    ),
    "jax": ("run pip install 'jax[cuda12]'", "install JAX for ROCm"),
    "torch": ("install PyTorch for CUDA", "install PyTorch for ROCm"),
}
# By default, TensorFlow and JAX reserve most of a GPU's memory at the start, so that other processes cannot use it.
GROWTH = {"TF_FORCE_GPU_ALLOW_GROWTH": "true", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
HIDING = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")  # variables with which a user hides GPUs

_swapping = threading.RLock()


def import_keras() -> ModuleType:
    """Import Keras with the backend set by `KERAS_BACKEND` or Keras's own configuration (TensorFlow by default).

    On GPUs, float32 is not rounded to TF32 (see `tf32.py`), and memory is allocated as needed.

    Returns:
        The module `keras`.
    """
    for name, value in GROWTH.items():
        os.environ.setdefault(name, value)
    if "keras" not in sys.modules:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(usable_cores()))
        with quietly(), _without_garbage_collection():
            import keras

            tf32.turn_off(keras.backend.backend())
    return sys.modules["keras"]


def accelerators() -> list[str]:
    """The GPUs and TPUs that Keras's backend sees, by Keras's names ("gpu:0", ...).

    Keras is imported only if the machine seems to have one.
    """
    if not _device_file(*NVIDIA, *AMD, *OTHERS):
        return []
    return [device for device in visible_devices() if not device.startswith("cpu")]


def visible_devices() -> list[str]:
    """The accelerators that Keras's backend sees, by Keras's names ("gpu:0", ...); without any, its CPU devices.

    There is usually one CPU device, "cpu:0".
    """
    keras = import_keras()
    if keras.backend.backend() != "torch":
        return keras.distribution.list_devices()
    import torch

    return [f"gpu:{number}" for number in range(torch.cuda.device_count())] or ["cpu:0"]


def unseen_gpu() -> str | None:
    """A sentence about a GPU that Keras's backend does not see, and what to install.

    None if there is no such GPU, or if it is hidden on purpose.
    """
    nvidia, amd = _device_file(*NVIDIA), _device_file(*AMD)
    is_hidden = any(os.environ.get(name) in ("", "-1") for name in HIDING)
    if not (nvidia or amd) or is_hidden or accelerators():
        return None
    backend = import_keras().backend.backend()
    for_nvidia, for_amd = ADVICE.get(backend, ("install its driver", "install its driver"))
    return f"{backend} does not see the GPU of this machine ({nvidia or amd}); {for_nvidia if nvidia else for_amd}"


def _device_file(*patterns: str) -> Path | None:
    return next((path for pattern in patterns for path in sorted(DEVICES.glob(pattern))), None)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Capture what libraries write to stdout, and C++ code to stderr; show it on stderr if the block fails.

    The descriptors belong to the whole process, so only one thread at a time swaps them; blocks may be nested.
    """
    open_closed_streams()
    with _swapping, tempfile.TemporaryFile() as output:
        _flush()
        out, err = os.dup(1), os.dup(2)
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        try:
            with open(1, "w", encoding="utf-8", errors="replace", closefd=False) as printed, redirect_stdout(printed):
                yield
        except Exception:  # not for an interrupt, which the output cannot explain
            output.seek(0)
            os.write(err, output.read())
            raise
        finally:
            _flush()
            for copy, standard in ((out, 1), (err, 2)):
                os.dup2(copy, standard)
                os.close(copy)


@contextlib.contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Disable the garbage collector: it takes a fifth of an import's time, and imported objects stay alive anyway."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _flush() -> None:
    """Flush the buffers of Python and of the C library."""
    for stream in (sys.stdout, sys.stderr):
        if stream:  # None if the process was started without it
            stream.flush()
    with contextlib.suppress(AttributeError, OSError, TypeError):  # Windows
        ctypes.CDLL(None).fflush(None)
