"""A Ray cluster: join one or start one on this machine, and plan its actors. Ray is imported late."""

import contextlib
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.child_processes import blocked
from pipeline.core.errors import Parameter, PipelineError, RequestError, first_line
from pipeline.core.keras_backend import quietly
from pipeline.core.machine import usable_cores
from pipeline.core.temporary_folder import shared_folder
from pipeline.core.wording import counted
from pipeline.features.options import RayOptions

# For Ray started on this machine: its object store buffers results until they are stored, but no pixels.
OBJECT_STORE = 2**29  # bytes
# Environment variables for the import of Ray, and for the processes that it starts.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # Ray's reports of dead actors would go to stdout
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@dataclass(frozen=True)
class Fleet:
    """The actors of a run and their resources.

    Attributes:
        nodes: The number of nodes with at least one CPU.
        actors: The number of actors.
        cpus_each: The processors of each actor.
        gpus_each: The GPUs of each actor.
    """

    nodes: int
    actors: int
    cpus_each: int
    gpus_each: float

    def __str__(self) -> str:
        gpus = f" and {self.gpus_each:g} GPUs" if self.gpus_each else ""
        share = f"{counted(self.cpus_each, 'CPU')}{gpus}"
        return f"{counted(self.actors, 'actor')} of {share} on {counted(self.nodes, 'node')}"


@contextlib.contextmanager
def connected(address: str) -> Iterator[None]:
    """Join or start a cluster; leave or stop it at the end.

    Args:
        address: See `RayOptions`.

    Raises:
        RequestError: There is no cluster.
        PipelineError: Ray does not start.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    with contextlib.ExitStack() as stack:
        if address == "local":
            # Not Ray's default folder, where every session leaves its logs; a short name, as socket paths contain it.
            folder = tempfile.mkdtemp(prefix="ray-", dir=shared_folder())
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            # SIGTERM may go to all processes of a job; if Ray's processes end, Ray ends this one without a message.
            with blocked(signal.SIGTERM):
                _init(
                    address="local",
                    num_cpus=usable_cores(),
                    include_dashboard=False,
                    object_store_memory=OBJECT_STORE,
                    _temp_dir=folder,
                )
        else:
            _init(address="auto")
        import ray

        stack.callback(ray.shutdown)
        stack.enter_context(_watched())
        yield


@contextlib.contextmanager
def _watched() -> Iterator[None]:
    """Start a program that reports if Ray ends this process; see `watch.py`."""
    import ray

    context = ray.get_runtime_context()
    raylet = next(node["RayletSocketName"] for node in ray.nodes() if node["NodeID"] == context.get_node_id())
    program = Path(__file__).with_name("watch.py")
    with blocked(signal.SIGINT):  # which may be sent to all processes
        watch = subprocess.Popen(
            [sys.executable, "-I", program, raylet, context.gcs_address],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=_message_stream(),
            start_new_session=True,
        )
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            watch.communicate(b"done")


def _message_stream() -> int | None:
    """The descriptor of `sys.stderr`, which is not 2 if libraries are silenced; None if there is no descriptor."""
    try:
        return sys.stderr.fileno()
    except (AttributeError, OSError):  # closed, or in a notebook
        return None


def _init(**settings: Any) -> None:
    """Connect, without Ray's messages and with our handler of SIGTERM."""
    import ray

    is_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with quietly(), warnings.catch_warnings():
            # Ray forks only to start its own programs; Lance does not run in them.
            warnings.filterwarnings("ignore", "lance is not fork-safe", UserWarning)
            ray.init(log_to_driver=False, logging_level=logging.CRITICAL, **settings)
    except ConnectionError as error:
        raise RequestError(
            Parameter("ray", "auto"),
            " finds no Ray cluster. Run it on a node of one (ray start --head), name one by the variable RAY_ADDRESS, "
            "or start Ray here with ",
            Parameter("ray", "local"),
            ".",
        ) from error
    except Exception as error:  # Ray raises several types, and a plain Exception if its programs do not answer
        raise PipelineError(f"Ray does not start ({first_line(error)}).") from error
    except SystemExit:  # from the handler of SIGTERM that Ray sets while it starts
        if callable(handler):
            handler(signal.SIGTERM, None)
        raise
    finally:
        if is_main_thread:
            signal.signal(signal.SIGTERM, handler)
    import ray.data  # its import configures its log messages

    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def current_fleet(options: RayOptions, limit: int) -> Fleet:
    """The fleet for the current state of the cluster; see `fleet_for`."""
    import ray

    return fleet_for([node["Resources"] for node in ray.nodes() if node["Alive"]], options, limit)


def fleet_for(nodes: Sequence[Mapping[str, float]], options: RayOptions, limit: int | None = None) -> Fleet:
    """Divide a cluster among actors, each with as many processors as fit.

    Args:
        nodes: The resources of each node by name, as Ray reports them.
        options: The requested resources.
        limit: The maximum number of actors, determined by the amount of work.

    Raises:
        RequestError: The cluster has too few processors or GPUs.
    """
    usable = [node for node in nodes if node.get("CPU", 0) >= 1]
    if not usable:
        raise RequestError(
            f"No node of the Ray cluster ({counted(len(nodes), 'node')}) has a CPU to give; add nodes, or start Ray "
            "with more CPUs."
        )
    room = _room(usable, 1, options.gpus_each)
    actors = options.actors or (room if options.gpus_each else len(usable))
    if room < max(actors, 1):
        cpus, gpus = (int(sum(node.get(name, 0) for node in usable)) for name in ("CPU", "GPU"))
        share = f"a CPU and {options.gpus_each:g} GPUs" if options.gpus_each else "a CPU"
        raise RequestError(
            f"The Ray cluster ({counted(len(usable), 'node')}, {counted(cpus, 'CPU')}, {counted(gpus, 'GPU')}) has "
            f"room for {counted(room, 'actor')} with {share}, not for {max(actors, 1)}; give it more nodes, or ask for "
            "fewer with ",
            Parameter("actors", "N"),
            " and ",
            Parameter("gpus_each", "X"),
            ".",
        )
    actors = min(actors, limit or actors)
    largest = int(max(node["CPU"] for node in usable))
    cpus_each = next(cpus for cpus in range(largest, 0, -1) if _room(usable, cpus, options.gpus_each) >= actors)
    return Fleet(len(usable), actors, cpus_each, options.gpus_each)


def _room(nodes: Sequence[Mapping[str, float]], cpus: int, gpus: float) -> int:
    """The number of actors with these processors and GPUs that fit."""
    return sum(
        int(min(node["CPU"] // cpus, math.floor(node.get("GPU", 0) / gpus + 1e-9) if gpus else math.inf))
        for node in nodes
    )
