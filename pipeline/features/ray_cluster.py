"""A Ray cluster: joined, or started on this machine, and what it has room for. Ray is imported late."""

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
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pipeline.core.child_processes import blocked
from pipeline.core.cores import usable_cores
from pipeline.core.errors import Parameter, PipelineError, RequestError, first_line
from pipeline.core.keras_backend import quietly
from pipeline.core.temporary_folder import shared_folder
from pipeline.core.wording import counted

INSTALL = "pip install 'image-vectors[ray]'"
# Of the Ray that is started here: results wait in it until they are stored, and no pixels.
OBJECT_STORE = 2**29  # bytes
# Read when Ray is imported, and by the processes that it starts.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # what Ray reports of actors that died would go to stdout
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@dataclass(frozen=True)
class RayOptions:
    """Where Ray runs, and what its actors are given.

    Attributes:
        address: "local" starts Ray on this machine; "auto" joins the cluster that this machine, or the environment's
            RAY_ADDRESS, belongs to.
        actors: How many actors compute; None means one for each share of GPUs or, without them, for each node.
        gpus_each: The GPUs of an actor, or its share of one.
    """

    address: str
    actors: int | None = None
    gpus_each: float = 0

    def __post_init__(self) -> None:
        place = self.address if self.address != "auto" else os.environ.get("RAY_ADDRESS", "")
        if "://" in place:
            raise RequestError(
                f"{place}: extraction does not run through Ray's client, whose connection all results would "
                "have to take. Submit it as a job: ray job submit --address http://HOST:8265 -- "
                "python -m pipeline extract ... --ray auto."
            )
        if self.address not in ("auto", "local"):
            raise RequestError(f"ray {self.address!r} is neither 'auto' nor 'local'.")
        if self.actors is not None and self.actors < 1:
            raise RequestError(f"actors must be at least 1, not {self.actors}.")
        if self.gpus_each < 0 or (self.gpus_each > 1 and self.gpus_each != int(self.gpus_each)):
            raise RequestError(f"gpus_each is a share of a GPU or a whole number of them, not {self.gpus_each}.")
        if not (find_spec("ray") and find_spec("pandas")):  # which Ray Data needs, and Ray without it lacks
            raise RequestError(
                Parameter("ray", self.address), f" needs Ray with Ray Data, which is not installed: {INSTALL}."
            )


@dataclass(frozen=True)
class Fleet:
    """The actors that a cluster has room for.

    Attributes:
        nodes: The nodes that have processors to give.
        actors: How many actors there are.
        cpus_each: The processors of each.
        gpus_each: The GPUs of each.
    """

    nodes: int
    actors: int
    cpus_each: int
    gpus_each: float

    def __str__(self) -> str:
        gpus = f" and {self.gpus_each:g} GPUs" if self.gpus_each else ""
        each = f"{counted(self.cpus_each, 'CPU')}{gpus}"
        return f"{counted(self.actors, 'actor')} of {each} on {counted(self.nodes, 'node')}"


@contextlib.contextmanager
def connected(address: str) -> Iterator[None]:
    """Join or start a cluster; leave it, or end it, at the end.

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
            # Not Ray's usual folder, where every session leaves its logs; a short name, for sockets lie below.
            folder = tempfile.mkdtemp(prefix="ray-", dir=shared_folder())
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            # SIGTERM may go to all processes of a job; Ray ends this one at once, without a message, when its own end.
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
    """Let a program of its own say so if Ray ends this process; see `ray_watch.py`."""
    import ray

    context = ray.get_runtime_context()
    raylet = next(node["RayletSocketName"] for node in ray.nodes() if node["NodeID"] == context.get_node_id())
    program = Path(__file__).with_name("ray_watch.py")
    with blocked(signal.SIGINT):  # which may go to all processes, and is not for this one
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
    """The descriptor of `sys.stderr`, which is not 2 where libraries are silenced; None if it has none."""
    try:
        return sys.stderr.fileno()
    except (AttributeError, OSError):  # closed, or a notebook's
        return None


def _init(**settings: Any) -> None:
    """Connect, without Ray's messages and with our own handling of SIGTERM."""
    import ray

    in_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
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
    except Exception as error:  # Ray raises several types, and a plain Exception where its programs do not answer
        raise PipelineError(f"Ray does not start ({first_line(error)}).") from error
    except SystemExit:  # by the handler of SIGTERM that Ray sets while it starts
        if callable(before):
            before(signal.SIGTERM, None)
        raise
    finally:
        if in_main:
            signal.signal(signal.SIGTERM, before)
    import ray.data  # which sets up its messages when it is imported

    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def current_fleet(options: RayOptions, most: int) -> Fleet:
    """What the cluster has room for now; see `fleet_for`."""
    import ray

    return fleet_for([node["Resources"] for node in ray.nodes() if node["Alive"]], options, most)


def fleet_for(nodes: Sequence[Mapping[str, float]], options: RayOptions, most: int | None = None) -> Fleet:
    """Share a cluster out among actors: as many processors for each as leave room for all.

    Args:
        nodes: For each node its resources by name, as Ray gives them.
        options: What is asked for.
        most: The most actors that there is work for.

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
        each = f"a CPU and {options.gpus_each:g} GPUs" if options.gpus_each else "a CPU"
        raise RequestError(
            f"The Ray cluster ({counted(len(usable), 'node')}, {counted(cpus, 'CPU')}, {counted(gpus, 'GPU')}) has "
            f"room for {counted(room, 'actor')} with {each}, not for {max(actors, 1)}; give it more nodes, or ask for "
            "fewer with ",
            Parameter("actors", "N"),
            " and ",
            Parameter("gpus_each", "X"),
            ".",
        )
    actors = min(actors, most or actors)
    largest = int(max(node["CPU"] for node in usable))
    cpus_each = next(cpus for cpus in range(largest, 0, -1) if _room(usable, cpus, options.gpus_each) >= actors)
    return Fleet(len(usable), actors, cpus_each, options.gpus_each)


def _room(nodes: Sequence[Mapping[str, float]], cpus: int, gpus: float) -> int:
    """How many actors with so many processors and GPUs each fit."""
    return sum(
        int(min(node["CPU"] // cpus, math.floor(node.get("GPU", 0) / gpus + 1e-9) if gpus else math.inf))
        for node in nodes
    )
