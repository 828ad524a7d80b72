"""The backend on Ray: Ray Data passes blocks of images to actors, which answer with results.

    blocks of references ─ actors: read, decode, compute ─ rows ─ results

All blocks are in Ray's object store from the start, so the actors' tasks are the only ones. Actors can therefore use
all processors of a cluster, and no task waits forever for a free one. Pixels never leave a node.
"""

import contextlib
import logging
import pickle
import time
from collections.abc import Generator, Iterator, Sequence

import numpy as np
import pyarrow as pa

from pipeline.core.errors import PipelineError
from pipeline.core.wording import counted
from pipeline.data.images import ImageSet
from pipeline.features.backends import Backend, Result
from pipeline.features.backends.ray.actor import CALLS_AT_ONCE, ActorOptions, FeatureActor, block_size, results_from
from pipeline.features.backends.ray.cluster import Fleet, connected, current_fleet
from pipeline.features.cache import usual_folder
from pipeline.features.extractor import Extractor
from pipeline.features.options import ExtractionOptions, RayOptions
from pipeline.features.store_group import StoreGroup

log = logging.getLogger(__name__)

# Nodes may come and go, so Ray restarts dead actors wherever there is room and repeats their work, without limit, until
# no answer has come for this many seconds. That is enough time to download and convert a network.
PATIENCE = 600
ADVICE = "\nFailed to "  # the start of what Ray Data appends to a message
RESUMES = "What was computed before is stored; the same command resumes."


class RayBackend(Backend):
    """Computes in actors on a Ray cluster.

    Args:
        extractors: The extractors to run.
        options: How to run them.
        ray: Where Ray runs, and the resources of its actors.
    """

    def __init__(self, extractors: Sequence[Extractor], options: ExtractionOptions, ray: RayOptions) -> None:
        self._extractors, self._options, self._ray = extractors, options, ray

    def results(
        self, images: ImageSet, unknown: Sequence[int], suspects: Sequence[int], stores: StoreGroup
    ) -> Generator[list[Result], None, None]:
        """See `Backend`.

        Raises:
            RequestError: There is no cluster, or it is too small.
            PipelineError: An actor cannot compute, or no answer came for PATIENCE seconds.
        """
        remaining = dict.fromkeys([*unknown, *suspects])
        block = block_size(len(remaining), self._ray.gpus_each > 0, self._options.batch_size)
        folder = self._options.folder
        cache = None if folder == usual_folder() else folder.absolute()
        actor = ActorOptions(self._extractors, self._options, block, cache)
        with connected(self._ray.address), _ray_errors_as_pipeline_errors():
            fleet = current_fleet(self._ray, -(-len(remaining) // block))
            self.nodes, self.actors = fleet.nodes, fleet.actors
            log.info("Ray: %s; they start.", fleet)
            try:
                for table in _answers(images, list(remaining), stores.digests, fleet, actor):
                    self.started_at = self.started_at or time.monotonic()
                    self.engine = table["engine"][0].as_py() or self.engine
                    self.device = table["device"][0].as_py() or self.device
                    for number in table["number"].to_pylist():
                        remaining.pop(number, None)
                    yield results_from(table)
            except _NoProgress as error:
                raise PipelineError(_stuck(images, list(remaining), fleet, block)) from error


def _stuck(images: ImageSet, remaining: Sequence[int], fleet: Fleet, block: int) -> str:
    in_work = remaining[: fleet.actors * CALLS_AT_ONCE * 2 * block]  # as many calls are queued as are running
    return (
        f"Ray has answered nothing for {PATIENCE} seconds: there is no free room for an actor, or every actor dies "
        f"over an image among {counted(len(in_work), 'image')} from {images.paths[in_work[0]]} to "
        f"{images.paths[in_work[-1]]}. {RESUMES}"
    )


class _NoProgress(Exception):
    """No answer came for PATIENCE seconds."""


def _answers(
    images: ImageSet, numbers: Sequence[int], known: np.ndarray, fleet: Fleet, actor: ActorOptions
) -> Iterator[pa.Table]:
    """The actors' answers for images, block by block, in the order of their arrival.

    Raises:
        _NoProgress: No answer came for PATIENCE seconds.
    """
    import ray
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.raise_original_map_exception = True
    context.execution_no_progress_timeout_s = PATIENCE
    blocks = [numbers[at : at + actor.block] for at in range(0, len(numbers), actor.block)]
    stage = ray.data.from_arrow([_block(images, block) for block in blocks]).map_batches(
        FeatureActor,
        batch_size=None,  # one block per call
        batch_format="pyarrow",
        fn_constructor_args=([ray.put(known)], actor),
        num_cpus=fleet.cpus_each,
        num_gpus=fleet.gpus_each or None,
        compute=ray.data.ActorPoolStrategy(
            size=fleet.actors,
            max_concurrent_calls_per_actor=CALLS_AT_ONCE,
            enable_true_multi_threading=True,
        ),
    )
    try:
        yield from stage.iter_batches(batch_size=None, batch_format="pyarrow")
    except ray.data.exceptions.ExecutionTimeoutError as error:
        raise _NoProgress from error


@contextlib.contextmanager
def _ray_errors_as_pipeline_errors() -> Iterator[None]:
    """Turn an error of Ray or of an actor into a PipelineError with a one-line message."""
    import ray

    try:
        yield
    except ray.exceptions.RayError as error:
        original = error.cause if isinstance(error, ray.exceptions.RayTaskError) else None
        message = str(original or error).partition(ADVICE)[0].strip()
        if isinstance(original, PipelineError):
            raise type(original)(message) from error
        reason = (
            message.splitlines()[-1] if message else type(original or error).__name__
        )  # the last line is the error itself
        raise PipelineError(
            f"Ray or an actor failed ({reason}). Every node needs this package, and reaches the images by the same "
            f"paths. {RESUMES}"
        ) from error


def _block(images: ImageSet, numbers: Sequence[int]) -> pa.Table:
    refs = [pickle.dumps(images.refs[number]) for number in numbers]
    return pa.table({"number": pa.array(numbers, pa.int64()), "ref": pa.array(refs, pa.binary())})
