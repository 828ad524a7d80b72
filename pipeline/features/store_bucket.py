"""A feature store in a bucket: Lance's retries, listings, and what errors mean.

Credentials and endpoints come from the environment variables that the tools of each provider use.
"""

import contextlib
import os
import re
from contextlib import AbstractContextManager

import lance
import numpy as np
import pyarrow as pa
from lance.file import LanceFileSession

from pipeline.core.cloud_errors import Meaning, meaning_of
from pipeline.core.errors import PipelineError
from pipeline.core.locations import STORAGE
from pipeline.data.images import DIGEST
from pipeline.features.lance_errors import UNREADABLE, lance_cause
from pipeline.features.store_folder import KEEP_OLD_VERSIONS

# Lance's retries, and their time limit in seconds, in the middle of a run; Lance's default of 180 s would be multiplied
# by its retries of a listing.
PATIENCE = {"client_max_retries": "5", "client_retry_timeout": "30"}
# A wrong address should fail quickly when a store is opened.
NO_PATIENCE = {"timeout": "10s", "client_max_retries": "3", "client_retry_timeout": "5", "lance_aimd_max_retries": "0"}
LONGEST_CAUSE = 200  # characters

# What an error of Lance means and what to do, by meaning or by a pattern in its message.
MEANINGS = {
    Meaning.NO_BUCKET: "there is no such bucket; correct its name, or create it",
    Meaning.NO_CREDENTIALS: (
        "there are no credentials; set those of its provider in the environment, such as AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, or log in with its tools"
    ),
    Meaning.EXPIRED: "the credentials have expired; log in again",
    Meaning.NOT_ACCEPTED: "the credentials are not valid; check them, or log in again",
    Meaning.DENIED: (
        "access is denied; check which account is logged in, and that it may list, read, write and delete there"
    ),
    Meaning.OTHER_REGION: "the bucket is in another region; set AWS_REGION",
}
ANSWERS = {
    "status code: 501": "the server does not know conditional writes (If-None-Match), which a store needs",
    "status code: (5\\d\\d|429)": "the server is overloaded or broken; run the same command again later",
    "HTTP error: (error sending|builder error|request or response)|operation timed out|connection closed": (
        "the server does not answer; check the network and, if it is set, the variable of its address, such as "
        "AWS_ENDPOINT_URL"
    ),
}
NOT_REPAIRED = "A store in a bucket is not repaired. Delete it there to compute its features again."
ADVICE = {
    "open": ("opened", "Choose another place, or delete this store in the bucket to compute its features again."),
    "read": ("read", NOT_REPAIRED),
    "write": ("written", "What was stored before is kept; run the same command again."),
    "tidy": ("read", "What was computed is stored. Run the same command again."),
    "repair": ("read", NOT_REPAIRED),
    "prune": ("pruned", "Run the same command again, or delete this store in the bucket."),
}  # task -> its participle, and what to do if it fails


class StoreBucket:
    """A store in a bucket. There is no lock; Lance's conditional commits keep processes from overwriting each other.

    Unfinished files may belong to a process on another machine, so only Lance's own clean-up removes them, after a
    week. Versions are removed only after a day, because a commit that hangs in the meantime must find a later version.

    Args:
        url: The Lance dataset.

    Attributes:
        commit_cost: The commit interval, as a multiple of a folder's.
    """

    commit_cost = 10  # a commit takes five requests

    def __init__(self, url: str) -> None:
        self.path = url

    def lock(self) -> AbstractContextManager[None]:
        """A context that does nothing: a bucket has no lock."""
        return contextlib.nullcontext()

    def merging(self, wait: bool = False) -> AbstractContextManager[bool]:
        """A context that does nothing: if two processes merge the same fragments, one fails to commit."""
        return contextlib.nullcontext(True)

    def dataset(self) -> lance.LanceDataset:
        """Open the newest version."""
        return lance.dataset(self.path, storage_options=storage_options())

    def open_or_create(self, schema: pa.Schema) -> lance.LanceDataset:
        """Open the newest version, or create the store."""
        if "_versions" not in folders_in(self.path):
            self._create(schema)
        return self.dataset()

    def _create(self, schema: pa.Schema) -> None:
        """Commit an empty first version, unless another process creates the store at the same time.

        Without retries, Lance replaces nothing. `lance.write_dataset` would empty a store that another process creates
        and fills meanwhile.
        """
        first = lance.LanceOperation.Overwrite(schema, [])
        try:
            lance.LanceDataset.commit(self.path, first, storage_options=storage_options(), max_retries=0)
        except Exception:  # any exception: Lance has several for a store that exists by now
            if "_versions" not in folders_in(self.path):
                raise

    def repair(self, error: Exception) -> tuple[lance.LanceDataset, int]:
        """Raise the error: files that cannot be read now may be intact, as the network may be at fault."""
        raise error

    def tidy(self, dataset: lance.LanceDataset) -> None:
        """Do nothing: finding old files takes a request per version; merging and `cache prune` remove them."""

    def shrink(self, dataset: lance.LanceDataset) -> None:
        """Remove versions that were replaced more than a day ago."""
        dataset.cleanup_old_versions(older_than=KEEP_OLD_VERSIONS)

    def count(self) -> int:
        """The number of images in the store; images stored twice count once."""
        return len(stored_digests(self.dataset()))

    def size_and_use(self) -> tuple[int, float]:
        """Bytes in the bucket, and the last write to the store; reads are not recorded."""
        try:
            files = self.dataset().all_files().read_all()
        except UNREADABLE as error:
            if meaning(error):
                raise self.error("open", error) from error
            return 0, 0.0  # it is damaged
        written = max((time.timestamp() for time in files["last_modified"].to_pylist()), default=0.0)
        return sum(files["size_bytes"].to_pylist()), written

    def error(self, task: str, error: BaseException) -> PipelineError:
        """The error for a failed task, a key of ADVICE."""
        done, advice = ADVICE[task]
        if explanation := meaning(error):
            return PipelineError(f"The feature store {self.path} cannot be {done}: {explanation}.")
        return PipelineError(f"The feature store {self.path} cannot be {done} ({short_cause(error)}). {advice}")


def stored_digests(dataset: lance.LanceDataset) -> np.ndarray:
    """The distinct digests in a version of a store, DIGEST."""
    return np.unique(np.frombuffer(b"".join(dataset.to_table(columns=["digest"])["digest"].to_pylist()), DIGEST))


def storage_options() -> dict[str, str]:
    """Lance's options in addition to the environment."""
    plain = any(os.environ.get(name, "").startswith("http://") for kind in STORAGE.values() for name in kind.endpoints)
    # Images may be in a public bucket, which is read without credentials; a store is always written with them.
    signed = {"aws_skip_signature": "false"} if "AWS_ACCESS_KEY_ID" in os.environ else {}
    return PATIENCE | signed | ({"allow_http": "true"} if plain else {})


def folders_in(url: str) -> list[str]:
    """The names of the folders directly below a URL; takes one request, and fails quickly.

    Raises:
        RuntimeError: The bucket cannot be listed; see `meaning`.
    """
    parent, _, name = url.rpartition("/")
    listing = LanceFileSession(parent, storage_options=storage_options() | NO_PATIENCE).list_with_delimiter(name)
    return sorted(prefix.rstrip("/").rpartition("/")[2] for prefix in listing.common_prefixes)


def meaning(error: BaseException) -> str | None:
    """What an error of Lance means if the bucket caused it; None if it may be damage."""
    if known := meaning_of(error):
        return MEANINGS[known]
    return next((explanation for pattern, explanation in ANSWERS.items() if re.search(pattern, str(error))), None)


def short_cause(error: BaseException) -> str:
    """The message of an error of Lance, truncated."""
    return lance_cause(error)[:LONGEST_CAUSE]
