"""Removal of PNG chunks that do not affect pixels: if one of them is damaged, Pillow refuses the picture.

Chunks: https://www.w3.org/TR/png-3/#4Concepts.FormatChunks.
"""

import zlib
from collections.abc import Iterator
from typing import NamedTuple

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Text chunks that may contain an orientation: XMP, and EXIF as ImageMagick writes it.
ORIENTING_TEXTS = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")
LARGEST_TEXT = 2**20  # bytes when unpacked; Pillow's limit, above which it refuses the file


class _Chunk(NamedTuple):
    kind: bytes
    content: bytes
    whole: bytes  # with length, kind and checksum

    @property
    def is_intact(self) -> bool:
        return zlib.crc32(self.kind + self.content).to_bytes(4) == self.whole[-4:]


def essential(data: bytes) -> bytes:
    """Keep the visible part of a PNG file: the image, its transparency and its orientation.

    Args:
        data: The content of a PNG file.

    Returns:
        The content of a PNG file without data after its end and without ancillary chunks that change no pixel or are
        damaged. Animation chunks are removed, too, so that the static image is read.
    """
    return SIGNATURE + b"".join(chunk.whole for chunk in _chunks(data) if _shows(chunk))


def _chunks(data: bytes) -> Iterator[_Chunk]:
    at, kind = len(SIGNATURE), b""
    while at < len(data) and kind != b"IEND":
        end = at + 12 + int.from_bytes(data[at : at + 4])
        kind = data[at + 4 : at + 8]
        yield _Chunk(kind, data[at + 8 : end - 4], data[at:end])
        at = end


def _shows(chunk: _Chunk) -> bool:
    if not chunk.kind[:1].islower() or chunk.kind == b"tRNS":  # Pillow refuses damaged ones
        return True
    if chunk.kind == b"eXIf":
        return chunk.is_intact
    return chunk.content.startswith(ORIENTING_TEXTS) and chunk.is_intact and _fits(chunk)


def _fits(text: _Chunk) -> bool:
    """Whether a text is small enough for Pillow, and can be unpacked."""
    try:
        unpacked = zlib.decompressobj().decompress(_packed(text), LARGEST_TEXT)
    except zlib.error:
        return False
    return max(len(text.content), len(unpacked)) < LARGEST_TEXT


def _packed(text: _Chunk) -> bytes:
    """The compressed part of a text chunk; empty if it is not compressed."""
    rest = text.content.partition(b"\0")[2]
    if text.kind == b"zTXt":
        return rest[1:]
    return rest[2:].split(b"\0", 2)[-1] if text.kind == b"iTXt" and rest[:1] == b"\1" else b""
