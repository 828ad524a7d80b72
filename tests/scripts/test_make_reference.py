"""The reference of all commands."""

from make_reference import FILE, reference


def test_the_reference_is_up_to_date() -> None:
    assert FILE.read_text(encoding="utf-8") == reference(), "run: python scripts/make_reference.py"
