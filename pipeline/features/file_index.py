"""The file index: URI and version -> content digest, so that unchanged images are not read again."""

import contextlib
import logging
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pipeline.core.errors import PipelineError
from pipeline.data.images import ImageRef

log = logging.getLogger(__name__)

NOT_DAMAGE = (
    *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN),
    *(sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM),
)
CREATE = "CREATE TABLE IF NOT EXISTS files (uri BLOB PRIMARY KEY, version TEXT, digest BLOB)"
RECORD = "INSERT OR REPLACE INTO files VALUES (?, ?, ?)"
LEARN = """
INSERT INTO files VALUES (?, ?, ?) ON CONFLICT (uri) DO UPDATE SET version = excluded.version, digest = excluded.digest
WHERE excluded.digest != x'' AND (version, digest) != (excluded.version, excluded.digest)
"""
PAGE = 10_000  # rows
LOOKED_UP = 1000  # images that are looked up under one lock
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

    def _recreate(self, error: Exception) -> None:
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
                "or choose another folder with cache=DIR (beside a cache in a bucket, with XDG_CACHE_HOME)."
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

    def digests(self, images: Sequence[ImageRef]) -> Iterator[bytes | None]:
        """The digest of each of many images, as `digest`; others may write in between."""
        for start in range(0, len(images), LOOKED_UP):
            with self._named_errors():
                self._database.execute("BEGIN")  # a lock for each image would take as long as looking it up
            found = [self.digest(image) for image in images[start : start + LOOKED_UP]]
            self._database.rollback()
            yield from found

    def record(self, images: Iterable[tuple[ImageRef, str, bytes]]) -> None:
        """Remember images by their version from before they were read and their digest, in one transaction."""
        self._write(RECORD, [(os.fsencode(image.uri), version, digest) for image, version, digest in images])

    def _write(self, statement: str, rows: Sequence[tuple[bytes, str, bytes]]) -> int:
        """Write rows in one transaction; returns how many are new or changed."""
        with self._named_errors():
            try:
                return self._execute(statement, rows)
            except sqlite3.DatabaseError as error:
                self._recreate(error)
                return self._execute(statement, rows)

    def _execute(self, statement: str, rows: Sequence[tuple[bytes, str, bytes]]) -> int:
        with self._database:
            return self._database.executemany(statement, rows).rowcount

    def learn(self, other: "FileIndex") -> int:
        """Take over what another index knows, which counts more than what this one says of the same files.

        Where decoding an image ended a process there, but not here, this one's digest is kept.

        Returns:
            Of how many files this index knows more than before.
        """
        return sum(self._write(LEARN, page) for page in other.pages())

    def pages(self) -> Iterator[list[tuple[bytes, str, bytes]]]:
        """All that is known: URI, version and digest, in the order of URIs, in pages, between which others may write.

        Where the database turns out to be damaged, it is recreated, and this is the end.
        """
        query = "SELECT uri, CAST(version AS BLOB), digest FROM files WHERE uri > ? ORDER BY uri LIMIT ?"
        after = b""
        with self._named_errors():
            try:
                while rows := self._database.execute(query, (after, PAGE)).fetchall():
                    yield [(uri, version.decode(), digest) for uri, version, digest in rows]
                    after = rows[-1][0]
            except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
                self._recreate(error)

    def close(self) -> None:
        """Close the database."""
        self._database.close()
