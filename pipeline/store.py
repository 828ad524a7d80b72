"""The feature store: content digest of an image -> its feature and thumbnail, one Lance dataset for each extractor.

Lance (https://lancedb.github.io/lance) commits an append with one atomic rename, so a process killed at any moment
leaves either all of a batch or none of it, and several processes may append at once. Each row carries a CRC-32 of its
vector, checked when the row is first read.
"""

import json
import zlib
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa

from pipeline.errors import PipelineError
from pipeline.images import THUMBNAIL
from pipeline.vgg16 import Extractor

# Appends make a fragment a batch; once this many have gathered they are merged into ones of up to MERGED_ROWS rows,
# so that opening the store stays fast and each row is rewritten only a few times.
FRAGMENTS_BEFORE_MERGE = 100
MERGED_ROWS = 4096
# Versions that merging has replaced are kept for a reader that opened the store before.
KEEP_OLD_VERSIONS = timedelta(days=1)


class FeatureStore:
    """The features that one extractor has computed so far.

    Args:
        cache: The cache folder; the store is `features/FINGERPRINT.lance` below it, made when it is missing.
        extractor: Whose features these are.

    Raises:
        PipelineError: The store cannot be opened or made.
    """

    def __init__(self, cache: Path, extractor: Extractor) -> None:
        self.path = cache / "features" / f"{extractor.fingerprint}.lance"
        self._schema = pa.schema(
            [
                pa.field("digest", pa.binary(16), nullable=False),
                pa.field("crc32", pa.uint32(), nullable=False),
                pa.field("vector", pa.list_(pa.float32(), extractor.dim), nullable=False),
                pa.field("thumbnail", pa.binary(THUMBNAIL**2), nullable=False),
            ],
            metadata={"extractor": json.dumps(extractor.description)},
        )
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._dataset = self._open()
            if self._dataset.schema.names != self._schema.names:
                raise ValueError("another version of this program has made it")
            digests = self._dataset.to_table(columns=["digest"])["digest"]
        except (OSError, ValueError) as error:
            raise PipelineError(
                f"The feature store {self.path} cannot be opened ({error}). "
                "Choose another place with --cache DIR, or delete this folder to compute its features again."
            ) from error
        self._digests = {digest.hex() for digest in digests.to_pylist()}
        self._rows: dict[str, int] | None = None

    def _open(self) -> lance.LanceDataset:
        if not (self.path / "_versions").exists():
            try:
                return lance.write_dataset(self._schema.empty_table(), self.path, mode="create")
            except (OSError, ValueError):
                if not (self.path / "_versions").exists():  # else another process has made it meanwhile
                    raise
        return lance.dataset(self.path)

    def __contains__(self, digest: str) -> bool:
        return digest in self._digests

    def __len__(self) -> int:
        return len(self._digests)

    @property
    def digests(self) -> frozenset[str]:
        """The content digests of all images whose features are stored."""
        return frozenset(self._digests)

    def append(self, digests: Sequence[str], features: np.ndarray, thumbnails: np.ndarray) -> None:
        """Store a batch; when this returns, it is on disk and survives a kill.

        Args:
            digests: Content digests, N of them, none of which is in the store.
            features: Their features, shape (N, dim), float32.
            thumbnails: Their thumbnails, shape (N, THUMBNAIL, THUMBNAIL), uint8.

        Raises:
            PipelineError: They cannot be written.
        """
        vectors = np.ascontiguousarray(features, np.float32)
        batch = pa.table(
            [
                pa.array([bytes.fromhex(digest) for digest in digests], pa.binary(16)),
                pa.array([zlib.crc32(vector) for vector in vectors], pa.uint32()),
                pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1]),
                pa.array([thumbnail.tobytes() for thumbnail in thumbnails], pa.binary(THUMBNAIL**2)),
            ],
            schema=self._schema,
        )
        try:
            self._dataset = lance.write_dataset(batch, self._dataset, mode="append")
            if len(self._dataset.get_fragments()) > FRAGMENTS_BEFORE_MERGE:
                self._dataset.optimize.compact_files(target_rows_per_fragment=MERGED_ROWS)
                self._dataset.cleanup_old_versions(older_than=KEEP_OLD_VERSIONS)
        except OSError as error:
            raise PipelineError(
                f"The feature store {self.path} cannot be written ({error}). What was stored before stays; "
                "make room, or choose another place with --cache DIR, and run the same command again."
            ) from error
        self._digests.update(digests)
        self._rows = None

    def rows(self, digests: Sequence[str]) -> np.ndarray:
        """Where some images' features are, for `take`; good until the next append.

        Args:
            digests: Content digests, N of them, in any order; repeats are fine.

        Returns:
            Row numbers, shape (N,), int64.

        Raises:
            KeyError: A digest is not in the store.
        """
        if self._rows is None:
            stored = self._dataset.to_table(columns=["digest"])["digest"]
            self._rows = {digest.hex(): row for row, digest in enumerate(stored.to_pylist())}
            self._checked = np.zeros(len(stored), bool)
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
        taken = self._dataset.take(wanted, columns=["digest", "crc32", "vector"]).combine_chunks()
        vectors = taken["vector"].chunk(0).flatten().to_numpy().reshape(len(wanted), -1)
        checksums = taken["crc32"].to_numpy()
        for row in np.flatnonzero(~self._checked[wanted]):
            if zlib.crc32(vectors[row]) != checksums[row]:
                digest = taken["digest"][int(row)].as_py().hex()
                raise PipelineError(
                    f"The feature store {self.path} is damaged: the vector of image {digest} has changed "
                    "on disk. Delete this folder and run again to compute its features anew."
                )
        self._checked[wanted] = True
        return vectors if len(wanted) == len(rows) and (where == np.arange(len(rows))).all() else vectors[where]

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
