"""JPEG data fed to Pillow's decoder piece by piece, so that damage shows, which libjpeg conceals.

Where entropy-coded data is damaged, libjpeg goes on with what the bits happen to mean, fills the rest with grey, and
only warns; Pillow drops these warnings. But damage changes how many blocks the bits hold: a scan is then complete
before its data ends, or still incomplete behind it. Both can be seen from outside, by how much the decoder takes of
what it is fed. Markers: ITU-T T.81, Annex B.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple, cast

from PIL import Image

from pipeline.core.errors import ImageError

CODEC = "jpeg_piece_by_piece"
MOST_SCANS = 200  # encoders write about 10; each costs a pass over the picture
MOST_PIECES = 2000  # of a scan with restart markers; each costs some 10 us. Above, the scan is checked as a whole
STRAY = 4  # bytes behind a scan that are no damage, for some cameras write them
END_OF_IMAGE, START_OF_SCAN, RESTART_INTERVAL = 0xD9, 0xDA, 0xDD
WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}
HUFFMAN = {0xC0, 0xC1, 0xC2}  # frames in Huffman codes, sequential and progressive: those that are checked
INSIDE_A_SCAN = {0x00, *range(0xD0, 0xD8), 0xFF}  # what follows FF there: a stuffed zero, a restart, FF that fills
RESTART = re.compile(rb"\xff+[\xd0-\xd7]")
UNIT = re.compile(rb"\xff.|.", re.DOTALL)  # a byte of entropy-coded data, with the zero that is stuffed behind FF
# What is fed behind a scan: the decoder reads up to 8 bytes ahead. No Huffman code is all ones, so these are no blocks.
AHEAD, PROBE = b"\xff\x00" * 9, [b"\xff\x00"] * 2


class Piece(NamedTuple):
    """Where a piece of entropy-coded data starts and ends: a scan, or a part of it between restart markers."""

    start: int
    end: int


def pieces(data: bytes) -> list[Piece]:
    """The entropy-coded data of a JPEG file, up to the end marker of the image.

    Args:
        data: The content of the file.

    Returns:
        The pieces in their order; none where they are not in Huffman codes.

    Raises:
        ImageError: There are more than MOST_SCANS scans.
    """
    found: list[Piece] = []
    scan_count, seen = 0, set()
    for marker, scan in _segments(data):
        seen.add(marker)
        if scan:
            scan_count += 1
            found += _parts(data, scan) if RESTART_INTERVAL in seen else [scan]
        if scan_count > MOST_SCANS:
            raise ImageError(f"it is a JPEG of more than {MOST_SCANS} scans, which would take too long to decode")
    return found if seen & HUFFMAN else []


def _segments(data: bytes) -> Iterator[tuple[int, Piece | None]]:
    """Each marker before the end of the image, and the scan that follows it."""
    at = 2
    while (at := data.find(b"\xff", at)) >= 0 and at + 4 <= len(data) and data[at + 1] != END_OF_IMAGE:
        marker, scan = data[at + 1], None
        if marker in (0x00, 0xFF):  # a zero that is stuffed, or FF that fills
            at += 1
            continue
        at += 2 if marker in WITHOUT_LENGTH else 2 + int.from_bytes(data[at + 2 : at + 4])
        if marker == START_OF_SCAN:
            scan = Piece(at, _scan_end(data, at))
            at = scan.end
        yield marker, scan


def _scan_end(data: bytes, at: int) -> int:
    while (at := data.find(b"\xff", at)) >= 0 and at + 1 < len(data):
        if data[at + 1] not in INSIDE_A_SCAN:
            return at
        at += 1
    return len(data)


def _parts(data: bytes, scan: Piece) -> list[Piece]:
    restarts = [match.span() for match in RESTART.finditer(data, scan.start, scan.end)]
    if len(restarts) >= MOST_PIECES:
        return [scan]
    starts, ends = [scan.start, *(end for _, end in restarts)], [*(start for start, _ in restarts), scan.end]
    return [Piece(start, end) for start, end in zip(starts, ends, strict=True)]


class PieceByPiece:
    """A decoder for Pillow's `register_decoder`, around Pillow's own for JPEG."""

    pulls_fd = True  # Pillow then calls `decode` once, after `setfd`

    def __init__(self, mode: str, *args: Any) -> None:
        self._inner = Image.core.jpeg_decoder(mode, *args)  # type: ignore[attr-defined]
        self._data, self._fed = b"", 0
        self._pending, self._error, self._done = b"", 0, False

    def setimage(self, image: Any, extents: Any = None) -> None:
        """Set where to decode to."""
        self._inner.setimage(image, extents)

    def setfd(self, file: BinaryIO) -> None:
        """Set what to decode."""
        self._data = file.read()

    def cleanup(self) -> None:
        """Free the decoder's memory."""
        self._inner.cleanup()

    def decode(self, _: bytes) -> tuple[int, int]:
        """Decode the file.

        Returns:
            -1, which means that nothing more is needed; Pillow's code of an error, or 0.

        Raises:
            ImageError: A piece does not end where its data does.
            OSError: The file is cut short.
        """
        for piece in pieces(self._data):
            self._feed_piece(piece)
        self._feed_up_to(len(self._data))
        if not self._done:
            raise OSError("image file is truncated")
        return -1, self._error

    def _feed_piece(self, piece: Piece) -> None:
        content = self._data[piece.start : piece.end]
        padding = len(content) - len(content.rstrip(content[-1:]))
        tail = UNIT.findall(content[-(padding + 2 * STRAY + 8) :])[-(padding + STRAY + 2) :]
        self._feed_up_to(piece.end - sum(map(len, tail)))
        complete = self._is_complete(tail[:2])
        self._fed += sum(map(len, tail[:2]))
        if complete and len(tail) == padding + STRAY + 2:
            raise ImageError("its JPEG data is damaged: the picture is complete before the data ends")
        self._feed_up_to(piece.end)
        if piece.end == len(self._data):
            return  # cut short
        self._feed(AHEAD)
        if not self._is_complete(PROBE):
            raise ImageError("its JPEG data is damaged: the data ends before the picture is complete")

    def _is_complete(self, probe: Sequence[bytes]) -> bool:
        """Feed some bytes one by one; whether all are skipped, as they are between a scan and a marker.

        Amid a scan, the decoder keeps what it is fed until that is enough to go on.
        """
        skipped = [self._feed(unit) for unit in probe]
        return all(skipped)

    def _feed_up_to(self, end: int) -> None:
        self._feed(self._data[self._fed : end])
        self._fed = end

    def _feed(self, data: bytes) -> bool:
        """Feed bytes to the decoder; whether it keeps none."""
        if not self._done:
            self._pending += data
            taken, self._error = self._inner.decode(self._pending)
            self._done = taken < 0
            self._pending = self._pending[max(taken, 0) :]
        return self._done or not self._pending


Image.register_decoder(CODEC, cast(Any, PieceByPiece))  # it has what Pillow calls of a PyDecoder
