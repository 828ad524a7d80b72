"""The feature store: content digest of an image -> its feature and thumbnail, one Lance dataset for each extractor.

Lance (https://lancedb.github.io/lance) commits an append in one atomic step, so a process killed at any moment leaves
either all of a batch or nothing. In a folder, a lock next to the store lets one process append at a time, so that
several can fill it without storing an image twice. A bucket has no lock: an image that two processes store at the
same time is stored twice, and one of the rows is read (see `store_bucket.py`). Each row has a CRC-32 of its content,
which is checked when the row is first read.
"""

import json
import logging
import math
import time
import zlib
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa

from pipeline.core.errors import PipelineError
from pipeline.core.locations import Location
from pipeline.core.progress import progress_bar
from pipeline.core.wording import counted
from pipeline.data.decoding import THUMBNAIL
from pipeline.features.cache import cache_location, lance_store, named_errors
from pipeline.features.extractor import Extractor
from pipeline.features.lance_errors import UNREADABLE, panics_as_errors
from pipeline.features.merging import merge_fragments
from pipeline.features.store_folder import KEEP_OLD_VERSIONS, RUN_AGAIN
from pipeline.features.stored_rows import StoredRows

log = logging.getLogger(__name__)

CLEAN_UP_SECONDS = 3600  # each clean-up reads all versions of a day
CHECKED_AT_ONCE = 512  # rows


class FeatureStore:
    """The stored features of one extractor.

    Damage that is detected when the store is opened is dropped with a warning and computed again: a data file, the
    newest version or, if no version is intact, the whole store, which is set aside. A store that cannot be read for
    another reason is refused and not changed; a store in a bucket is refused whatever the reason. A vector that changed
    on disk is refused when it is read, and dropped by `drop_damaged`.

    Args:
        cache: The cache folder, or its URL; the store is `features/FINGERPRINT.lance` in it, created if missing.
        extractor: The extractor of the features.

    Attributes:
        path: The Lance dataset: a path, or a URL.
        commit_cost: The commit interval, as a multiple of a folder's.
        arrived: The digests that other processes have stored since this store was opened.

    Raises:
        PipelineError: The store cannot be opened or created, or another version of this program created it.
    """

    def __init__(self, cache: Location | Path | str, extractor: Extractor) -> None:
        self._lance = lance_store(cache_location(cache), extractor.fingerprint)
        self.path, self.commit_cost = self._lance.path, self._lance.commit_cost
        self._cleaned_up = -math.inf
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
        self.arrived: set[bytes] = set()
        with named_errors(self._lance, "open"), panics_as_errors():
            self._open()

    def _open(self) -> None:
        """Open or create the store; drop damaged files."""
        self._dataset = self._lance.open_or_create(self._schema)
        if self._dataset.schema.names != self._schema.names:
            raise ValueError("another version of this program created it")
        stored_dim, dim = (schema.field("vector").type.list_size for schema in (self._dataset.schema, self._schema))
        if stored_dim != dim:
            raise ValueError(f"its vectors have {stored_dim} numbers, not {dim}")
        if self._dataset.schema.remove_metadata() != self._schema.remove_metadata():
            raise ValueError("its columns are not of the types that this version of the program stores")
        try:
            self._rows = StoredRows(self._dataset)
        except UNREADABLE as error:
            self._drop_damaged_files(error)

    def _drop_damaged_files(self, error: Exception) -> bool:
        """Drop damaged data files; returns whether there were any. In a bucket, raise the error."""
        with self._lance.lock():
            self._dataset, dropped = self._lance.repair(error)
            self._rows = StoredRows(self._dataset)
        return dropped > 0

    def __len__(self) -> int:
        return len(self._rows.index)

    @property
    def digests(self) -> np.ndarray:
        """The content digests of all images with stored features, sorted, shape (len(self),), DIGEST."""
        return self._rows.index.sorted

    def contains(self, digests: np.ndarray) -> np.ndarray:
        """Check which images have stored features.

        Args:
            digests: Content digests, shape (N,), DIGEST.

        Returns:
            Shape (N,), bool.
        """
        return self._rows.index.find(digests) >= 0

    def pixel_counts(self, digests: np.ndarray) -> np.ndarray:
        """The sizes of stored images in pixels: width times height before resizing.

        Args:
            digests: Content digests of stored images, shape (N,), DIGEST.

        Returns:
            Shape (N,), int64.
        """
        return self._rows.pixel_counts.rows[self.rows(digests)]

    def check(self, digests: np.ndarray) -> None:
        """Check the rows of stored images against their checksums.

        Args:
            digests: Content digests of stored images, shape (N,), DIGEST.

        Raises:
            PipelineError: A row changed on disk.
        """
        rows = self.rows(digests)
        for start in range(0, len(rows), CHECKED_AT_ONCE):
            self.take(rows[start : start + CHECKED_AT_ONCE])

    def append(
        self, digests: np.ndarray, features: np.ndarray, thumbnails: np.ndarray, pixel_counts: np.ndarray
    ) -> int:
        """Store a batch; on return it is on disk and survives a kill. Call `merge` after many of them.

        Args:
            digests: Distinct content digests, shape (N,), DIGEST; features already stored are not replaced.
            features: Their features, shape (N, dim), float32.
            thumbnails: Their thumbnails, shape (N, THUMBNAIL, THUMBNAIL), uint8.
            pixel_counts: The sizes of the images, in pixels, shape (N,), int.

        Returns:
            The number of features that were new.

        Raises:
            PipelineError: The batch cannot be written, or a feature is NaN or infinite; then nothing is stored.
        """
        if not (is_finite := np.isfinite(features).all(axis=1)).all():
            names = ", ".join(digest.hex() for digest in digests[~is_finite].tolist())
            raise PipelineError(
                f"The features of {counted(int((~is_finite).sum()), 'image')} are NaN or infinite, which the feature "
                f"store {self.path} does not take (content digests {names}). Nothing of their group was stored."
            )
        with named_errors(self._lance, "write"), self._lance.lock():
            self._catch_up()
            new = ~self.contains(digests)
            if new.any():
                rows = slice(None) if new.all() else new  # a slice does not copy
                table = self._table(digests[rows], features[rows], thumbnails[rows], pixel_counts[rows])
                version = self._dataset.version
                dataset = lance.write_dataset(table, self._dataset, mode="append")
                if dataset.version == version + 1:
                    self._rows.add(dataset, digests[new], pixel_counts[new])
                    self._dataset = dataset
                else:  # in a bucket: other processes stored something meanwhile
                    self._follow(dataset)
        return int(new.sum())

    def merge(self) -> None:
        """Merge small data files and the index of recent rows; another thread may append meanwhile.

        A call merges at most about MERGED_BYTES, so that it ends soon.

        Raises:
            PipelineError: The merged files cannot be written.
        """
        row_bytes = 4 * self._schema.field("vector").type.list_size + THUMBNAIL**2
        with named_errors(self._lance, "write"), panics_as_errors():
            has_merged = merge_fragments(self._lance, self._dataset, row_bytes)
            if has_merged and time.monotonic() - self._cleaned_up > CLEAN_UP_SECONDS:
                self._lance.dataset().cleanup_old_versions(older_than=KEEP_OLD_VERSIONS)
                self._cleaned_up = time.monotonic()
        self._rows.index.merge()

    def tidy(self) -> None:
        """Remove the leftovers of processes that were killed while appending; check that no data file is missing.

        Raises:
            PipelineError: A leftover cannot be removed, or a data file is missing.
        """
        with named_errors(self._lance, "tidy"), self._lance.lock():
            self._catch_up()
            self._lance.tidy(self._dataset)

    def _catch_up(self) -> None:
        """Load other processes' changes, and the merges of this one."""
        if self._dataset.latest_version != self._dataset.version:
            self._follow(self._lance.dataset())

    def _follow(self, dataset: lance.LanceDataset) -> None:
        self.arrived.update(self._rows.follow(dataset).tolist())
        self._dataset = dataset

    def _table(
        self, digests: np.ndarray, features: np.ndarray, thumbnails: np.ndarray, pixel_counts: np.ndarray
    ) -> pa.Table:
        vectors = np.ascontiguousarray(features, np.float32)
        keys, counts = digests.tolist(), pixel_counts.tolist()
        thumbs = [thumbnail.tobytes() for thumbnail in thumbnails]
        return pa.table(
            [
                pa.array(keys, pa.binary(16)),
                pa.array(map(_checksum, keys, vectors, thumbs, counts), pa.uint32()),
                pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1]),
                pa.array(thumbs, pa.binary(THUMBNAIL**2)),
                pa.array(counts, pa.int64()),
            ],
            schema=self._schema,
        )

    def rows(self, digests: np.ndarray) -> np.ndarray:
        """The rows of images' features, for `take`; valid until rows are deleted.

        Args:
            digests: Content digests, shape (N,), DIGEST, in any order; repeats are fine.

        Returns:
            Row numbers, shape (N,), int64.

        Raises:
            KeyError: A digest is not in the store.
        """
        rows = self._rows.index.find(digests)
        if (rows < 0).any():
            raise KeyError(digests[int((rows < 0).argmax())].tobytes().hex())
        return rows

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Read features by row number.

        Args:
            rows: Row numbers from `rows`, N of them.

        Returns:
            Their features in the same order, shape (N, dim), float32.

        Raises:
            PipelineError: A vector changed on disk.
        """
        distinct, inverse = np.unique(rows, return_inverse=True)
        with named_errors(self._lance, "read"):
            vectors, damaged = self._read(distinct)
        if len(damaged):
            digest = self._rows.digests.rows[damaged[0]].tobytes().hex()
            raise PipelineError(
                f"The feature store {self.path} is damaged: the vector of image {digest} changed on disk. {RUN_AGAIN}"
            )
        self._rows.checked.rows[distinct] = True
        return vectors if len(distinct) == len(rows) and (inverse == np.arange(len(rows))).all() else vectors[inverse]

    def _read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The vectors of distinct rows, and the row numbers with a wrong checksum."""
        unchecked = not self._rows.checked.rows[rows].all()
        columns = ["digest", "checksum", "vector", "thumbnail", "pixel_count"] if unchecked else ["vector"]
        if not len(rows):
            return np.zeros((0, self._schema.field("vector").type.list_size), np.float32), rows
        with panics_as_errors():
            table = self._dataset.take(self._rows.positions(rows), columns=columns).combine_chunks()
        vectors = table["vector"].chunk(0).flatten().to_numpy().reshape(len(rows), -1)
        if not unchecked:
            return vectors, rows[:0]
        names = ("digest", "thumbnail", "pixel_count", "checksum")
        keys, thumbs, counts, stored = (table[name].to_pylist() for name in names)
        computed = list(map(_checksum, keys, vectors, thumbs, counts))
        return vectors, rows[np.array(computed) != np.array(stored)]

    def drop_damaged(self, progress: bool = False) -> int:
        """Check every row, and drop rows that changed on disk.

        Args:
            progress: Whether to show a progress bar on stderr.

        Returns:
            The number of vectors dropped.

        Raises:
            PipelineError: The store cannot be repaired.
        """
        before = len(self)
        with named_errors(self._lance, "repair"):
            try:
                damaged = self._damaged_rows(progress)
            except UNREADABLE as error:
                if not self._drop_damaged_files(error):
                    raise
                damaged = self._damaged_rows(progress)
            if len(damaged):
                log.warning(
                    "%d vectors of the feature store %s changed on disk and are dropped.", len(damaged), self.path
                )
                self._delete(self._rows.digests.rows[damaged])
        return before - len(self)

    def _damaged_rows(self, progress: bool) -> np.ndarray:
        unchecked = np.flatnonzero(~self._rows.checked.rows)
        damaged = [unchecked[:0]]
        with progress_bar(len(unchecked), "vector", "verification", progress and len(unchecked) > 0) as bar:
            for start in range(0, len(unchecked), CHECKED_AT_ONCE):
                rows = unchecked[start : start + CHECKED_AT_ONCE]
                damaged.append(self._read(rows)[1])
                self._rows.checked.rows[rows] = True
                bar.update(len(rows))
        return np.concatenate(damaged)

    def _delete(self, digests: np.ndarray) -> None:
        with self._lance.lock():
            self._dataset = self._lance.dataset()
            keys = ", ".join(f"X'{digest.hex()}'" for digest in digests.tolist())
            self._dataset.delete(f"digest IN ({keys})")
            self._rows = StoredRows(self._dataset)

    def features(self, digests: np.ndarray) -> np.ndarray:
        """Read the features of images: `take(rows(digests))`."""
        return self.take(self.rows(digests))

    def thumbnails(self, digests: np.ndarray) -> np.ndarray:
        """Read the thumbnails of images.

        Args:
            digests: Content digests, shape (N,), DIGEST.

        Returns:
            Shape (N, THUMBNAIL, THUMBNAIL), uint8.

        Raises:
            PipelineError: The store cannot be read.
        """
        distinct, inverse = np.unique(self.rows(digests), return_inverse=True)
        with named_errors(self._lance, "read"):
            table = self._dataset.take(self._rows.positions(distinct), columns=["thumbnail"])
        thumbnails = table["thumbnail"].to_pylist()
        return np.frombuffer(b"".join(thumbnails), np.uint8).reshape(-1, THUMBNAIL, THUMBNAIL)[inverse]


def _checksum(digest: bytes, vector: np.ndarray, thumbnail: bytes, pixel_count: int) -> int:
    """CRC-32 of the content of a row."""
    checksum = 0
    for part in (digest, vector.data, thumbnail, pixel_count.to_bytes(8, "little", signed=True)):
        checksum = zlib.crc32(part, checksum)
    return checksum
