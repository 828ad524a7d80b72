"""Matching of targets to images."""

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.core.errors import Parameter, RequestError
from pipeline.core.wording import EXAMPLES, counted, examples, near_spellings
from pipeline.data.images import ImageSet
from pipeline.data.targets import TargetTable
from pipeline.data.text_files import nfc

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MatchedTargets:
    """The images that have a target.

    Attributes:
        rows: Their row numbers among all images, in path order, shape (N,).
        keys: The key in the target table that each image was matched by: its path or its label.
        targets: Their target embeddings, shape (N, D), float32.
    """

    rows: np.ndarray
    keys: Sequence[str]
    targets: np.ndarray


def match_targets(images: ImageSet, table: TargetTable, on_missing: str = "error") -> MatchedTargets:
    """Match each image to its target: the row of the table for its path, or else the row for its label.

    Canonically equivalent spellings match (Unicode's NFC); a key may also be an absolute path, or have backslashes. If
    no key is spelled like a label, case is ignored, provided that only one key of the table matches; these labels are
    logged.

    Args:
        images: The images.
        table: The target embeddings.
        on_missing: What to do with images that have no target: "error", or "skip", with a warning.

    Returns:
        The images that have a target, in path order.

    Raises:
        RequestError: Images have no target and `on_missing` is "error", or no image has one.
    """
    slashed = _single({key: key.replace("\\", "/") for key in table.rows if "\\" in key})
    folded = _single({key: key.casefold() for key in table.rows})
    keys = [
        next(
            (
                key
                for key in (path, nfc(path), ref.uri, label, slashed.get(nfc(path)), folded.get(label.casefold()))
                if key in table.rows
            ),
            None,
        )
        for path, ref, label in zip(images.paths, images.refs, images.labels, strict=True)
    ]
    matched = [key for key in keys if key is not None]
    missing = [row for row, key in enumerate(keys) if key is None]
    if not matched:
        raise RequestError(
            f"{table.file} has no target for any of the images, neither by path (such as {images.paths[0]!r}) "
            "nor by label (",
            *_first_label(images),
            f"). Its keys begin with {examples(list(table.rows))}.{_suffix_hint(images, table)}",
        )
    if missing and on_missing == "error":
        raise RequestError(
            f"{table.file} has no target for {len(missing)} of {counted(len(keys), 'image')}: "
            f"{_missing_images(images, missing, table)}. Add their rows, or leave these images out with ",
            Parameter("on_missing", "skip"),
            f".{_suffix_hint(images, table)}",
        )
    if missing and all(images.labels[row] in table.missing for row in missing):  # logged when the table was read
        log.warning("Left out %s without a target.", counted(len(missing), "image"))
    elif missing:
        described = _missing_images(images, missing, table)
        log.warning("Left out %s without a target: %s.", counted(len(missing), "image"), described)
    _log_other_case(images, keys)
    unused = sorted(set(table.rows) - set(matched))
    if unused:
        log.info("%s has %s without an image: %s.", table.file, counted(len(unused), "target"), examples(unused))
    rows = np.array([row for row, key in enumerate(keys) if key is not None], np.intp)
    of_images = [table.rows[key] for key in matched]
    in_order = of_images == list(range(len(table.vectors)))  # then a copy, which may be large, is not needed
    return MatchedTargets(rows, matched, table.vectors if in_order else table.vectors[of_images])


def _single(spellings: Mapping[str, str]) -> dict[str, str]:
    """Invert key -> alternative spelling, without spellings that several keys share."""
    counts = Counter(spellings.values())
    return {spelling: key for key, spelling in spellings.items() if counts[spelling] == 1}


def _log_other_case(images: ImageSet, keys: Sequence[str | None]) -> None:
    pairs = {
        label: key
        for label, key in zip(images.labels, keys, strict=True)
        if key is not None and key != label and key.casefold() == label.casefold()
    }
    if pairs:
        log.info(
            "%s matched by ignoring upper and lower case: %s.",
            counted(len(pairs), "label"),
            ", ".join(f"{label!r} by {key!r}" for label, key in pairs.items()),
        )


def _suffix_hint(images: ImageSet, table: TargetTable) -> str:
    """Advice if the keys are paths without the files' suffixes; "" otherwise."""
    for path in images.paths:
        if (without := nfc(os.path.splitext(path)[0])) in table.rows:
            return f" Paths need their suffix: {path!r}, not {without!r}."
    return ""


def _missing_images(images: ImageSet, rows: Sequence[int], table: TargetTable) -> str:
    """For a message: one image per missing label, with similarly spelled keys of the table."""
    first = {images.labels[row] or images.paths[row]: row for row in reversed(rows)}
    shown = sorted(first.values())[:EXAMPLES]
    near = _near_keys([images.labels[row] for row in shown], table)
    described = [_describe(images.paths[row], images.labels[row], near) for row in shown]
    return ", ".join(described) + (", ..." if len(first) > EXAMPLES else "")


def _describe(path: str, label: str, near: Mapping[str, Sequence[str]]) -> str:
    if not label:
        return repr(path)
    like = f"; nearest: {', '.join(map(repr, near[label]))}" if near[label] else ""
    return f"{path!r} (label {label!r}{like})"


def _near_keys(labels: Sequence[str], table: TargetTable) -> dict[str, list[str]]:
    keys = {key.casefold(): key for key in table.rows}
    near = near_spellings({label: [label.casefold()] for label in labels}, keys)
    return {label: [keys[spelling] for spelling in spellings] for label, spellings in near.items()}


def _first_label(images: ImageSet) -> Sequence[object]:
    """An example of a label, as parts of a message."""
    label = next(filter(None, images.labels), None)
    if label:
        return (f"such as {label!r}",)
    return "the images have none: no folders, and no ", Parameter("label_pattern", "REGEX")
