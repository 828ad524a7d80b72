"""Buckets of object storage: listing and reading their objects, by obstore (https://developmentseed.org/obstore).

Endpoints, credentials and regions come from the environment variables that obstore knows. It also retries. An object
that fails while its server answers other requests is a failure of that image; a server that answers none ends the work.
"""

import contextlib
import functools
import hashlib
import os
import re
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, NamedTuple

from pipeline.core.errors import ImageError, PipelineError, RequestError, first_line
from pipeline.data.images import MAX_BYTES, is_bucket_url
from pipeline.data.odd_keys import ListedObject, OddKeys, is_odd

# An endpoint that is down is tried so long; a request to one that stays silent is given up after SILENT, and repeated.
RETRIES = {"max_retries": 100, "retry_timeout": timedelta(seconds=20), "backoff": {"max_backoff": timedelta(seconds=3)}}
SILENT = timedelta(seconds=15)
CLIENT = {"connect_timeout": timedelta(seconds=5), "read_timeout": SILENT}
# All of an answer has to come within this time: of an object; of a page of a listing, or what else is short.
LONG, SHORT = timedelta(minutes=10), timedelta(minutes=1)
# An object may take so many seconds, and one more for so many bytes that have come; a line with 1,000 reads at once is
# faster than that.
PATIENCE, SLOWEST = 30.0, 1000
ABSENT = "image-vectors-asks-whether-the-server-answers"  # a key that no object has
PAGE = 1000  # keys that a listing holds at a time, as many as one answer of a server has
AT_ONCE = 32  # requests for versions

URL = re.compile(r"(?P<scheme>\w+)://(?P<bucket>[^/]*)/?(?P<key>.*)", re.DOTALL)
MD5 = re.compile(r"[0-9a-f]{32}")
# What the messages of obstore say: the request, the status of its answer, the code in its body, and the system's word.
REQUEST, STATUS = re.compile(r"performing [A-Z]+ (\w+://[^/ ]+)"), re.compile(r"status code: (\d+)")
CODE, SYSTEM = re.compile(r"<Code>(\w+)</Code>"), re.compile(r'(?:message|error): "([^"]+)"|(TimedOut)')
# What obstore says, without naming the request, of an answer that broke off or came too slowly.
BROKEN = re.compile(r"response body|list response|Content-Range|timeout|timed ?out|IncompleteMessage|connect", re.I)
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


class _Unanswered(PipelineError):
    """A server gave no usable answer to a request; `reason` says what it did."""

    reason = ""


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
            for key, size, tag in _list(place, prefix):
                if size or not _is_folder_marker(place, key):
                    yield key[skipped:], _version(size, tag)
    except ImageError as error:
        raise RequestError(f"{url}: {error}.") from error


def _list(place: _Place, prefix: str) -> Iterator[ListedObject]:
    """The objects below a prefix; where obstore cannot name one, all of them again, by botocore."""
    if place.scheme == "s3" and prefix and is_odd(prefix):
        yield from _odd_keys(place).list(f"{prefix}/")
        return
    pages = iter(_store_of(place, SHORT).list(prefix or None, chunk_size=PAGE))
    is_first = place.scheme == "s3" and not prefix
    while True:
        try:
            page = next(pages, None)
        except Exception as error:
            if place.scheme != "s3" or "invalid path" not in str(error):
                raise
            yield from _odd_keys(place).list(f"{prefix}/" if prefix else "")
            return
        if page is None:
            return
        if is_first and _odd_keys(place).begin_with_slash():
            yield from _odd_keys(place).list("")
            return
        is_first = False
        yield from (ListedObject(found["path"], found["size"], found["e_tag"]) for found in page)


def _is_folder_marker(place: _Place, key: str) -> bool:
    """Whether an empty object is one like `cats.jpg/`, which consoles make for a folder; obstore drops the slash."""
    if is_odd(key) or not os.path.splitext(key)[1]:
        return False
    try:
        _store_of(place, SHORT).head(key)
    except FileNotFoundError:
        return True
    except Exception:  # reading it will say why
        return False
    return False


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
    with contextlib.suppress(ImageError), _one_object(place):
        if not is_odd(place.key):
            found = _store_of(place, SHORT).head(place.key)
            return _version(found["size"], found["e_tag"])
    return None


def read_object(url: str) -> tuple[bytes, str | None]:
    """Read an object.

    Returns:
        Its content, and the version that it was read in.

    Raises:
        ImageError: There is no such object, it is denied, empty, or larger than MAX_BYTES; the server fails to deliver
            it, but answers other requests; or its content is not that of its ETag.
        RequestError: The extra is missing, there is no such bucket, or the credentials are not accepted.
        PipelineError: The server does not answer.
    """
    place = place_of(url)
    data, tag = _read(place)
    if not data:
        raise ImageError("the object is empty")
    if not _is_content_of(place, tag, data):
        data, tag = _read(place)
        if not _is_content_of(place, tag, data):
            raise ImageError("its content is not that of its ETag, an MD5: it was changed on the way, twice")
    return data, _version(len(data), tag)


def _read(place: _Place) -> tuple[bytes, str | None]:
    """The content of an object, and its ETag."""
    if is_odd(place.key):
        if place.scheme != "s3":
            raise ImageError("obstore has no way to name such an object")
        return _odd_keys(place).read(place.key, MAX_BYTES)
    with _one_object(place):
        found = _store_of(place, LONG).get(place.key)
        size, parts, received, begun = found.meta["size"], [], 0, time.monotonic()
        if size > MAX_BYTES:
            raise ImageError(f"the object is larger than {MAX_BYTES:,} bytes")
        for part in found.stream(min_chunk_size=1):
            parts.append(part)
            received += len(part)
            if (seconds := time.monotonic() - begun) > PATIENCE + received / SLOWEST:
                raise ImageError(f"it comes too slowly: {received:,} of {size:,} bytes in {seconds:.0f} s")
        return b"".join(parts), found.meta["e_tag"]


def _is_content_of(place: _Place, tag: str | None, data: bytes) -> bool:
    """Whether an ETag of S3 may be that of some content: it is its MD5, or none because of parts or encryption."""
    bare = (tag or "").strip('"')
    if place.scheme != "s3" or not MD5.fullmatch(bare):
        return True
    return bare == hashlib.md5(data, usedforsecurity=False).hexdigest() or _is_encrypted(place)


def _is_encrypted(place: _Place) -> bool:
    """Whether S3 encrypts an object with a key of the user's own, by AWS KMS or SSE-C: then its ETag is no MD5.

    Only the headers of its answer say so, which obstore does not pass on.
    """
    import obstore

    with contextlib.suppress(Exception):  # what cannot be asked is not encrypted so: nobody could read it unsigned
        url = obstore.sign(_store_of(place, SHORT), "GET", place.key, timedelta(minutes=5))
        request = urllib.request.Request(url, headers={"Range": "bytes=0-0"})
        with urllib.request.urlopen(request, timeout=SILENT.total_seconds()) as answer:
            kind = answer.headers.get("x-amz-server-side-encryption", "AES256")
            return kind != "AES256" or "x-amz-server-side-encryption-customer-algorithm" in answer.headers
    return False


def _version(size: int, tag: str | None) -> str | None:
    """Size and ETag; None without an ETag."""
    return f"{size}-{tag.removeprefix('W/').strip(chr(34))}" if tag else None


def _settings(place: _Place) -> tuple[tuple[str, str], ...]:
    """The environment variables for a kind of bucket."""
    prefix = f"{place.kind.variables}_"
    return tuple(sorted(item for item in os.environ.items() if item[0].startswith(prefix)))


def _store_of(place: _Place, limit: timedelta) -> Any:
    """The client of a bucket, one for each process and bucket while the environment stays the same.

    Args:
        place: Something in the bucket.
        limit: How long a request may take: SHORT or LONG.
    """
    return _connect(place.scheme, place.bucket, _settings(place), limit)


def _odd_keys(place: _Place) -> OddKeys:
    """The client for keys that obstore cannot name.

    Raises:
        RequestError: botocore is missing.
    """
    try:
        return _connect_odd(place.bucket, (SHORT, LONG), _settings(place))
    except ImportError as error:
        raise RequestError(
            f"s3://{place.bucket}: keys as in this bucket need botocore; install it with "
            "pip install 'image-vectors[s3]'."
        ) from error


@functools.lru_cache
def _connect_odd(bucket: str, limits: tuple[timedelta, timedelta], settings: tuple[tuple[str, str], ...]) -> OddKeys:
    variables = dict(settings)
    endpoint = next(filter(None, (variables.get(name) for name in KINDS["s3"].endpoints)), None)
    return OddKeys(bucket, limits, endpoint, variables)


@functools.lru_cache
def _connect(scheme: str, bucket: str, settings: tuple[tuple[str, str], ...], limit: timedelta) -> Any:
    kind, variables = KINDS[scheme], dict(settings)
    try:
        import obstore.store
    except ImportError as error:
        raise RequestError(
            f"{scheme}:// addresses need obstore; install it with pip install 'image-vectors[{kind.extra}]'."
        ) from error
    is_plain = any(variables.get(name, "").startswith("http://") for name in kind.endpoints)
    http = {"allow_http": True} if is_plain else {}
    return getattr(obstore.store, kind.store)(
        bucket, retry_config=RETRIES, client_options=CLIENT | {"timeout": limit} | http
    )


@contextlib.contextmanager
def _named_errors(place: _Place) -> Iterator[None]:
    """Turn what obstore raises into errors that say what is wrong and what to do."""
    try:
        yield
    except PipelineError:
        raise
    except Exception as error:  # obstore's own and several built-in types
        raise _named(place, error) from error


@contextlib.contextmanager
def _one_object(place: _Place) -> Iterator[None]:
    """As `_named_errors`; what a server that answers other requests does not deliver is an ImageError."""
    try:
        with _named_errors(place):
            yield
    except _Unanswered as error:
        if not _answers(place):
            raise
        raise ImageError(f"the server does not deliver it ({error.reason})") from error


def _answers(place: _Place) -> bool:
    """Whether the server of a bucket answers a request for an object that there is not."""
    try:
        with _named_errors(place):
            _store_of(place, SHORT).head(ABSENT)
    except _Unanswered:
        return False
    except PipelineError:
        pass
    return True


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
    if server is None and not BROKEN.search(text):  # nothing was asked for yet: a setting cannot be used
        return RequestError(f"{bucket}: {line}.")
    reason = f"status {status}" if status else _first(SYSTEM, text) or (line if server else "its answer broke off")
    unanswered = _Unanswered(
        f"{bucket}: {server or 'its server'} does not answer ({reason}). Check the network and {kind.endpoints[0]}, "
        "and run the same command again; what was computed is stored."
    )
    unanswered.reason = reason
    return unanswered


def _first(pattern: re.Pattern[str], text: str) -> str | None:
    found = pattern.search(text)
    return next(filter(None, found.groups()), None) if found else None
