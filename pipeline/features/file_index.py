"""The file index: URI and version -> content digest, so that unchanged images are not read again."""

import contextlib
import errno
import logging
import os
import sqlite3
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pipeline.core.errors import Parameter, PipelineError, first_line
from pipeline.data.images import ImageRef

log = logging.getLogger(__name__)
T = TypeVar("T")

# Errors caused by the system, not by the content of the database.
NOT_DAMAGE = (
    *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN),
    *(sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_PROTOCOL),
    *(sqlite3.SQLITE_NOLFS, sqlite3.SQLITE_AUTH, sqlite3.SQLITE_INTERRUPT),
)
LAYOUT = 2  # the user_version of a database with the table below; one with another version is recreated
CREATE = f"""
BEGIN IMMEDIATE;
DROP TABLE IF EXISTS files;
CREATE TABLE files (uri BLOB PRIMARY KEY, version TEXT, digest BLOB, checksum INTEGER);
PRAGMA user_version = {LAYOUT};
COMMIT
"""
RECORD = "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)"
LEARN = """
INSERT INTO files VALUES (?, ?, ?, ?)
ON CONFLICT (uri) DO UPDATE SET version = excluded.version, digest = excluded.digest, checksum = excluded.checksum
WHERE excluded.digest != x'' AND (version, digest) != (excluded.version, excluded.digest)
"""
FORMATS = (b"\1\1", b"\2\2")  # bytes 18 and 19 of a database, with a journal or a write-ahead log
PAGE = 10_000  # rows
LOOKED_UP = 1000  # images looked up under one lock
CRASHED = b""  # instead of a digest: decoding this image crashed the process


class FileIndex:
    """An index of the images that were read before, an SQLite database in the cache folder.

    A damaged database is recreated with a warning, one with another layout without a warning; all images are then read
    again.
    Each row has a checksum, so that rows that changed on disk are not trusted.

    Args:
        cache: The cache folder.

    Raises:
        PipelineError: The database cannot be opened, read or written.
    """

    def __init__(self, cache: Path) -> None:
        self.path = cache / "images.sqlite"
        with self._named_errors():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._repaired(self._open)

    def _open(self) -> None:
        self._database = sqlite3.connect(self.path, timeout=60)
        self._database.text_factory = bytes  # a damaged database may contain bytes that are not UTF-8
        # A write-ahead log needs shared memory, so processes on several machines could not use the database.
        with contextlib.suppress(
            sqlite3.OperationalError
        ):  # an older database has one, and another process is using it
            self._database.execute("PRAGMA journal_mode = DELETE")
        self._database.execute("PRAGMA synchronous = NORMAL")
        if self._database.execute("PRAGMA user_version").fetchone()[0] != LAYOUT:
            self._database.executescript(CREATE)

    def _repaired(self, use: Callable[[], T]) -> T | None:
        """Use the database; if it turns out to be damaged, recreate it and return None.

        Raises:
            sqlite3.Error, OSError: The database cannot be used for a reason other than damage.
        """
        try:
            return use()
        except (
            sqlite3.Error,
            UnicodeDecodeError,
            _Damage,
        ) as error:  # UnicodeDecodeError: SQLite quotes damaged text in its messages
            if not self._is_damaged(error):
                raise
            log.warning(
                "The file index %s is damaged (%s); it is recreated, and all images are read again.",
                self.path,
                first_line(error),
            )
        self._recreate()
        return None

    def _is_damaged(self, error: Exception) -> bool:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        if code == sqlite3.SQLITE_READONLY:  # also reported for a format that this SQLite cannot write
            return self.path.read_bytes()[18:20] not in FORMATS
        if code == sqlite3.SQLITE_CORRUPT and isinstance(error, sqlite3.Error) and not self._is_malformed():
            raise OSError(errno.EIO, os.strerror(errno.EIO)) from error  # SQLite reports I/O errors this way, too
        return code not in NOT_DAMAGE

    def _is_malformed(self) -> bool:
        """Whether SQLite's integrity check fails on the content of the database, read into memory."""
        content = self.path.read_bytes()
        with contextlib.closing(sqlite3.connect(":memory:")) as database:
            try:
                database.deserialize(content[:18] + FORMATS[0] + content[20:])
                return database.execute("PRAGMA integrity_check(1)").fetchone() != ("ok",)
            except (sqlite3.Error, UnicodeDecodeError):
                return True

    def _recreate(self) -> None:
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
                "or choose another folder with ",
                Parameter("cache", "DIR"),
                " (beside a cache in a bucket, with XDG_CACHE_HOME).",
            ) from error

    def digest(self, image: ImageRef) -> bytes | None:
        """The digest of an image that has not changed since it was recorded; None if it changed or is unknown.

        CRASHED if the image must not be decoded.
        """
        if image.digest or not (version := image.version()):
            return image.digest
        query = "SELECT digest, checksum FROM files WHERE uri = ? AND version = ?"
        uri = os.fsencode(image.uri)
        with self._named_errors():
            return self._repaired(lambda: self._find(query, uri, version))

    def _find(self, query: str, uri: bytes, version: str) -> bytes | None:
        row = self._database.execute(query, (uri, version)).fetchone()
        return _checked(uri, version.encode(), *row) if row else None

    def digests(self, images: Sequence[ImageRef]) -> Iterator[bytes | None]:
        """The digest of each image, like `digest`; other processes can write in between."""
        for start in range(0, len(images), LOOKED_UP):
            with self._named_errors():
                # A lock per image would take as long as the lookup.
                self._repaired(lambda: self._database.execute("BEGIN"))
            digests = [self.digest(image) for image in images[start : start + LOOKED_UP]]
            self._database.rollback()
            yield from digests

    def knows_below(self, folder: Path) -> bool:
        """Whether any file in a folder or its subfolders was recorded."""
        first = os.fsencode(os.path.join(os.path.abspath(folder), ""))
        after = first[:-1] + bytes([first[-1] + 1])
        query = "SELECT 1 FROM files WHERE uri >= ? AND uri < ? LIMIT 1"
        with self._named_errors():
            return bool(self._repaired(lambda: self._database.execute(query, (first, after)).fetchone()))

    def record(self, images: Iterable[tuple[ImageRef, str, bytes]]) -> None:
        """Record the digests of images, with their versions before they were read, in one transaction."""
        self._write(RECORD, [(os.fsencode(image.uri), version, digest) for image, version, digest in images])

    def _write(self, statement: str, rows: Sequence[tuple[bytes, str, bytes]]) -> int:
        """Write rows in one transaction; returns the number of new or changed ones."""
        with self._named_errors():
            count = self._repaired(lambda: self._execute(statement, rows))
            return self._execute(statement, rows) if count is None else count

    def _execute(self, statement: str, rows: Sequence[tuple[bytes, str, bytes]]) -> int:
        checked = [(uri, version, digest, _checksum(uri, version.encode(), digest)) for uri, version, digest in rows]
        with self._database:
            return self._database.executemany(statement, checked).rowcount

    def learn(self, other: "FileIndex") -> int:
        """Copy the entries of another index; they replace entries for the same files.

        If decoding an image crashed a process there, but not here, this index keeps its digest.

        Returns:
            The number of new or changed entries.
        """
        return sum(self._write(LEARN, page) for page in other.pages())

    def pages(self) -> Iterator[list[tuple[bytes, str, bytes]]]:
        """All entries (URI, version and digest), sorted by URI, in pages; other processes can write in between.

        If the database turns out to be damaged, it is recreated, and the iteration ends.
        """
        after = b""
        with self._named_errors():
            while rows := self._repaired(lambda: self._page(after)):  # noqa: B023  called at once
                yield rows
                after = rows[-1][0]

    def _page(self, after: bytes) -> list[tuple[bytes, str, bytes]]:
        """The rows that follow a URI."""
        query = "SELECT uri, version, digest, checksum FROM files WHERE uri > ? ORDER BY uri LIMIT ?"
        rows = self._database.execute(query, (after, PAGE)).fetchall()
        return [(row[0], row[1].decode(), _checked(*row)) for row in rows]

    def close(self) -> None:
        """Close the database."""
        self._database.close()


class _Damage(Exception):
    """A row changed on disk."""


def _checksum(uri: bytes, version: bytes, digest: bytes) -> int:
    return zlib.crc32(digest, zlib.crc32(version, zlib.crc32(uri)))


def _checked(uri: Any, version: Any, digest: Any, checksum: Any) -> bytes:
    """The digest of a row.

    Raises:
        _Damage: The row changed on disk.
    """
    if not all(isinstance(part, bytes) for part in (uri, version, digest)):
        raise _Damage("a value is of another type")
    if _checksum(uri, version, digest) != checksum:
        raise _Damage("a checksum is wrong")
    return digest
