"""Detection of damaged JPEG data, by feeding it to Pillow's decoder piece by piece.

If entropy-coded data is damaged, libjpeg decodes whatever the bits happen to mean, fills the rest with grey, and only
warns; Pillow drops these warnings. But damage changes the number of blocks in the data: the scan is complete before its
data ends, or still incomplete after it. Both show in how many of the fed bytes the decoder consumes. Markers: ITU-T
T.81, Annex B.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple, cast

from PIL import Image

from pipeline.core.errors import ImageError

CODEC = "jpeg_piece_by_piece"
MOST_SCANS = 200  # encoders write about 10; each costs a pass over the picture
MOST_PIECES = 2000  # per scan with restart markers; each costs about 10 us. With more, the scan is checked as a whole
STRAY = 4  # bytes after a scan that do not count as damage, because some cameras write them
END_OF_IMAGE, START_OF_SCAN, RESTART_INTERVAL = 0xD9, 0xDA, 0xDD
WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}
HUFFMAN = {0xC0, 0xC1, 0xC2}  # Huffman-coded frames, sequential and progressive; only these are checked
INSIDE_A_SCAN = {0x00, *range(0xD0, 0xD8), 0xFF}  # bytes after FF in a scan: a stuffed zero, a restart, a fill byte
RESTART = re.compile(rb"\xff+[\xd0-\xd7]")
UNIT = re.compile(rb"\xff.|.", re.DOTALL)  # a byte of entropy-coded data, with the zero stuffed after FF
# Fed after a scan, as the decoder reads up to 8 bytes ahead. No Huffman code is all ones, so this decodes to no block.
AHEAD, PROBE = b"\xff\x00" * 9, [b"\xff\x00"] * 2


class Piece(NamedTuple):
    """Start and end of a piece of entropy-coded data: a scan, or its part between two restart markers."""

    start: int
    end: int


def pieces(data: bytes) -> list[Piece]:
    """The entropy-coded data of a JPEG file, up to the end marker of the image.

    Args:
        data: The content of the file.

    Returns:
        The pieces in order; none if the data is not Huffman-coded.

    Raises:
        ImageError: There are more than MOST_SCANS scans.
    """
    result: list[Piece] = []
    scan_count, seen = 0, set()
    for marker, scan in _segments(data):
        seen.add(marker)
        if scan:
            scan_count += 1
            result += _parts(data, scan) if RESTART_INTERVAL in seen else [scan]
        if scan_count > MOST_SCANS:
            raise ImageError(f"it is a JPEG of more than {MOST_SCANS} scans, which would take too long to decode")
    return result if seen & HUFFMAN else []


def _segments(data: bytes) -> Iterator[tuple[int, Piece | None]]:
    """The markers before the end of the image, each with the scan that follows it or None."""
    at = 2
    while (at := data.find(b"\xff", at)) >= 0 and at + 4 <= len(data) and data[at + 1] != END_OF_IMAGE:
        marker, scan = data[at + 1], None
        if marker in (0x00, 0xFF):  # a stuffed zero or a fill byte
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
    """A decoder for Pillow's `register_decoder` that wraps Pillow's JPEG decoder."""

    pulls_fd = True  # Pillow then calls `decode` once, after `setfd`

    def __init__(self, mode: str, *args: Any) -> None:
        self._inner = Image.core.jpeg_decoder(mode, *args)  # type: ignore[attr-defined]
        self._data, self._fed = b"", 0
        self._pending, self._error, self._done = b"", 0, False

    def setimage(self, image: Any, extents: Any = None) -> None:
        """Set the image to decode into."""
        self._inner.setimage(image, extents)

    def setfd(self, file: BinaryIO) -> None:
        """Set the file to decode."""
        self._data = file.read()

    def cleanup(self) -> None:
        """Free the decoder's memory."""
        self._inner.cleanup()

    def decode(self, _: bytes) -> tuple[int, int]:
        """Decode the file.

        Returns:
            -1, meaning that no more data is needed; Pillow's error code, or 0.

        Raises:
            ImageError: A piece does not end where its data does.
            OSError: The file is truncated.
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
            return  # truncated
        self._feed(AHEAD)
        if not self._is_complete(PROBE):
            raise ImageError("its JPEG data is damaged: the data ends before the picture is complete")

    def _is_complete(self, probe: Sequence[bytes]) -> bool:
        """Feed units one by one; return whether the decoder skips all, as it does between a scan and a marker.

        Within a scan, the decoder does not consume the data until it has enough to continue.
        """
        skipped = [self._feed(unit) for unit in probe]
        return all(skipped)

    def _feed_up_to(self, end: int) -> None:
        self._feed(self._data[self._fed : end])
        self._fed = end

    def _feed(self, data: bytes) -> bool:
        """Feed bytes to the decoder; return whether it consumed all."""
        if not self._done:
            self._pending += data
            consumed, self._error = self._inner.decode(self._pending)
            self._done = consumed < 0
            self._pending = self._pending[max(consumed, 0) :]
        return self._done or not self._pending


Image.register_decoder(CODEC, cast(Any, PieceByPiece))  # it has the methods of a PyDecoder that Pillow calls
