"""Locations: folders and buckets."""

from pathlib import Path

import pytest

from pipeline.core.errors import RequestError
from pipeline.core.locations import Location


@pytest.mark.parametrize("text", ["photos", "/photos/a b", "s3://bucket", "gs://bucket/a prefix/b", "az://c/a//b?#%/"])
def test_a_location_is_written_as_it_was_read(text: str) -> None:
    location = Location.parse(text)
    assert str(location) == text
    assert location.is_bucket == ("://" in text)
    assert Location.parse(location) is location


def test_a_place_in_a_location() -> None:
    assert Location.parse("photos") / "a/b" == Location(Path("photos/a/b"))
    assert Location.parse("s3://bucket") / "a/b" == Location(None, "s3", "bucket", "a/b")
    assert str(Location.parse("s3://bucket/prefix") / "a") == "s3://bucket/prefix/a"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("ftp://bucket/x", "neither a path nor the URL of a bucket"),
        ("S3://bucket", "neither a path nor"),
        ("s3:///x", "has no bucket name"),
        (Path("s3://bucket"), "lacks a slash"),
    ],
)
def test_invalid_locations_are_refused(source: str | Path, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        Location.parse(source)
