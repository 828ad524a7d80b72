"""The file index: path, size and modification time -> content digest, so that unchanged files need no reading."""

import contextlib
import logging
import os
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import PipelineError

log = logging.getLogger(__name__)

# A file written again within the tick of the clock keeps its time; one as young as this is not trusted yet.
TICK_NS = 2_000_000_000
NOT_DAMAGE = (
    *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN),
    *(sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM),
)
CREATE = "CREATE TABLE IF NOT EXISTS files (path BLOB PRIMARY KEY, size INTEGER, mtime_ns INTEGER, digest TEXT)"


@dataclass(frozen=True)
class Stamp:
    """A file's size in bytes and its modification time in nanoseconds."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> "Stamp":
        """The stamp in what `os.stat` or `os.fstat` returned."""
        return cls(status.st_size, status.st_mtime_ns)


class FileIndex:
    """What is known of files that were read before, in an SQLite database in the cache folder.

    A damaged database is made anew; all that is lost by it is time.

    Args:
        cache: The cache folder.

    Raises:
        PipelineError: The database cannot be opened, read or written.
    """

    def __init__(self, cache: Path) -> None:
        self.path = cache / "files.sqlite"
        with self._named_errors():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._open()
            except sqlite3.DatabaseError as error:
                self._remake(error)

    def _open(self) -> None:
        self._database = sqlite3.connect(self.path, timeout=60)
        self._database.text_factory = bytes  # what is damaged may be no UTF-8
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = NORMAL")
        self._database.execute(CREATE)

    def _remake(self, error: sqlite3.DatabaseError) -> None:
        """Begin anew where the database is damaged; other errors are not for us to mend."""
        if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode & 0xFF in NOT_DAMAGE:
            raise error
        log.warning("The file index %s is damaged (%s); it is made anew, and all files are read again.",
                    self.path, error)  # fmt: skip
        self._database.close()
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)
        self._open()

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise PipelineError(
                f"The file index {self.path} cannot be used ({error}). Make room and see that it may be written to, "
                "or choose another place with --cache DIR."
            ) from error

    def digest(self, file: Path) -> str | None:
        """The digest of a file that has not changed since it was recorded; None if it has, or is not known."""
        try:
            stamp = Stamp.of(os.stat(file))
        except OSError:  # whoever reads it will say why
            return None
        query = "SELECT digest FROM files WHERE path = ? AND size = ? AND mtime_ns = ?"
        with self._named_errors():
            try:
                found = self._database.execute(query, (_key(file), stamp.size, stamp.mtime_ns)).fetchone()
            except sqlite3.DatabaseError as error:
                self._remake(error)
                found = None
        return found[0].decode("ascii", "replace") if found else None

    def record(self, files: Iterable[tuple[Path, Stamp, str]], now_ns: int) -> None:
        """Remember files, with their stamps from before they were read and their digests, in one transaction."""
        rows = [
            (_key(file), stamp.size, stamp.mtime_ns, digest)
            for file, stamp, digest in files
            if now_ns - stamp.mtime_ns > TICK_NS
        ]
        with self._named_errors():
            try:
                self._insert(rows)
            except sqlite3.DatabaseError as error:
                self._remake(error)
                self._insert(rows)

    def _insert(self, rows: Iterable[tuple[bytes, int, int, str]]) -> None:
        with self._database:
            self._database.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", rows)

    def close(self) -> None:
        """Close the database."""
        self._database.close()


def _key(file: Path) -> bytes:
    return os.fsencode(os.path.abspath(file))
