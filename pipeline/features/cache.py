"""Where a cache lies: in a folder; or its feature stores in a bucket, and all else in the user's cache folder."""

from pathlib import Path

import platformdirs

from pipeline.core.errors import RequestError
from pipeline.data.images import BUCKETS

SCHEMES = tuple(each.removesuffix("://") for each in BUCKETS)
UNUSABLE = "?#%"  # in URLs these are read as something else than a part of the name


def usual_folder() -> Path:
    """The user's cache folder."""
    return platformdirs.user_cache_path("image-vectors")


def cache_place(given: Path | str) -> Path | str:
    """Check where a cache is to lie.

    Args:
        given: A folder; or the URL of a bucket as a string, with a prefix or without: `s3://bucket/prefix`.

    Returns:
        A folder as a Path; a URL as a string without a slash at its end.

    Raises:
        RequestError: It is neither.
    """
    text = str(given)
    scheme, separator, name = text.partition("://")
    if not separator:
        if text.partition(":/")[0] in SCHEMES and ":/" in text:
            raise RequestError(f"The cache {text} lacks a slash of a URL such as s3://bucket/prefix, as a Path does.")
        return Path(given)
    name = name.rstrip("/")
    if scheme not in SCHEMES or not name or name.startswith("/"):
        raise RequestError(
            f"The cache {text} is neither a folder nor the URL of a bucket such as s3://bucket/prefix "
            f"({', '.join(f'{each}://' for each in SCHEMES)})."
        )
    if used := [mark for mark in UNUSABLE if mark in name]:
        raise RequestError(f"The cache {text} has a {used[0]} in its name; choose another prefix.")
    return f"{scheme}://{name}"


def local_folder(cache: Path | str) -> Path:
    """The folder of what stays on this machine whatever the place of the stores: networks and the file index.

    The file index does not depend on a store: it knows which file has which content.
    """
    return usual_folder() if isinstance(cache, str) else cache
