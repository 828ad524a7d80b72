"""Messages on the terminal."""

import pytest

from pipeline.terminal import _percent, as_options


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
    ],
)
def test_parameters_become_options_and_paths_stay(message: str, shown: str) -> None:
    assert as_options(message) == shown


def test_no_share_is_below_zero_by_rounding() -> None:
    assert [_percent(share) for share in (-0.004, 0.0, 0.004, -0.006, 0.995)] == ["0%", "0%", "0%", "-1%", "100%"]
