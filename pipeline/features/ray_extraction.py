"""Extraction on Ray: Ray Data hands blocks of images to actors, and this process alone stores what they answer.

    survey ─ blocks of references ─ actors: read, decode, compute ─ rows ─ this process: survey, feature store

There are no tasks but the actors' own: the blocks are in Ray's object store from the beginning. So actors may take all
processors of a cluster, and nothing waits for one that is never free. Pixels never leave a node.
"""

import logging
import pickle
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.core.errors import PipelineError, first_line
from pipeline.core.wording import counted
from pipeline.data.decoding import THUMBNAIL
from pipeline.data.images import ImageSet
from pipeline.features.computation import Computed, Saver
from pipeline.features.ray_actor import CALLS_AT_ONCE, IMAGE, ActorOptions, FeatureActor, as_array
from pipeline.features.ray_cluster import Fleet, RayOptions, connected
from pipeline.features.survey import Survey
from pipeline.features.workers import Decoded

log = logging.getLogger(__name__)

TRIES = 4  # of a block whose actor dies; nodes may come and go, so actors are started again without end


def compute_on_ray(
    survey: Survey,
    images: ImageSet,
    known: np.ndarray,
    saver: Saver,
    options: RayOptions,
    actor: ActorOptions,
    bar: Any,
) -> Computed:
    """Compute the features of the images that a survey does not know.

    Args:
        survey: The survey, which notes what is found.
        images: The images.
        known: The digests of the images that need no computing, sorted, shape (n,), DIGEST.
        saver: Stores the features.
        options: Where Ray runs.
        actor: What the actors do.
        bar: The progress bar, which counts what need not be stored.

    Returns:
        What was computed.

    Raises:
        RequestError: There is no cluster, or it is too small.
        PipelineError: An actor cannot compute, or dies several times over the same images; or the store cannot be
            written. What was computed before is stored.
    """
    with connected(options) as fleet:
        computed = Computed(fleet=fleet)
        log.info(
            "Ray: %s of %s%s on %s; they start.",
            counted(fleet.actors, "actor"),
            counted(fleet.cpus_each, "CPU"),
            f" and {fleet.gpus_each:g} GPUs" if fleet.gpus_each else "",
            counted(fleet.nodes, "node"),
        )
        left = set(survey.unknown)
        try:
            for table in _answers(images, survey.unknown, known, fleet, actor):
                computed.started_at = computed.started_at or time.monotonic()
                computed.engine = table["engine"][0].as_py() or computed.engine
                decoded = [Decoded(**row) for row in table.select(IMAGE.names).to_pylist()]
                left.difference_update(image.number for image in decoded)
                rows = [row for row, image in enumerate(decoded) if survey.note(image)]
                bar.update(len(decoded) - len(rows))
                if rows:
                    vectors = [as_array(table[f"vector{number}"])[rows] for number in range(len(actor.extractors))]
                    thumbnails = as_array(table["thumbnail"])[rows].reshape(-1, THUMBNAIL, THUMBNAIL)
                    saver.add([decoded[row] for row in rows], vectors, thumbnails)
        except RayFailure as error:
            raise PipelineError(
                _failure(error, [images.paths[number] for number in sorted(left)[: actor.block]])
            ) from (error)
        finally:
            saver.flush()
            survey.record()
    computed.count = saver.count
    return computed


class RayFailure(Exception):
    """Ray, not the pipeline, gave up."""


def _answers(
    images: ImageSet, numbers: Sequence[int], known: np.ndarray, fleet: Fleet, actor: ActorOptions
) -> Iterator[pa.Table]:
    """Let the actors compute images; their answers, block by block, in the order in which they come.

    Raises:
        PipelineError: One of the pipeline, from an actor.
        RayFailure: Ray gave up.
    """
    import ray
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.raise_original_map_exception = True
    blocks = [numbers[at : at + actor.block] for at in range(0, len(numbers), actor.block)]
    stage = ray.data.from_arrow([_block(images, block) for block in blocks])
    with warnings.catch_warnings():
        # Ray 2.60 has no other place for the limits of an actor, and takes this one until 2.64.
        warnings.simplefilter("ignore", ray.data.dataset.RayDeprecationWarning)
        stage = stage.map_batches(
            FeatureActor,
            batch_size=None,  # a block for a call
            batch_format="pyarrow",
            fn_constructor_args=([ray.put(known)], actor),
            num_cpus=fleet.cpus_each,
            num_gpus=fleet.gpus_each or None,
            compute=ray.data.ActorPoolStrategy(
                size=min(fleet.actors, len(blocks)),
                max_concurrent_calls_per_actor=CALLS_AT_ONCE,
                enable_true_multi_threading=True,
            ),
            ray_remote_args_fn=lambda: {"max_restarts": -1, "max_task_retries": TRIES - 1},
        )
    try:
        yield from stage.iter_batches(batch_size=None, batch_format="pyarrow")
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, PipelineError):
            raise error.cause from error
        raise RayFailure(first_line(error.cause or error)) from error
    except (ray.exceptions.RayError, ray.data.exceptions.RayDataUserCodeException) as error:
        raise RayFailure(first_line(error)) from error


def _block(images: ImageSet, numbers: Sequence[int]) -> pa.Table:
    refs = [pickle.dumps(images.refs[number]) for number in numbers]
    return pa.table({"number": pa.array(numbers, pa.int64()), "ref": pa.array(refs, pa.binary())})


def _failure(error: RayFailure, in_work: Sequence[str]) -> str:
    named = f"{in_work[0]} to {in_work[-1]}" if in_work else "none"
    return (
        f"Ray gave up after {TRIES} tries of a block of images ({error}). In work were {named}, or such as were begun "
        "with them. What was computed before is stored, and the same command resumes. If it stops at the same images, "
        "extract them without ray: that names the one at fault, which later runs pass over."
    )
