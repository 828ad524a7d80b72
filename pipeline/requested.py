"""Convert the options of a command into the types of the pipeline."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.core.errors import RequestError
from pipeline.options import EXTRACTION, EXTRACTOR

# Options that do not change the result, or that say where files are written (data sets are downloaded to `data_dir`):
# they are neither written to `run.json` nor read from it.
UNKEPT = ("cache", "workers", "as_json", "quiet", "models", "name", "config", "resume", "data_dir")

if TYPE_CHECKING:
    from pipeline.decoders.fitting import Config
    from pipeline.features.backends.ray.cluster import RayOptions
    from pipeline.features.extraction import ExtractionOptions
    from pipeline.features.extractor import Extractor, ExtractorOptions


def extractor_options(options: dict[str, Any]) -> "ExtractorOptions":
    """The settings of an extractor."""
    from pipeline.features.extractor import ExtractorOptions

    return ExtractorOptions(options["weights"], **{name: options[name] for name in EXTRACTOR})


def extractors(options: dict[str, Any]) -> "tuple[Extractor, ...]":
    """The extractor of each layer."""
    return extractor_options(options).extractors()


def extraction_options(options: dict[str, Any]) -> "ExtractionOptions":
    """How to run the feature stage."""
    from pipeline.features.extraction import ExtractionOptions

    settings = {name: options[name] for name in EXTRACTION if options.get(name) is not None}
    return ExtractionOptions(progress=not options["quiet"], ray=_ray(options), **settings)


def _ray(options: dict[str, Any]) -> "RayOptions | None":
    from pipeline.features.backends.ray.cluster import RayOptions

    settings = {name: options[name] for name in ("actors", "gpus_each") if options.get(name) is not None}
    if options.get("ray"):
        return RayOptions(options["ray"], **settings)
    if settings:
        raise RequestError(
            f"--{next(iter(settings)).replace('_', '-')} is for actors on Ray; it needs --ray auto or --ray local."
        )
    return None


def is_model(argument: str) -> bool:
    """Whether an argument is a run or a model, and not images."""
    return Path(argument).suffix == ".keras" or (Path(argument) / "run.json").exists()


def use_sample(options: dict[str, Any]) -> bool:
    """Without IMAGES, train on the sample; returns whether that selects its untrained weights by default."""
    if options["images"] is not None:
        return False
    from pipeline.data.sample import SAMPLE, SAMPLE_TARGETS, SAMPLE_WEIGHTS

    if SAMPLE is None:
        raise RequestError("This installation lacks the sample; name your own IMAGES and --targets FILE.")
    options["images"] = str(SAMPLE)
    options["targets"] = options["targets"] or SAMPLE / SAMPLE_TARGETS
    untrained = not options["weights"]
    options["weights"] = options["weights"] or SAMPLE_WEIGHTS
    return untrained


def repeatable(options: dict[str, Any]) -> dict[str, Any]:
    """The options as stored in `run.json`: plain values, absolute paths, without those in UNKEPT."""
    from pipeline.features.weights import default_weights

    kept = {name: value for name, value in options.items() if value is not None and name not in UNKEPT}
    kept["weights"] = options["weights"] or default_weights()
    locations = [name for name in ("images", "targets", "noise_ceiling", "root") if name in kept]
    kept |= {name: str(Path(kept[name]).absolute()) for name in locations if not _is_address(kept[name])}
    if Path(kept["weights"]).is_file():
        kept["weights"] = str(Path(kept["weights"]).absolute())
    if "hidden" in kept:
        kept["hidden"] = ",".join(map(str, kept["hidden"]))
    return kept


def repeated(recorded: Mapping[str, Any], command: click.Command) -> dict[str, Any]:
    """The options of a run in the form of the command line.

    A run may come from another machine, so the options in UNKEPT, which say where files are written, are left out.

    Raises:
        RequestError: A flag has another value than true or false, or another option has one of these.
    """
    flags = {parameter.name: isinstance(parameter, click.Option) and parameter.is_flag for parameter in command.params}
    names = {name for name, value in recorded.items() if name in flags and name not in UNKEPT and value is not None}
    for name in names:
        if isinstance(recorded[name], bool) != flags[name]:
            raise RequestError(f"The run has no proper value of the option {name}: {recorded[name]!r}.")
    return {name: recorded[name] if flags[name] else str(recorded[name]) for name in names}


def _is_address(location: object) -> bool:
    """Whether a location is not a path, but a bucket or a TensorFlow data set."""
    from pipeline.core.locations import is_bucket_url

    return is_bucket_url(location) or str(location).startswith("tfds:")


# Options of a single network -> the name of the setting, in its layers or in its training.
LAYER_OPTIONS = {"hidden": "hidden", "activation": "activation", "output_activation": "output_activation"}
TRAINING_NAMES = ("optimizer", "learning_rate", "schedule", "loss", "weight_decay", "epochs", "keep", "patience")
TRAINING_OPTIONS = {"minibatch": "batch_size", **{name: name for name in TRAINING_NAMES}}


def decoder_config(options: dict[str, Any]) -> "Config":
    """The preset, overridden by the options; options of a single network select one."""
    from pipeline import terminal
    from pipeline.decoders.blend import BlendConfig
    from pipeline.decoders.fitting import PRESETS
    from pipeline.decoders.network import NETWORK

    config = PRESETS[options["preset"]]
    layers, training = (
        {setting: options[option] for option, setting in table.items() if options[option] is not None}
        for table in (LAYER_OPTIONS, TRAINING_OPTIONS)
    )
    if isinstance(config, BlendConfig):
        network_options = [name for name in (*LAYER_OPTIONS, *TRAINING_OPTIONS) if options[name] is not None]
        if not network_options:
            return config
        names = ", ".join(f"--{name}".replace("_", "-") for name in network_options)
        terminal.log.info("%s: a single network (--preset network); the default decoder chooses these itself.", names)
        config = NETWORK
    if "optimizer" in training:
        training.setdefault("weight_decay", 0.0)  # the preset's value suits only its own optimizer
    if "patience" in training:
        training.setdefault("keep", "best")
    return dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, **layers), **training)
