"""Messages on the terminal."""

import json
import logging

import pytest

from pipeline.cli import cli
from pipeline.terminal import (
    _percent,
    as_options,
    option_names,
    print_error,
    print_interruption,
    print_result,
    printable,
    show_messages,
)


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("leave them out with on_missing='skip'.", "leave them out with --on-missing skip."),
        ("run it with verify=True to check them", "run it with --verify to check them"),
        ("name them with targets=FILE.", "name them with --targets FILE."),
        ("more than max_pixels=10", "more than --max-pixels 10"),
        ("fewer processes (workers=N)", "fewer processes (--workers N)"),
        ("try weights='random:0'.", "try --weights random:0."),
        ("skipped dt=2020-01-01/x.jpg", "skipped dt=2020-01-01/x.jpg"),
        ("shard='' is not one", "--shard '' is not one"),
        ("skipped year=2020/1.png: damaged", "skipped year=2020/1.png: damaged"),
        ("skipped a/split=TRAIN.png: damaged", "skipped a/split=TRAIN.png: damaged"),
        ("skipped 'x=1': damaged", "skipped 'x=1': damaged"),
        ("scan dpi=300 front.png cannot be read", "scan dpi=300 front.png cannot be read"),
        ("year=2020 month='5' is=True", "year=2020 month='5' is=True"),
    ],
)
def test_parameters_become_options_and_paths_stay(message: str, shown: str) -> None:
    assert as_options(message, option_names(cli)) == shown


def test_no_share_is_below_zero_by_rounding() -> None:
    assert [_percent(share) for share in (-0.004, 0.0, 0.004, -0.006, 0.995)] == ["0%", "0%", "0%", "-1%", "100%"]


FORGED = "a\nerror: owned\r\x1b[2J\u2028\x85\u202e.png"


def test_what_a_message_quotes_stays_in_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    show_messages(quiet=True)
    try:
        logging.getLogger("pipeline.test").warning("skipped %s", FORGED)
    finally:
        logging.getLogger("pipeline").handlers.clear()
    print_error(f"{FORGED}: damaged")
    print_interruption(FORGED)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        f"warning: skipped {printable(FORGED)}",
        f"error: {printable(FORGED)}: damaged",
        "",
        printable(FORGED),
    ]
    assert printable(FORGED) == r"a\nerror: owned\r\x1b[2J\u2028\x85\u202e.png"


def test_the_document_is_json_whatever_the_numbers_are(capsys: pytest.CaptureFixture[str]) -> None:
    class Result:
        def to_json(self) -> dict:
            return {"a": float("nan"), "b": [float("inf"), (1.5, {"c": -float("inf")})], "d": "NaN", "e": None}

    print_result(Result(), True, print)
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {
        "a": None,
        "b": [None, [1.5, {"c": None}]],
        "d": "NaN",
        "e": None,
    }
