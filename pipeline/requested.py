"""What the options of a command ask for, in the types that the pipeline takes."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.core.errors import RequestError
from pipeline.options import EXTRACTION, EXTRACTOR

# Options that change no result, and that say where files are written: `run.json` keeps none of them, and none is taken
# from it. (Data sets are downloaded to `data_dir`.)
UNKEPT = ("cache", "workers", "as_json", "quiet", "models", "name", "config", "resume", "data_dir")

if TYPE_CHECKING:
    from pipeline.decoders.fitting import Config
    from pipeline.features.extraction import ExtractionOptions
    from pipeline.features.extractor import Extractor, ExtractorOverrides
    from pipeline.features.ray_cluster import RayOptions


def extractor_overrides(asked: dict[str, Any]) -> "ExtractorOverrides":
    """What is asked for of an extractor."""
    from pipeline.features.extractor import ExtractorOverrides

    return ExtractorOverrides(asked["weights"], **{name: asked[name] for name in EXTRACTOR})


def extractor(asked: dict[str, Any]) -> "Extractor":
    """What turns images into features."""
    return extractor_overrides(asked).extractor()


def extraction_options(asked: dict[str, Any]) -> "ExtractionOptions":
    """How the feature stage runs."""
    from pipeline.features.extraction import ExtractionOptions

    given = {name: asked[name] for name in EXTRACTION if asked.get(name) is not None}
    return ExtractionOptions(progress=not asked["quiet"], ray=_ray(asked), **given)


def _ray(asked: dict[str, Any]) -> "RayOptions | None":
    from pipeline.features.ray_cluster import RayOptions

    given = {name: asked[name] for name in ("actors", "gpus_each") if asked.get(name) is not None}
    if asked.get("ray"):
        return RayOptions(asked["ray"], **given)
    if given:
        raise RequestError(
            f"--{next(iter(given)).replace('_', '-')} is for actors on Ray; it needs --ray auto or --ray local."
        )
    return None


def is_model(argument: str) -> bool:
    """Whether an argument names a run or a model, not images."""
    return Path(argument).suffix == ".keras" or (Path(argument) / "run.json").exists()


def use_sample(asked: dict[str, Any]) -> bool:
    """Without IMAGES, train on the sample; returns whether its untrained weights are used without being asked for."""
    if asked["images"] is not None:
        return False
    from pipeline.data.sample import SAMPLE, SAMPLE_TARGETS, SAMPLE_WEIGHTS

    if SAMPLE is None:
        raise RequestError("This installation lacks the sample; name your own IMAGES and --targets FILE.")
    asked["images"] = str(SAMPLE)
    asked["targets"] = asked["targets"] or SAMPLE / SAMPLE_TARGETS
    untrained = not asked["weights"]
    asked["weights"] = asked["weights"] or SAMPLE_WEIGHTS
    return untrained


def repeatable(asked: dict[str, Any]) -> dict[str, Any]:
    """The options as `run.json` keeps them: plain values, absolute paths, without those in UNKEPT."""
    from pipeline.features.weights import default_weights

    kept = {name: value for name, value in asked.items() if value is not None and name not in UNKEPT}
    kept["weights"] = asked["weights"] or default_weights()
    places = [name for name in ("images", "targets", "noise_ceiling", "root") if name in kept]
    kept |= {name: str(Path(kept[name]).absolute()) for name in places if not _is_address(kept[name])}
    if Path(kept["weights"]).is_file():
        kept["weights"] = str(Path(kept["weights"]).absolute())
    if "hidden" in kept:
        kept["hidden"] = ",".join(map(str, kept["hidden"]))
    return kept


def repeated(options: Mapping[str, Any], command: click.Command) -> dict[str, Any]:
    """The options of a run as one writes them on a command line.

    A run may come from elsewhere: options in UNKEPT are left out, for they say where files are written.

    Raises:
        RequestError: A flag is neither on nor off, or another option is.
    """
    flags = {each.name: isinstance(each, click.Option) and each.is_flag for each in command.params}
    names = {name for name, value in options.items() if name in flags and name not in UNKEPT and value is not None}
    for name in names:
        if isinstance(options[name], bool) != flags[name]:
            raise RequestError(f"The run has no proper value of the option {name}: {options[name]!r}.")
    return {name: options[name] if flags[name] else str(options[name]) for name in names}


def _is_address(place: object) -> bool:
    """Whether a place is no path: a bucket or a TensorFlow data set."""
    from pipeline.data.images import is_bucket_url

    return is_bucket_url(place) or str(place).startswith("tfds:")


# Options of a single network -> the name of the setting, in its layers or in its training.
LAYER_OPTIONS = {"hidden": "hidden", "activation": "activation", "output_activation": "output_activation"}
TRAINING_NAMES = ("optimizer", "learning_rate", "schedule", "loss", "weight_decay", "epochs", "keep", "patience")
TRAINING_OPTIONS = {"minibatch": "batch_size", **{name: name for name in TRAINING_NAMES}}


def decoder_config(asked: dict[str, Any]) -> "Config":
    """The preset, with the given options in place of its own; options of a network choose a network."""
    from pipeline import terminal
    from pipeline.decoders.blending import BlendConfig
    from pipeline.decoders.presets import NETWORK, PRESETS

    config = PRESETS[asked["preset"]]
    layers, training = (
        {setting: asked[option] for option, setting in table.items() if asked[option] is not None}
        for table in (LAYER_OPTIONS, TRAINING_OPTIONS)
    )
    if isinstance(config, BlendConfig):
        given = [name for name in (*LAYER_OPTIONS, *TRAINING_OPTIONS) if asked[name] is not None]
        if not given:
            return config
        names = ", ".join(f"--{name}".replace("_", "-") for name in given)
        terminal.log.info("%s: a single network (--preset network); the default decoder chooses these itself.", names)
        config = NETWORK
    if "optimizer" in training:
        training.setdefault("weight_decay", 0.0)  # the preset's suits its own optimizer
    if "patience" in training:
        training.setdefault("keep", "best")
    return dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, **layers), **training)
