"""Labels from paths, for folders whose file names contain the label."""

import dataclasses
import re
from pathlib import PurePosixPath

from pipeline.core.errors import RequestError
from pipeline.core.wording import counted, examples
from pipeline.data.image_names import SUFFIXES, suffix_of
from pipeline.data.images import ImageSet
from pipeline.data.text_files import nfc

GROUP = "label"


def label_by_pattern(images: ImageSet, pattern: str) -> ImageSet:
    r"""Take the labels of images from their paths.

    Args:
        images: The images.
        pattern: A regular expression with a group `label`, such as `n\d+_(?P<label>.+)`, searched for in each path. A
            label that extends to the end of a file's path ends before its suffix: "camera", not "camera.jpg".

    Returns:
        The same images with these labels.

    Raises:
        RequestError: The pattern is not valid, has no such group, or finds no label in at least one path.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise RequestError(f"label_pattern {pattern!r} is not a regular expression ({error}).") from error
    if GROUP not in compiled.groupindex:
        raise RequestError(f"label_pattern {pattern!r} has no group named {GROUP!r}; write (?P<{GROUP}>...).")
    labels = [
        _label(compiled, path, PurePosixPath(path).suffix if ref.is_file or suffix_of(path) in SUFFIXES else "")
        for path, ref in zip(images.paths, images.refs, strict=True)
    ]
    missing = [path for path, label in zip(images.paths, labels, strict=True) if not label]
    if missing:
        raise RequestError(
            f"label_pattern {pattern!r} finds no label in {len(missing)} of {counted(len(labels), 'path')}: "
            f"{examples(missing)}."
        )
    return dataclasses.replace(images, labels=labels)


def _label(pattern: re.Pattern[str], path: str, suffix: str) -> str:
    """The match of the group in a path, without the suffix if it includes it; "" if there is no match."""
    match = pattern.search(path)
    label = str(match[GROUP] or "") if match else ""
    return nfc(label.removesuffix(suffix) if match and match.end(GROUP) == len(path) else label)
