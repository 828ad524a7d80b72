"""Saved decoders, named by the folder of a run or a `.keras` file; their images, targets and extractors."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pipeline.commands.examples import read_target_table
from pipeline.core.errors import Parameter, RequestError
from pipeline.core.model_files import ModelCard
from pipeline.core.runs import RUN_FILE, RunRecord, read_run
from pipeline.data.images import ImageSet
from pipeline.data.sources import find_images
from pipeline.data.targets import TargetTable
from pipeline.data.tfds_reader import check_on_disk
from pipeline.decoders.network import API_STYLES
from pipeline.features.extractor import Extractor, ExtractorOptions

log = logging.getLogger(__name__)

DecoderName = Literal["functional", "sequential", "ridge"]


def decoders_of(model: Path) -> list[Path]:
    """The decoder files of a run or a model.

    Args:
        model: The folder of a run, or a `.keras` file.

    Returns:
        The run's decoders, one for each API style it has; or the file itself, even if it does not exist.

    Raises:
        RequestError: The folder is not a finished run.
    """
    inside = [model / f"{style}.keras" for style in API_STYLES if (model / f"{style}.keras").is_file()]
    if model.is_dir() and not inside:
        if (model / RUN_FILE).is_file():
            raise RequestError(f"{model} is not finished; resume with: python -m pipeline train --resume {model}")
        raise RequestError(f"{model} is not a run: it has neither {RUN_FILE} nor a .keras file.")
    return inside or [model]


def decoder_of(model: Path, api: DecoderName | None) -> Path:
    """The decoder file that a run or a model and an API style select.

    Args:
        model: The folder of a run, or a `.keras` file.
        api: Which of a run's decoders: an API style, or "ridge", its baseline; None for the first one it has.

    Raises:
        RequestError: The folder is not a finished run, or has no such decoder.
    """
    files = decoders_of(model)
    if api is None:
        return files[0]
    if not model.is_dir():
        raise RequestError(f"{model} is one decoder; ", Parameter("api", api), " chooses among those of a run.")
    file = model / f"{api}.keras"
    if not file.is_file():
        names = ", ".join(path.stem for path in sorted(model.glob("*.keras")))
        raise RequestError(f"{model} has no decoder {api!r}; it has {names}.")
    return file


def run_beside(file: Path) -> RunRecord | None:
    """The record of the run in a decoder file's folder, or None."""
    return read_run(file.parent) if (file.parent / RUN_FILE).exists() else None


def warn_of_weak_decoder(file: Path) -> None:
    """Warn if a decoder's run shows that it is not better than the mean target."""
    run = run_beside(file)
    if run is None or file.stem not in API_STYLES:
        return
    shares = run.trained.get("shares", {})
    if shares and not any(shares.values()):
        log.warning(
            "The decoder %s ignores the image: training found nothing better than the mean target, its answer to every "
            "image.",
            file,
        )
    elif run.trained.get("above_mean") is False:
        cosine = run.trained["models"][file.stem]["validation_cosine"]
        log.warning(
            "The decoder %s was not shown to be better than always answering the mean target (held-out cosine %.3f, "
            "the mean target's %.3f), so its predictions may say nothing of an image.",
            file,
            cosine,
            run.trained["baselines"]["mean"],
        )


def images_and_targets(
    options: Mapping[str, Any],
    targets: str | None = None,
    noise_ceiling: Path | None = None,
    target_columns: str | None = None,
    data_dir: Path | None = None,
) -> tuple[ImageSet, TargetTable]:
    """All images of a run, and their targets.

    Args:
        options: The run's options; they name its images.
        targets: A file of targets; None for the run's own.
        noise_ceiling: A file of repeated targets; None for the run's own.
        target_columns: The columns of `targets` that form the embedding; None for the default rule.
        data_dir: The folder of TensorFlow data sets for a run's images; None for tensorflow-datasets' default.

    Raises:
        RequestError: The images or the targets cannot be read.
    """
    images = images_of(options, data_dir)
    repeats = noise_ceiling or (Path(options["noise_ceiling"]) if "noise_ceiling" in options else None)
    on_missing, columns = options.get("on_missing", "error"), target_columns
    if targets is None:
        targets, columns = options.get("targets"), columns or options.get("target_columns")
    return images, read_target_table(images, targets, on_missing, repeats, columns)


def images_of(options: Mapping[str, Any], data_dir: Path | None = None) -> ImageSet:
    """All images of a run by its options.

    A run may come from another machine: it does not determine the folder of data sets, and none is downloaded for it.

    Args:
        options: The run's options.
        data_dir: The folder of TensorFlow data sets; None for tensorflow-datasets' default.

    Raises:
        RequestError: The images cannot be found.
    """
    source, root = options["images"], Path(options["root"]) if "root" in options else None
    if source.startswith("tfds:"):
        check_on_disk(source, data_dir)
    return find_images(source, data_dir, options.get("label_pattern"), root)


def extractors_of(card: ModelCard, options: ExtractorOptions | None = None) -> tuple[Extractor, ...]:
    """The extractor of each layer that a decoder was trained on, with settings that replace its own.

    Raises:
        RequestError: The weights do not exist, or a name is unknown.
    """
    return (options or ExtractorOptions()).applied_to(card.weights, card.extractor)
