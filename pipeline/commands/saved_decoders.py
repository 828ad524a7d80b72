"""Saved decoders as commands name them: the folder of a run, or a `.keras` file."""

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
from pipeline.decoders.spec import API_STYLES
from pipeline.features.extractor import Extractor, ExtractorOverrides, described_extractor
from pipeline.features.weights import weights_from

log = logging.getLogger(__name__)

DecoderName = Literal["functional", "sequential", "ridge"]


def decoders_of(model: Path) -> list[Path]:
    """The decoder files that a run or a model names.

    Args:
        model: The folder of a run, or a `.keras` file.

    Returns:
        The run's decoder in each API style that it has; or the file itself, whether it exists or not.

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
    """The one decoder file that is meant.

    Args:
        model: The folder of a run, or a `.keras` file.
        api: Which of a run's decoders: that of an API style, or "ridge", its baseline; None for the first it has.

    Raises:
        RequestError: The folder is not a finished run, or has no such decoder.
    """
    found = decoders_of(model)
    if api is None:
        return found[0]
    if not model.is_dir():
        raise RequestError(f"{model} is one decoder; ", Parameter("api", api), " chooses among those of a run.")
    file = model / f"{api}.keras"
    if not file.is_file():
        has = ", ".join(each.stem for each in sorted(model.glob("*.keras")))
        raise RequestError(f"{model} has no decoder {api!r}; it has {has}.")
    return file


def run_beside(file: Path) -> RunRecord | None:
    """The record of the run that a decoder file lies in, or None."""
    return read_run(file.parent) if (file.parent / RUN_FILE).exists() else None


def warn_of_weak_decoder(file: Path) -> None:
    """Warn where the result of a run says that its decoder is no better than the mean target."""
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
        reached = run.trained["models"][file.stem]["validation_cosine"]
        log.warning(
            "The decoder %s was not shown to be better than always answering the mean target (held-out cosine %.3f, "
            "the mean target's %.3f), so its predictions may say nothing of an image.",
            file,
            reached,
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
        targets: A file of other targets; None for the run's own.
        noise_ceiling: A file of other repeated targets; None for the run's own.
        target_columns: The columns of other targets that are the embedding; None for the rule.
        data_dir: Where tensorflow-datasets keeps the data of a run's images; None for its own default.

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

    A run may come from elsewhere: it does not say where data sets are kept, and none is downloaded for it.

    Args:
        options: The run's options.
        data_dir: Where tensorflow-datasets keeps its data; None for its own default.

    Raises:
        RequestError: They cannot be found.
    """
    source, root = options["images"], Path(options["root"]) if "root" in options else None
    if source.startswith("tfds:"):
        check_on_disk(source, data_dir)
    return find_images(source, data_dir, options.get("label_pattern"), root)


def extractor_of(card: ModelCard, asked: ExtractorOverrides | None = None) -> Extractor:
    """The extractor that a decoder was trained on, with what else is asked for.

    Raises:
        RequestError: The weights do not exist, or a name is unknown.
    """
    asked = asked or ExtractorOverrides()
    return described_extractor(weights_from(asked.weights or card.weights), card.extractor, **asked.changes)
