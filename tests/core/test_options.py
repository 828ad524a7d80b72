"""Options declared in dataclasses."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.commands.options import CompareOptions, ExtractOptions, PruneOptions, SearchOptions
from pipeline.commands.training_options import TrainOptions
from pipeline.core.errors import RequestError
from pipeline.core.options import Options, group, kept_values, option, settings
from pipeline.data.options import TargetOptions
from pipeline.decoders.options import DecoderOptions
from pipeline.features.options import ExtractionOptions, ExtractorOptions, RayOptions


@dataclass(frozen=True)
class Inner(Options):
    """What is inside."""

    size: int | None = option(None, least=1, most=9)
    quick: bool = option(True, flag="--slow", kept=False)


@dataclass(frozen=True)
class Outer(Options):
    """What is outside."""

    file: Path = option()
    letters: tuple[str, ...] | None = option(None, parse=lambda text: tuple(text.split(",")))
    inner: Inner = group(Inner)
    chosen: Inner | None = group(Inner, optional=True, commands=["other"])


def test_values_are_set_by_name_in_their_groups() -> None:
    outer = Outer.from_values({"file": Path("a"), "letters": "x,y", "size": 3, "slow": True, "unknown": 1})
    assert outer == Outer(Path("a"), ("x", "y"), Inner(3, quick=False), Inner(3, quick=False))
    assert Outer.from_values({"file": Path("a"), "size": None, "slow": False}) == Outer(Path("a"))


def test_the_record_of_a_run_has_plain_values() -> None:
    kept = kept_values(Outer(Path("a"), ("x", "y"), Inner(3)))
    assert kept == {"file": str(Path("a").absolute()), "letters": "x,y", "size": 3}
    assert json.loads(json.dumps(kept)) == kept


def test_a_command_has_its_options_only() -> None:
    assert [setting.name for setting in settings(Outer, "this")] == ["file", "letters", "size", "slow"]
    assert [setting.name for setting in settings(Outer, "other")][4:] == ["size", "slow"]
    names = {command: {setting.name for setting in settings(options, command)} for command, options in COMMANDS.items()}
    assert {command for command in names if "verify" in names[command]} == {"extract"}
    assert {command for command in names if "label_pattern" in names[command]} == {"train", "compare"}


COMMANDS = {"extract": ExtractOptions, "train": TrainOptions, "compare": CompareOptions, "search": SearchOptions}


@pytest.mark.parametrize(
    ("options", "values", "message"),
    [
        (Inner, {"size": 0}, "size must be at least 1, not 0"),
        (Inner, {"size": 10}, "size must be at most 9, not 10"),
        (ExtractionOptions, {"engine": "fast"}, "engine 'fast' is unknown; choose from auto, keras, mnn"),
        (ExtractionOptions, {"batch_size": 0}, "batch_size must be at least 1, not 0"),
        (ExtractionOptions, {"cache": "ftp://x"}, "neither a path nor the URL of a bucket"),
        (ExtractorOptions, {"precision": "float8"}, "precision 'float8' is unknown"),
        (RayOptions, {"actors": 2}, "actors=2 is for actors on Ray; it needs ray='auto' or ray='local'"),
        (TargetOptions, {"on_missing": "pass"}, "on_missing 'pass' is unknown; choose from error, skip"),
        (DecoderOptions, {"hidden": "a,b"}, "hidden: 'a,b' is not a list of whole numbers"),
        (DecoderOptions, {"keep": "first"}, "keep 'first' is unknown"),
        (TrainOptions, {"memory": "1MB"}, "memory: '1MB' is not a size of at least 64MB"),
        (TrainOptions, {"repeats": 2}, "repeats is the number of times that folds are repeated; it needs folds=N"),
        (TrainOptions, {"folds": 3, "patience": 2}, "folds hold out all images in turn"),
        (PruneOptions, {"older_than": -1}, "older_than must be at least 0"),
    ],
)
def test_values_are_checked_in_python_too(options: type[Options], values: dict, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        options.from_values(values)


def test_text_is_converted_in_python_too() -> None:
    assert TrainOptions(memory="4GB").memory == 4 * 2**30
    assert DecoderOptions(hidden="256,128").hidden == (256, 128)
    assert TargetOptions(noise_ceiling="repeats.csv").noise_ceiling == Path("repeats.csv")
