"""The feature store: content digest of an image -> its feature and thumbnail, one Lance dataset for each extractor.

Lance (https://lancedb.github.io/lance) commits an append with one atomic rename, so a process killed at any moment
leaves either all of a batch or none of it. A lock beside the store lets one process append at a time, so that several
may fill it without storing an image twice. Each row carries a CRC-32 of its content, which is checked when the row is
first read.
"""

import json
import logging
import zlib
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
from filelock import FileLock

from pipeline.core.errors import PipelineError
from pipeline.data.decoding import THUMBNAIL
from pipeline.features.extractor import Extractor
from pipeline.features.store_repair import UNREADABLE, drop_unreadable_files, lance_cause, open_newest_readable

log = logging.getLogger(__name__)

# Appends make a fragment a batch; once this many have gathered they are merged into ones of up to MERGED_ROWS rows,
# so that opening the store stays fast and each row is rewritten only a few times.
FRAGMENTS_BEFORE_MERGE = 100
MERGED_ROWS = 4096
# Versions that merging has replaced are kept for a reader that opened the store before.
KEEP_OLD_VERSIONS = timedelta(days=1)
CHECKED_AT_ONCE = 512  # rows
RUN_AGAIN = "Run extract on these images to compute the lost features again."


class FeatureStore:
    """The features that one extractor has computed so far.

    Damage on disk is dropped, with a warning, and computed again: a row whose checksum is wrong, a data file that
    cannot be read, or, where nothing can be read, the whole store, which is set aside.

    Args:
        cache: The cache folder; the store is `features/FINGERPRINT.lance` below it, created when it is missing.
        extractor: Whose features these are.

    Raises:
        PipelineError: The store cannot be opened or created, or another version of this program created it.
    """

    def __init__(self, cache: Path, extractor: Extractor) -> None:
        self.path = cache / "features" / f"{extractor.fingerprint}.lance"
        self._lock = FileLock(self.path.with_suffix(".lock"))
        self._schema = pa.schema(
            [
                pa.field("digest", pa.binary(16), nullable=False),
                pa.field("checksum", pa.uint32(), nullable=False),
                pa.field("vector", pa.list_(pa.float32(), extractor.dim), nullable=False),
                pa.field("thumbnail", pa.binary(THUMBNAIL**2), nullable=False),
                pa.field("pixel_count", pa.int64(), nullable=False),
            ],
            metadata={"extractor": json.dumps(extractor.description)},
        )
        self._rows: dict[str, int] | None = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._open()
        except UNREADABLE as error:
            raise PipelineError(
                f"The feature store {self.path} cannot be opened ({error}). "
                "Choose another cache folder, or delete this one to compute its features again."
            ) from error

    def _open(self) -> None:
        """Open or create the store; drop what is damaged."""
        try:
            self._dataset = lance.dataset(self.path)
        except UNREADABLE:
            with self._lock:
                self._dataset = open_newest_readable(self.path, self._schema)
        if self._dataset.schema.names != self._schema.names:
            raise ValueError("another version of this program created it")
        try:
            self._read_digests()
        except UNREADABLE:
            self._drop_unreadable_files()

    def _read_digests(self) -> None:
        table = self._dataset.to_table(columns=["digest", "pixel_count"])
        self._digests = [digest.hex() for digest in table["digest"].to_pylist()]
        self._known = dict(zip(self._digests, table["pixel_count"].to_pylist(), strict=True))
        self._rows = None

    def _drop_unreadable_files(self) -> bool:
        """Drop the data files that cannot be read; returns whether there were any."""
        with self._lock:
            self._dataset, dropped = drop_unreadable_files(self.path)
            self._read_digests()
        return dropped > 0

    def __contains__(self, digest: str) -> bool:
        return digest in self._known

    def __len__(self) -> int:
        return len(self._known)

    @property
    def digests(self) -> frozenset[str]:
        """The content digests of all images whose features are stored."""
        return frozenset(self._known)

    def pixel_count(self, digest: str) -> int:
        """The size of a stored image, in pixels: its width times its height before it was resized."""
        return self._known[digest]

    def append(
        self, digests: Sequence[str], features: np.ndarray, thumbnails: np.ndarray, pixel_counts: Sequence[int]
    ) -> None:
        """Store a batch; when this returns, it is on disk and survives a kill.

        Args:
            digests: Content digests, N of them, none of which is in the store.
            features: Their features, shape (N, dim), float32.
            thumbnails: Their thumbnails, shape (N, THUMBNAIL, THUMBNAIL), uint8.
            pixel_counts: The sizes of the images, in pixels, N of them.

        Raises:
            PipelineError: They cannot be written.
        """
        try:
            with self._lock:
                self._catch_up()
                new = [row for row, digest in enumerate(digests) if digest not in self._known]
                if new:
                    counts = [pixel_counts[row] for row in new]
                    table = self._table([digests[row] for row in new], features[new], thumbnails[new], counts)
                    self._dataset = lance.write_dataset(table, self._dataset, mode="append")
                    self._digests += [digests[row] for row in new]
                if len(self._dataset.get_fragments()) > FRAGMENTS_BEFORE_MERGE:
                    self._dataset.optimize.compact_files(target_rows_per_fragment=MERGED_ROWS)
                    self._dataset.cleanup_old_versions(older_than=KEEP_OLD_VERSIONS)
                    self._read_digests()
        except UNREADABLE as error:
            raise PipelineError(
                f"The feature store {self.path} cannot be written ({lance_cause(error)}). What was stored before "
                "is kept; make room, or choose another cache folder, and run the same command again."
            ) from error
        self._known.update(zip(digests, pixel_counts, strict=True))
        self._rows = None

    def tidy(self) -> None:
        """Remove what processes left behind that were killed while they appended.

        Raises:
            PipelineError: It cannot be removed.
        """
        try:
            with self._lock:  # so nothing unfinished belongs to a running process
                self._dataset.cleanup_old_versions(older_than=KEEP_OLD_VERSIONS, delete_unverified=True)
        except UNREADABLE as error:
            raise PipelineError(f"The feature store {self.path} cannot be tidied ({lance_cause(error)}).") from error

    def _catch_up(self) -> None:
        """Load what other processes have stored since."""
        if self._dataset.latest_version != self._dataset.version:
            self._dataset = lance.dataset(self.path)
            self._read_digests()

    def _table(
        self, digests: Sequence[str], features: np.ndarray, thumbnails: np.ndarray, pixel_counts: Sequence[int]
    ) -> pa.Table:
        vectors = np.ascontiguousarray(features, np.float32)
        keys = [bytes.fromhex(digest) for digest in digests]
        thumbs = [thumbnail.tobytes() for thumbnail in thumbnails]
        return pa.table(
            [
                pa.array(keys, pa.binary(16)),
                pa.array(map(_checksum, keys, vectors, thumbs, pixel_counts), pa.uint32()),
                pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1]),
                pa.array(thumbs, pa.binary(THUMBNAIL**2)),
                pa.array(pixel_counts, pa.int64()),
            ],
            schema=self._schema,
        )

    def rows(self, digests: Sequence[str]) -> np.ndarray:
        """Where the features of some images are, for `take`; valid until the next append.

        Args:
            digests: Content digests, N of them, in any order; repeats are fine.

        Returns:
            Row numbers, shape (N,), int64.

        Raises:
            KeyError: A digest is not in the store.
        """
        if self._rows is None:
            self._rows = {digest: row for row, digest in enumerate(self._digests)}
            self._checked = np.zeros(len(self._digests), bool)
        return np.array([self._rows[digest] for digest in digests], np.int64)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Read features by row number.

        Args:
            rows: Row numbers from `rows`, N of them.

        Returns:
            Their features in the same order, shape (N, dim), float32.

        Raises:
            PipelineError: A vector on disk is not the one that was stored.
        """
        wanted, where = np.unique(rows, return_inverse=True)
        try:
            vectors, damaged = self._read(wanted)
        except UNREADABLE as error:
            raise PipelineError(
                f"The feature store {self.path} is damaged ({lance_cause(error)}). {RUN_AGAIN}"
            ) from error
        if damaged:
            raise PipelineError(
                f"The feature store {self.path} is damaged: the vector of image {damaged[0]} changed on disk. "
                f"{RUN_AGAIN}"
            )
        self._checked[wanted] = True
        return vectors if len(wanted) == len(rows) and (where == np.arange(len(rows))).all() else vectors[where]

    def _read(self, rows: np.ndarray) -> tuple[np.ndarray, list[str]]:
        """The vectors of distinct rows, and the digests of the rows whose checksum is wrong."""
        unchecked = not self._checked[rows].all()
        columns = ["digest", "checksum", "vector", "thumbnail", "pixel_count"] if unchecked else ["vector"]
        taken = self._dataset.take(rows, columns=columns).combine_chunks()
        vectors = taken["vector"].chunk(0).flatten().to_numpy().reshape(len(rows), -1)
        if not unchecked:
            return vectors, []
        names = ("digest", "thumbnail", "pixel_count", "checksum")
        keys, thumbs, counts, stored = (taken[name].to_pylist() for name in names)
        found = map(_checksum, keys, vectors, thumbs, counts)
        right = [checksum == wanted for checksum, wanted in zip(found, stored, strict=True)]
        return vectors, [self._digests[row] for row, good in zip(rows, right, strict=True) if not good]

    def drop_damaged(self, digests: Sequence[str]) -> int:
        """Check the rows of some images, and drop those that changed on disk.

        Args:
            digests: Content digests of stored images.

        Returns:
            How many of these images the store lacks now.

        Raises:
            PipelineError: It cannot be repaired.
        """
        present = [digest for digest in dict.fromkeys(digests) if digest in self]
        lost = len(set(digests)) - len(present)  # another process found them damaged
        try:
            wanted = np.unique(self.rows(present))
            wanted = wanted[~self._checked[wanted]]
            damaged: list[str] = []
            try:
                for start in range(0, len(wanted), CHECKED_AT_ONCE):
                    rows = wanted[start : start + CHECKED_AT_ONCE]
                    found = self._read(rows)[1]
                    damaged += found
                    self._checked[rows] = not found
            except UNREADABLE:
                if not self._drop_unreadable_files():
                    raise
                return self.drop_damaged(digests)
            if damaged:
                log.warning(
                    "%d vectors of the feature store %s changed on disk and are computed again.",
                    len(damaged),
                    self.path,
                )
                with self._lock:
                    self._dataset = lance.dataset(self.path)
                    self._dataset.delete(f"digest IN ({', '.join(f'X{digest!r}' for digest in damaged)})")
                    self._read_digests()
        except UNREADABLE as error:
            raise PipelineError(
                f"The feature store {self.path} is damaged and cannot be repaired ({lance_cause(error)}). "
                "Delete this folder to compute its features again."
            ) from error
        return lost + len(damaged)

    def features(self, digests: Sequence[str]) -> np.ndarray:
        """Read the features of some images: `take(rows(digests))`."""
        return self.take(self.rows(digests))

    def thumbnails(self, digests: Sequence[str]) -> np.ndarray:
        """Read the thumbnails of some images.

        Args:
            digests: Content digests, N of them.

        Returns:
            Shape (N, THUMBNAIL, THUMBNAIL), uint8.
        """
        wanted, where = np.unique(self.rows(digests), return_inverse=True)
        taken = self._dataset.take(wanted, columns=["thumbnail"])["thumbnail"].to_pylist()
        return np.frombuffer(b"".join(taken), np.uint8).reshape(-1, THUMBNAIL, THUMBNAIL)[where]


def _checksum(digest: bytes, vector: np.ndarray, thumbnail: bytes, pixel_count: int) -> int:
    """CRC-32 of the content of a row."""
    checksum = 0
    for part in (digest, vector.data, thumbnail, pixel_count.to_bytes(8, "little", signed=True)):
        checksum = zlib.crc32(part, checksum)
    return checksum
