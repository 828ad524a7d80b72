"""Opens objects in buckets as files."""

import io
from typing import Any

from pipeline.core.errors import ImageError
from pipeline.data.buckets import read_range


class ObjectStream(io.RawIOBase):
    """An object in a bucket, as a file; each read is one request.

    Args:
        url: The object.

    Attributes:
        size: Its size, in bytes.
        version: Its version.

    Raises:
        ImageError, PipelineError: See `pipeline.data.buckets.read_object`.
    """

    def __init__(self, url: str) -> None:
        self._url, self._position = url, 0
        _, self.size, self.version = read_range(url, 0, 1)

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position; see `io.IOBase.seek`."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        self._position = start + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read as many of the remaining bytes as fit into a buffer."""
        stop = min(self._position + len(buffer), self.size)
        if stop <= self._position:
            return 0
        data, _, version = read_range(self._url, self._position, stop)
        if version != self.version:
            raise ImageError("the object changed while this command ran; run it again")
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
