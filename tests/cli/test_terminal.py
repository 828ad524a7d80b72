"""Messages on the terminal."""

import json
import logging
import pickle

import pytest
from helpers import forget_messages

from pipeline.cli.evaluate import _percent
from pipeline.cli.terminal import (
    as_option,
    print_error,
    print_interruption,
    print_result,
    printable,
    show_messages,
)
from pipeline.core.errors import Parameter, RequestError


@pytest.mark.parametrize(
    ("name", "value", "in_python", "on_the_command_line"),
    [
        ("on_missing", "skip", "on_missing='skip'", "--on-missing skip"),
        ("verify", True, "verify=True", "--verify"),
        ("targets", "FILE", "targets=FILE", "--targets FILE"),
        ("max_pixels", 10, "max_pixels=10", "--max-pixels 10"),
        ("weights", "random:0", "weights='random:0'", "--weights random:0"),
        ("shard", "", "shard=''", "--shard ''"),
        ("root", "/DATA", "root='/DATA'", "--root /DATA"),
    ],
)
def test_parameters_are_options_on_the_command_line(
    name: str, value: object, in_python: str, on_the_command_line: str
) -> None:
    error = RequestError("Leave them out with ", Parameter(name, value), ".")
    assert str(error) == f"Leave them out with {in_python}."
    assert as_option(error) == f"Leave them out with {on_the_command_line}."
    assert as_option(RequestError("In all: ", error)) == f"In all: Leave them out with {on_the_command_line}."
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


USERS_TEXT = "seed=3 targets=FILE verify=True 'on_missing='skip' 50%s.png"


def test_user_text_in_messages_is_never_rewritten_as_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    show_messages(quiet=True)
    try:
        logging.getLogger("pipeline.test").warning("skipped %s; try %s", USERS_TEXT, Parameter("workers", 1))
        logging.getLogger("pipeline.test").warning(f"skipped {USERS_TEXT}")
    finally:
        forget_messages()
    print_error(RequestError(f"{USERS_TEXT} is damaged; try ", Parameter("workers", 1)))
    assert capsys.readouterr().err.splitlines() == [
        f"warning: skipped {USERS_TEXT}; try --workers 1",
        f"warning: skipped {USERS_TEXT}",
        f"error: {USERS_TEXT} is damaged; try --workers 1",
    ]


def test_a_handler_of_a_library_prints_no_message_again(capsys: pytest.CaptureFixture[str]) -> None:
    library = logging.StreamHandler()
    logging.getLogger().addHandler(library)
    show_messages(quiet=False)
    try:
        logging.getLogger("pipeline.test").info("Writing it.")
    finally:
        logging.getLogger().removeHandler(library)
        forget_messages()
    assert capsys.readouterr().err == "Writing it.\n"


def test_no_share_is_below_zero_by_rounding() -> None:
    assert [_percent(share) for share in (-0.004, 0.0, 0.004, -0.006, 0.995)] == ["0%", "0%", "0%", "-1%", "100%"]


FORGED = "a\nerror: owned\r\x1b[2J\u2028\x85\u202e.png"


def test_quoted_text_in_messages_stays_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    show_messages(quiet=True)
    try:
        logging.getLogger("pipeline.test").warning("skipped %s", FORGED)
    finally:
        forget_messages()
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
