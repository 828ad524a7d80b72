"""Labels from paths, for folders whose file names say what is in an image."""

import dataclasses
import re
from pathlib import PurePosixPath

from pipeline.core.errors import RequestError
from pipeline.core.wording import counted
from pipeline.data.images import ImageSet
from pipeline.data.text_files import nfc

GROUP = "label"
NAMED = 5  # how many examples a message names


def label_by_pattern(images: ImageSet, pattern: str) -> ImageSet:
    r"""Take the labels of images from their paths.

    Args:
        images: The images.
        pattern: A regular expression with a group `label`, such as `n\d+_(?P<label>.+)`, which is searched for in each
            path. A label that runs to the end of a file's path ends before its suffix: "camera", not "camera.jpg".

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
    found = [
        _label(searched, path, PurePosixPath(path).suffix if ref.is_file else "")
        for path, ref in zip(images.paths, images.refs, strict=True)
    ]
    missing = [path for path, label in zip(images.paths, found, strict=True) if not label]
    if missing:
        named = ", ".join(map(repr, missing[:NAMED])) + (", ..." if len(missing) > NAMED else "")
        raise RequestError(
            f"label_pattern {pattern!r} finds no label in {len(missing)} of {counted(len(found), 'path')}: {named}."
        )
    return dataclasses.replace(images, labels=found)


def _label(pattern: re.Pattern[str], path: str, suffix: str) -> str:
    """What the group finds in a path, less the suffix where it has found all of that; "" for nothing."""
    match = pattern.search(path)
    label = str(match[GROUP] or "") if match else ""
    return nfc(label.removesuffix(suffix) if match and match.end(GROUP) == len(path) else label)
