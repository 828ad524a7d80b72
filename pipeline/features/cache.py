"""The location of a cache: a folder, or a bucket for the feature stores and the user's cache folder for the rest."""

from pathlib import Path

import platformdirs

from pipeline.core.errors import RequestError
from pipeline.data.images import BUCKETS

SCHEMES = tuple(prefix.removesuffix("://") for prefix in BUCKETS)
UNUSABLE = "?#%"  # have another meaning in URLs than in names


def usual_folder() -> Path:
    """The user's cache folder."""
    return platformdirs.user_cache_path("image-vectors")


def cache_location(location: Path | str) -> Path | str:
    """Check the location of a cache.

    Args:
        location: A folder; or the URL of a bucket as a string, with or without a prefix: `s3://bucket/prefix`.

    Returns:
        A folder as a Path; a URL as a string without a trailing slash.

    Raises:
        RequestError: It is neither.
    """
    text = str(location)
    scheme, separator, name = text.partition("://")
    if not separator:
        if text.partition(":/")[0] in SCHEMES and ":/" in text:
            raise RequestError(f"The cache {text} lacks a slash of a URL such as s3://bucket/prefix, as a Path does.")
        return Path(location)
    name = name.rstrip("/")
    if scheme not in SCHEMES or not name or name.startswith("/"):
        raise RequestError(
            f"The cache {text} is neither a folder nor the URL of a bucket such as s3://bucket/prefix "
            f"({', '.join(f'{prefix}://' for prefix in SCHEMES)})."
        )
    if unusable := [mark for mark in UNUSABLE if mark in name]:
        raise RequestError(f"The cache {text} has a {unusable[0]} in its name; choose another prefix.")
    return f"{scheme}://{name}"


def local_folder(cache: Path | str) -> Path:
    """The folder of networks and the file index, which stay on this machine even if the stores are in a bucket.

    The file index does not depend on a store: it maps files to content digests.
    """
    return usual_folder() if isinstance(cache, str) else cache
