"""Labels from paths, for folders whose file names say what is in an image."""

import dataclasses
import re

from pipeline.core.errors import RequestError
from pipeline.data.images import ImageSet

GROUP = "label"
NAMED = 5  # how many examples a message names


def label_by_pattern(images: ImageSet, pattern: str) -> ImageSet:
    r"""Take the labels of images from their paths.

    Args:
        images: The images.
        pattern: A regular expression with a group `label`, such as `n\d+_(?P<label>.+)\.jpg`, which is searched for in
            each path.

    Returns:
        The same images with these labels.

    Raises:
        RequestError: The pattern is not valid, has no such group, or finds no label in some paths.
    """
    try:
        searched = re.compile(pattern)
    except re.error as error:
        raise RequestError(f"label_pattern {pattern!r} is not a regular expression ({error}).") from error
    if GROUP not in searched.groupindex:
        raise RequestError(f"label_pattern {pattern!r} has no group named {GROUP!r}; write (?P<{GROUP}>...).")
    found = [str(match[GROUP] or "") if (match := searched.search(path)) else "" for path in images.paths]
    missing = [path for path, label in zip(images.paths, found, strict=True) if not label]
    if missing:
        named = ", ".join(map(repr, missing[:NAMED])) + (", ..." if len(missing) > NAMED else "")
        raise RequestError(
            f"label_pattern {pattern!r} finds no label in {len(missing)} of {len(found)} paths: {named}."
        )
    return dataclasses.replace(images, labels=found)
