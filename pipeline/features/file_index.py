"""The file index: URI and version -> content digest, so that unchanged images are not read again."""

import contextlib
import logging
import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline.core.errors import PipelineError
from pipeline.data.images import ImageRef

log = logging.getLogger(__name__)

NOT_DAMAGE = (
    *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN),
    *(sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM),
)
CREATE = "CREATE TABLE IF NOT EXISTS files (uri BLOB PRIMARY KEY, version TEXT, digest BLOB)"
CRASHED = b""  # in the place of a digest: decoding this image ended the process


class FileIndex:
    """The images that were read before, in an SQLite database in the cache folder.

    A damaged database is recreated; then all images are read again.

    Args:
        cache: The cache folder.

    Raises:
        PipelineError: The database cannot be opened, read or written.
    """

    def __init__(self, cache: Path) -> None:
        self.path = cache / "images.sqlite"
        with self._named_errors():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._open()
            except sqlite3.DatabaseError as error:
                self._recreate(error)

    def _open(self) -> None:
        self._database = sqlite3.connect(self.path, timeout=60)
        self._database.text_factory = bytes  # a damaged database may hold bytes that are not UTF-8
        # A write-ahead log would need memory that all processes share, so they could not be on several machines.
        with contextlib.suppress(sqlite3.OperationalError):  # it has one from before, and another process uses it now
            self._database.execute("PRAGMA journal_mode = DELETE")
        self._database.execute("PRAGMA synchronous = NORMAL")
        self._database.execute(CREATE)

    def _recreate(self, error: sqlite3.DatabaseError) -> None:
        """Recreate the database if it is damaged; raise any other error again."""
        if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode & 0xFF in NOT_DAMAGE:
            raise error
        log.warning(
            "The file index %s is damaged (%s); it is recreated, and all images are read again.", self.path, error
        )
        self._database.close()
        for suffix in ("", "-journal", "-wal", "-shm"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)
        self._open()

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise PipelineError(
                f"The file index {self.path} cannot be used ({error}). Check that its disk has room and is writable, "
                "or choose another folder with cache=DIR."
            ) from error

    def digest(self, image: ImageRef) -> bytes | None:
        """The digest of an image that has not changed since it was recorded; None if it has, or is not known.

        It is CRASHED for an image that is not to be decoded.
        """
        if image.digest or not (version := image.version()):
            return image.digest
        query = "SELECT digest FROM files WHERE uri = ? AND version = ?"
        with self._named_errors():
            try:
                found = self._database.execute(query, (os.fsencode(image.uri), version)).fetchone()
            except sqlite3.DatabaseError as error:
                self._recreate(error)
                found = None
        return found[0] if found else None

    def record(self, images: Iterable[tuple[ImageRef, str, bytes]]) -> None:
        """Remember images by their version from before they were read and their digest, in one transaction."""
        rows = [(os.fsencode(image.uri), version, digest) for image, version, digest in images]
        with self._named_errors():
            try:
                self._insert(rows)
            except sqlite3.DatabaseError as error:
                self._recreate(error)
                self._insert(rows)

    def _insert(self, rows: Iterable[tuple[bytes, str, bytes]]) -> None:
        with self._database:
            self._database.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", rows)

    def close(self) -> None:
        """Close the database."""
        self._database.close()
