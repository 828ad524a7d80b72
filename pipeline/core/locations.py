"""Locations: folders, and places in object storage buckets."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pipeline.core.errors import RequestError


class Storage(NamedTuple):
    """A kind of object storage: its pip extra, obstore's class, and the names of environment variables."""

    extra: str
    client: str
    variables: str
    endpoints: Sequence[str]
    credentials: str


STORAGE = {
    "s3": Storage(
        *("s3", "S3Store", "AWS", ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT")),
        "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, with temporary ones, AWS_SESSION_TOKEN",
    ),
    "gs": Storage(
        *("gcs", "GCSStore", "GOOGLE", ("GOOGLE_BASE_URL",)),
        "GOOGLE_APPLICATION_CREDENTIALS or GOOGLE_SERVICE_ACCOUNT",
    ),
    "az": Storage(
        *("azure", "AzureStore", "AZURE", ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT")),
        "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
    ),
}  # by the scheme of its URLs
PREFIXES = tuple(f"{scheme}://" for scheme in STORAGE)


def is_bucket_url(source: object) -> bool:
    """Whether a path or URL is in object storage."""
    return str(source).startswith(PREFIXES)


@dataclass(frozen=True, slots=True)
class Location:
    """A folder or file, or a place in a bucket.

    Attributes:
        path: The path; None in a bucket.
        scheme: A key of STORAGE; empty for a path.
        bucket: The name of the bucket.
        key: A key, or a prefix of keys. It is taken literally: these URLs have no escapes.
    """

    path: Path | None = None
    scheme: str = ""
    bucket: str = ""
    key: str = ""

    @classmethod
    def parse(cls, source: "Location | Path | str") -> "Location":
        """Read a path, or a URL such as `s3://bucket/prefix`.

        Raises:
            RequestError: It is neither.
        """
        if isinstance(source, Location):
            return source
        scheme, separator, name = str(source).partition("://")
        if not separator:
            if any(str(source).startswith(f"{scheme}:/") for scheme in STORAGE):
                raise RequestError(f"{source} lacks a slash of a URL such as s3://bucket/prefix, as a Path does.")
            return cls(Path(source))
        bucket, _, key = name.partition("/")
        if scheme not in STORAGE:
            raise RequestError(
                f"{source} is neither a path nor the URL of a bucket such as s3://bucket/prefix "
                f"({', '.join(PREFIXES)})."
            )
        if not bucket:
            raise RequestError(f"{source} has no bucket name; write s3://bucket/prefix.")
        return cls(None, scheme, bucket, key)

    def __str__(self) -> str:
        if self.path is not None:
            return str(self.path)
        return f"{self.scheme}://{self.bucket}/{self.key}" if self.key else f"{self.scheme}://{self.bucket}"

    def __truediv__(self, name: str) -> "Location":
        if self.path is not None:
            return Location(self.path / name)
        return Location(None, self.scheme, self.bucket, f"{self.key}/{name}" if self.key else name)

    @property
    def is_bucket(self) -> bool:
        """Whether it is in a bucket."""
        return self.path is None

    @property
    def storage(self) -> Storage:
        """The kind of object storage; only in a bucket."""
        return STORAGE[self.scheme]
