"""Options of dataclasses on the command line."""

from pathlib import Path

import click
import pytest

from pipeline.cli import cli
from pipeline.commands.options import ExtractOptions
from pipeline.commands.training_options import TrainOptions
from pipeline.core.options import Options
from pipeline.decoders.options import DecoderOptions
from pipeline.features.options import ExtractionOptions, ExtractorOptions


def parsed(command: str, *arguments: str) -> dict:
    return cli.commands[command].make_context(command, list(arguments)).params


@pytest.mark.parametrize(
    ("command", "options", "arguments", "expected"),
    [
        ("extract", ExtractOptions, ("IMAGES",), ExtractOptions("IMAGES")),
        ("train", TrainOptions, (), TrainOptions()),
        (
            "extract",
            ExtractOptions,
            ("IMAGES", "--quiet", "--layer", "fc1", "--batch-size", "4", "--verify"),
            ExtractOptions(
                "IMAGES",
                extractor=ExtractorOptions(layer="fc1"),
                extraction=ExtractionOptions(batch_size=4, progress=False, verify=True),
            ),
        ),
        (
            "train",
            TrainOptions,
            ("--hidden", "8,4", "--memory", "1GB", "--models", "runs", "--preset", "network", "--tensorboard"),
            TrainOptions(
                memory=2**30,
                models=Path("runs"),
                tensorboard=True,
                decoder=DecoderOptions("network", hidden=(8, 4)),
            ),
        ),
    ],
)
def test_the_command_line_creates_what_python_does(
    command: str, options: type[Options], arguments: tuple, expected: Options
) -> None:
    assert options.from_values(parsed(command, *arguments)) == expected


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("extract", (), "Missing argument 'IMAGES'"),
        ("predict", ("RUN", "IMAGES"), "Missing option '--out'"),
        ("search", ("IMAGES",), "Missing option '--query'"),
        ("evaluate", (), "Missing argument 'RUN|MODEL...'"),
    ],
)
def test_what_is_required_must_be_named(command: str, arguments: tuple, message: str) -> None:
    with pytest.raises(click.UsageError) as refused:
        parsed(command, *arguments)
    assert message in refused.value.format_message()


def test_the_help_has_a_section_for_each_group_of_options() -> None:
    command = cli.commands["train"]
    text = command.get_help(command.make_context("train", [], resilient_parsing=True))
    for title in ("Options", "Target embeddings", "The decoder and its training", "How an image becomes a vector"):
        assert f"\n{title}:\n" in text
    assert "--ray" not in text
