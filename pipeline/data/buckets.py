"""Buckets of object storage: listing and reading their objects, by obstore (https://developmentseed.org/obstore).

Endpoints, credentials and regions come from the environment variables that obstore knows. It also retries.
"""

import contextlib
import functools
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, NamedTuple

from pipeline.core.errors import ImageError, PipelineError, RequestError, first_line
from pipeline.data.images import MAX_BYTES, is_bucket_url

# An endpoint that is down is tried so long; a request to one that stays silent is given up after SILENT, and repeated.
RETRIES = {"max_retries": 100, "retry_timeout": timedelta(seconds=20), "backoff": {"max_backoff": timedelta(seconds=3)}}
SILENT = timedelta(seconds=15)
CLIENT = {"connect_timeout": timedelta(seconds=5), "read_timeout": SILENT, "timeout": timedelta(minutes=10)}
PAGE = 1000  # keys that a listing holds at a time, as many as one answer of a server has
AT_ONCE = 32  # requests for versions

URL = re.compile(r"(?P<scheme>\w+)://(?P<bucket>[^/]*)/*(?P<key>.*)", re.DOTALL)
# What the messages of obstore say: the request, the status of its answer, the code in its body, and the system's word.
REQUEST, STATUS = re.compile(r"performing [A-Z]+ (\w+://[^/ ]+)"), re.compile(r"status code: (\d+)")
CODE, SYSTEM = re.compile(r"<Code>(\w+)</Code>"), re.compile(r'(?:message|error): "([^"]+)"|(TimedOut)')
NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "InvalidBucketName")
NOT_ACCEPTED = (
    *("AuthenticationFailed", "ExpiredToken", "InvalidAccessKeyId", "InvalidSecurity", "InvalidToken"),
    *("SignatureDoesNotMatch", "TokenRefreshRequired"),
)
# Where machines in a cloud ask for credentials, which obstore does when it has found none.
METADATA = re.compile(r"://(?:169\.254\.|metadata\.google)|/latest/api/token|/computeMetadata/|/metadata/identity")


class _Kind(NamedTuple):
    """A kind of object storage: the extra for it, obstore's class, and the names of environment variables."""

    extra: str
    store: str
    variables: str
    endpoints: Sequence[str]
    credentials: str


KINDS = {
    "s3": _Kind(
        *("s3", "S3Store", "AWS", ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT")),
        "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, with temporary ones, AWS_SESSION_TOKEN",
    ),
    "gs": _Kind(
        *("gcs", "GCSStore", "GOOGLE", ("GOOGLE_BASE_URL",)),
        "GOOGLE_APPLICATION_CREDENTIALS or GOOGLE_SERVICE_ACCOUNT",
    ),
    "az": _Kind(
        *("azure", "AzureStore", "AZURE", ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT")),
        "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
    ),
}


class _Place(NamedTuple):
    """A URL in its parts; the key as it is, for nothing is escaped in these URLs."""

    scheme: str
    bucket: str
    key: str

    @property
    def kind(self) -> _Kind:
        return KINDS[self.scheme]


def place_of(url: str) -> _Place:
    """The scheme, the bucket and the key that a URL names.

    Raises:
        RequestError: It names no bucket.
    """
    parts = URL.fullmatch(url)
    if not parts or not is_bucket_url(url) or not parts["bucket"]:
        raise RequestError(f"{url} names no bucket; write it as in s3://bucket/prefix.")
    return _Place(parts["scheme"], parts["bucket"], parts["key"])


def list_objects(url: str) -> Iterator[tuple[str, str | None]]:
    """List the objects below a prefix, page by page.

    Args:
        url: A bucket, with a prefix that ends where a name ends, as that of a folder does.

    Yields:
        The key of an object, relative to the prefix, and the object's version.

    Raises:
        RequestError: The extra is missing, there is no such bucket, or access is denied.
        PipelineError: The server does not answer.
    """
    place = place_of(url)
    prefix = place.key.strip("/")
    skipped = len(prefix) + 1 if prefix else 0
    try:
        with _named_errors(place):
            for page in _store_of(place).list(prefix or None, chunk_size=PAGE):
                for found in page:
                    yield found["path"][skipped:], _version(found)
    except ImageError as error:
        raise RequestError(f"{url}: {error}.") from error


def find_versions(urls: Sequence[str]) -> dict[str, str | None]:
    """Ask for the versions of objects, many at a time; None for one that reading will have more to say about.

    Raises:
        RequestError: The extra is missing, or the credentials are not accepted.
        PipelineError: The server does not answer.
    """
    if not urls:
        return {}
    with ThreadPoolExecutor(AT_ONCE, "versions") as pool:
        return dict(zip(urls, pool.map(_find_version, urls), strict=True))


def _find_version(url: str) -> str | None:
    place = place_of(url)
    with contextlib.suppress(ImageError), _named_errors(place):
        return _version(_store_of(place).head(place.key))
    return None


def read_object(url: str) -> tuple[bytes, str | None]:
    """Read an object.

    Returns:
        Its content, and the version that it was read in.

    Raises:
        ImageError: There is no such object, it is denied, empty, or larger than MAX_BYTES.
        RequestError: The extra is missing, there is no such bucket, or the credentials are not accepted.
        PipelineError: The server does not answer.
    """
    place = place_of(url)
    with _named_errors(place):
        found = _store_of(place).get(place.key)
        if found.meta["size"] > MAX_BYTES:
            raise ImageError(f"the object is larger than {MAX_BYTES:,} bytes")
        data = bytes(found.bytes())
    if not data:
        raise ImageError("the object is empty")
    return data, _version(found.meta)


def _version(found: Any) -> str | None:
    """Size and ETag; None without an ETag."""
    tag = found["e_tag"]
    return f"{found['size']}-{tag.removeprefix('W/').strip(chr(34))}" if tag else None


def _store_of(place: _Place) -> Any:
    """The client of a bucket, one for each process and bucket while the environment stays the same."""
    prefix = f"{place.kind.variables}_"
    settings = tuple(sorted(item for item in os.environ.items() if item[0].startswith(prefix)))
    return _connect(place.scheme, place.bucket, settings)


@functools.lru_cache
def _connect(scheme: str, bucket: str, settings: tuple[tuple[str, str], ...]) -> Any:
    kind, variables = KINDS[scheme], dict(settings)
    try:
        import obstore.store
    except ImportError as error:
        raise RequestError(
            f"{scheme}:// addresses need obstore; install it with pip install 'image-vectors[{kind.extra}]'."
        ) from error
    is_plain = any(variables.get(name, "").startswith("http://") for name in kind.endpoints)
    http = {"allow_http": True} if is_plain else {}
    return getattr(obstore.store, kind.store)(bucket, retry_config=RETRIES, client_options=CLIENT | http)


@contextlib.contextmanager
def _named_errors(place: _Place) -> Iterator[None]:
    """Turn what obstore raises into errors that say what is wrong and what to do."""
    try:
        yield
    except PipelineError:
        raise
    except Exception as error:  # obstore's own and several built-in types
        raise _named(place, error) from error


def _named(place: _Place, error: Exception) -> PipelineError:
    """An ImageError where one object is concerned; a RequestError or a PipelineError where all are."""
    bucket, kind = f"{place.scheme}://{place.bucket}", place.kind
    text, line = str(error), first_line(error)
    status, code, server = (_first(pattern, text) for pattern in (STATUS, CODE, REQUEST))
    public = f"a public bucket is read with {kind.variables}_SKIP_SIGNATURE=true"
    if code in NO_BUCKET or (status == "404" and not isinstance(error, FileNotFoundError)):
        return RequestError(f"There is no bucket {bucket} at {server}. Check its name and {kind.endpoints[0]}.")
    if isinstance(error, FileNotFoundError):
        return ImageError("there is no such object")
    if METADATA.search(text) or "Account must be specified" in text:
        return RequestError(f"{bucket}: no credentials were found. Set {kind.credentials}; {public}.")
    if code in NOT_ACCEPTED or status == "401" or "invalid_grant" in text:
        return RequestError(
            f"{bucket}: {server} does not accept the credentials ({code or status}). Renew {kind.credentials}."
        )
    if code == "AuthorizationHeaderMalformed" or "incorrectly configured region" in text:
        return RequestError(f"{bucket}: the bucket is in another region. Set AWS_REGION to its own.")
    if status == "403":
        return ImageError(f"access denied by {server}; {public}")
    if status and status.startswith("4") and status != "429":
        return ImageError(f"{server} answers with status {status} ({code or 'no reason given'})")
    if isinstance(error, ValueError):  # a key that was asked for
        return ImageError(f"obstore has no way to name such an object ({line})")
    if "invalid path" in text:  # a key that was listed
        return RequestError(f"{bucket}: {line}. Rename this object, or name a prefix that it is not below.")
    if server is None:  # nothing was asked for yet: a setting cannot be used
        return RequestError(f"{bucket}: {line}.")
    reason = f"status {status}" if status else _first(SYSTEM, text) or line
    return PipelineError(
        f"{bucket}: {server} does not answer ({reason}). Check the network and {kind.endpoints[0]}, "
        "and run the same command again; what was computed is stored."
    )


def _first(pattern: re.Pattern[str], text: str) -> str | None:
    found = pattern.search(text)
    return next(filter(None, found.groups()), None) if found else None
