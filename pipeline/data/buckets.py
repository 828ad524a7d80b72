"""Object storage: list and read the objects of a bucket with obstore (https://developmentseed.org/obstore).

Endpoints, credentials and regions come from obstore's environment variables; obstore also retries requests. If an
object fails while its server answers other requests, only that image fails; if the server answers no request, the work
ends.
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
from typing import Any

from pipeline.core.cloud_errors import Meaning, error_code, meaning_of
from pipeline.core.errors import ImageError, PipelineError, RequestError, first_line
from pipeline.core.locations import STORAGE, Location
from pipeline.core.regular_files import MAX_BYTES
from pipeline.data.odd_keys import ListedObject, OddKeys, is_odd

# Requests to an endpoint that is down are retried within this time. A request without an answer is repeated after
# READ_TIMEOUT.
RETRIES = {"max_retries": 100, "retry_timeout": timedelta(seconds=20), "backoff": {"max_backoff": timedelta(seconds=3)}}
READ_TIMEOUT = timedelta(seconds=15)
CLIENT = {"connect_timeout": timedelta(seconds=5), "read_timeout": READ_TIMEOUT}
# Time limits for a whole answer: an object; a page of a listing, or any other short answer.
LONG, SHORT = timedelta(minutes=10), timedelta(minutes=1)
# Seconds allowed for an object, plus one second per SLOWEST bytes received. Even 1,000 parallel reads are faster.
PATIENCE, SLOWEST = 30.0, 1000
ABSENT = "image-vectors-asks-whether-the-server-answers"  # a key that no object has
PAGE = 1000  # keys per page of a listing, as many as a server sends in one answer
REQUESTS_AT_ONCE = 32  # requests for versions

MD5 = re.compile(r"[0-9a-f]{32}")
# Parts of obstore's messages: the request, the status of the answer, and the system's error.
REQUEST, STATUS = re.compile(r"performing [A-Z]+ (\w+://[^/ ]+)"), re.compile(r"status code: (\d+)")
SYSTEM = re.compile(r'(?:message|error): "([^"]+)"|(TimedOut)')
# obstore's messages about an answer that broke off or was too slow; they do not name the request.
BROKEN = re.compile(r"response body|list response|Content-Range|timeout|timed ?out|IncompleteMessage|connect", re.I)


class _Unanswered(PipelineError):
    """A server gave no usable answer to a request; `reason` says why."""

    reason = ""


def list_objects(url: str) -> Iterator[tuple[str, str | None]]:
    """List the objects below a prefix, page by page.

    Args:
        url: A bucket, optionally with a prefix of whole names, like a folder.

    Yields:
        The key of an object, relative to the prefix, and the object's version.

    Raises:
        RequestError: The pip extra is missing, the bucket does not exist, or access is denied.
        PipelineError: The server does not answer.
    """
    location = Location.parse(url)
    prefix = location.key.strip("/")
    skipped = len(prefix) + 1 if prefix else 0
    try:
        with _translated_errors(location):
            for key, size, tag in _list(location, prefix):
                if size or not _is_folder_marker(location, key):
                    yield key[skipped:], _version(size, tag)
    except ImageError as error:
        raise RequestError(f"{url}: {error}.") from error


def _list(location: Location, prefix: str) -> Iterator[ListedObject]:
    """List the objects below a prefix; if obstore cannot name one, list all of them again with botocore."""
    if location.scheme == "s3" and prefix and is_odd(prefix):
        yield from _odd_keys(location).list(f"{prefix}/")
        return
    pages = iter(_store_of(location, SHORT).list(prefix or None, chunk_size=PAGE))
    is_first = location.scheme == "s3" and not prefix
    while True:
        try:
            page = next(pages, None)
        except Exception as error:
            if location.scheme != "s3" or type(error).__name__ != "InvalidPathError":
                raise
            yield from _odd_keys(location).list(f"{prefix}/" if prefix else "")
            return
        if page is None:
            return
        if is_first and _odd_keys(location).begin_with_slash():
            yield from _odd_keys(location).list("")
            return
        is_first = False
        yield from (ListedObject(entry["path"], entry["size"], entry["e_tag"]) for entry in page)


def _is_folder_marker(location: Location, key: str) -> bool:
    """Whether an empty object is a folder marker of a console, such as `cats.jpg/`; obstore drops the slash."""
    if is_odd(key) or not os.path.splitext(key)[1]:
        return False
    try:
        _store_of(location, SHORT).head(key)
    except FileNotFoundError:
        return True
    except Exception:  # reading it will report the error
        return False
    return False


def find_versions(urls: Sequence[str]) -> dict[str, str | None]:
    """Request the versions of objects, many at a time; None if unknown, as reading will report the error.

    Raises:
        RequestError: The pip extra is missing, or the credentials are not accepted.
        PipelineError: The server does not answer.
    """
    if not urls:
        return {}
    with ThreadPoolExecutor(REQUESTS_AT_ONCE, "versions") as pool:
        return dict(zip(urls, pool.map(_find_version, urls), strict=True))


def _find_version(url: str) -> str | None:
    location = Location.parse(url)
    with contextlib.suppress(ImageError), _one_object(location):
        if not is_odd(location.key):
            metadata = _store_of(location, SHORT).head(location.key)
            return _version(metadata["size"], metadata["e_tag"])
    return None


def read_object(url: str) -> tuple[bytes, str | None]:
    """Read an object.

    Returns:
        Its content, and the version of that content.

    Raises:
        ImageError: The object does not exist, access is denied, it is empty or larger than MAX_BYTES; the server fails
            to deliver it, but answers other requests; or its content does not match its ETag.
        RequestError: The pip extra is missing, the bucket does not exist, or the credentials are not accepted.
        PipelineError: The server does not answer.
    """
    location = Location.parse(url)
    data, tag = _read(location)
    if not data:
        raise ImageError("the object is empty")
    if not _is_content_of(location, tag, data):
        data, tag = _read(location)
        if not _is_content_of(location, tag, data):
            raise ImageError("its content differs from its ETag, an MD5: it was damaged in transit, twice")
    return data, _version(len(data), tag)


def read_range(url: str, start: int, stop: int) -> tuple[bytes, int, str | None]:
    """Read a part of an object.

    Args:
        url: The object.
        start: The first byte.
        stop: The byte after the last one; the object must be longer than `start`, but may end before `stop`.

    Returns:
        Its content, and the size and the version of the object.

    Raises:
        ImageError, PipelineError: See `read_object`.
    """
    location = Location.parse(url)
    if is_odd(location.key):
        raise ImageError("obstore cannot address this object")
    with _one_object(location):
        result = _store_of(location, LONG).get(location.key, options={"range": (start, stop)})
        size, tag = result.meta["size"], result.meta["e_tag"]
        return bytes(result.bytes()), size, _version(size, tag)


def _read(location: Location) -> tuple[bytes, str | None]:
    """The content of an object, and its ETag."""
    if is_odd(location.key):
        if location.scheme != "s3":
            raise ImageError("obstore cannot address this object")
        return _odd_keys(location).read(location.key, MAX_BYTES)
    with _one_object(location):
        result = _store_of(location, LONG).get(location.key)
        size, parts, received, start = result.meta["size"], [], 0, time.monotonic()
        if size > MAX_BYTES:
            raise ImageError(f"the object is larger than {MAX_BYTES:,} bytes")
        for part in result.stream(min_chunk_size=1):
            parts.append(part)
            received += len(part)
            if (seconds := time.monotonic() - start) > PATIENCE + received / SLOWEST:
                raise ImageError(f"the download is too slow: {received:,} of {size:,} bytes in {seconds:.0f} s")
        return b"".join(parts), result.meta["e_tag"]


def _is_content_of(location: Location, tag: str | None, data: bytes) -> bool:
    """Whether an S3 ETag may belong to this content: it is its MD5, or not an MD5 because of parts or encryption."""
    bare = (tag or "").strip('"')
    if location.scheme != "s3" or not MD5.fullmatch(bare):
        return True
    return bare == hashlib.md5(data, usedforsecurity=False).hexdigest() or _is_encrypted(location)


def _is_encrypted(location: Location) -> bool:
    """Whether S3 encrypts an object with the user's own key, by AWS KMS or SSE-C: then its ETag is not an MD5.

    Only the headers of the answer show this, and obstore does not expose them.
    """
    import obstore

    with contextlib.suppress(Exception):  # without signing there is no such encryption: unsigned reads would fail
        url = obstore.sign(_store_of(location, SHORT), "GET", location.key, timedelta(minutes=5))
        request = urllib.request.Request(url, headers={"Range": "bytes=0-0"})
        with urllib.request.urlopen(request, timeout=READ_TIMEOUT.total_seconds()) as answer:
            kind = answer.headers.get("x-amz-server-side-encryption", "AES256")
            return kind != "AES256" or "x-amz-server-side-encryption-customer-algorithm" in answer.headers
    return False


def _version(size: int, tag: str | None) -> str | None:
    """A version from size and ETag; None without an ETag."""
    return f"{size}-{tag.removeprefix('W/').strip(chr(34))}" if tag else None


def _settings(location: Location) -> tuple[tuple[str, str], ...]:
    """The environment variables for a kind of bucket."""
    prefix = f"{location.storage.variables}_"
    return tuple(sorted(item for item in os.environ.items() if item[0].startswith(prefix)))


def _store_of(location: Location, limit: timedelta) -> Any:
    """The client of a bucket, cached per process and bucket while the environment stays the same.

    Args:
        location: Any location in the bucket.
        limit: The time limit of a request, SHORT or LONG.
    """
    return _connect(location.scheme, location.bucket, _settings(location), limit)


def _odd_keys(location: Location) -> OddKeys:
    """The client for keys that obstore cannot name.

    Raises:
        RequestError: botocore is not installed.
    """
    try:
        return _connect_odd(location.bucket, (SHORT, LONG), _settings(location))
    except ImportError as error:
        raise RequestError(
            f"s3://{location.bucket}: keys as in this bucket need botocore; install it with "
            "pip install 'image-vectors[s3]'."
        ) from error


@functools.lru_cache
def _connect_odd(bucket: str, limits: tuple[timedelta, timedelta], settings: tuple[tuple[str, str], ...]) -> OddKeys:
    variables = dict(settings)
    endpoint = next(filter(None, (variables.get(name) for name in STORAGE["s3"].endpoints)), None)
    return OddKeys(bucket, limits, endpoint, variables)


@functools.lru_cache
def _connect(scheme: str, bucket: str, settings: tuple[tuple[str, str], ...], limit: timedelta) -> Any:
    kind, variables = STORAGE[scheme], dict(settings)
    try:
        import obstore.store
    except ImportError as error:
        raise RequestError(
            f"{scheme}:// addresses need obstore; install it with pip install 'image-vectors[{kind.extra}]'."
        ) from error
    is_plain = any(variables.get(name, "").startswith("http://") for name in kind.endpoints)
    http = {"allow_http": True} if is_plain else {}
    return getattr(obstore.store, kind.client)(
        bucket, retry_config=RETRIES, client_options=CLIENT | {"timeout": limit} | http
    )


@contextlib.contextmanager
def _translated_errors(location: Location) -> Iterator[None]:
    """Convert obstore's exceptions to errors that say what is wrong and what to do."""
    try:
        yield
    except PipelineError:
        raise
    except Exception as error:  # obstore's own and several built-in types
        raise _translate(location, error) from error


@contextlib.contextmanager
def _one_object(location: Location) -> Iterator[None]:
    """Like `_translated_errors`, but raise an ImageError if the server still answers other requests."""
    try:
        with _translated_errors(location):
            yield
    except _Unanswered as error:
        if not _answers(location):
            raise
        raise ImageError(f"the server does not deliver it ({error.reason})") from error


def _answers(location: Location) -> bool:
    """Whether the server of a bucket answers a request for an object that does not exist."""
    try:
        with _translated_errors(location):
            _store_of(location, SHORT).head(ABSENT)
    except _Unanswered:
        return False
    except PipelineError:
        pass
    return True


def _translate(location: Location, error: Exception) -> PipelineError:
    """Convert an exception to an ImageError if it affects one object, else to a RequestError or PipelineError."""
    bucket, kind = f"{location.scheme}://{location.bucket}", location.storage
    text, line, code, meaning = str(error), first_line(error), error_code(error), meaning_of(error)
    status, server = (_first(pattern, text) for pattern in (STATUS, REQUEST))
    public = f"a public bucket is read with {kind.variables}_SKIP_SIGNATURE=true"
    if meaning == Meaning.NO_BUCKET or (status == "404" and not isinstance(error, FileNotFoundError)):
        return RequestError(f"There is no bucket {bucket} at {server}. Check its name and {kind.endpoints[0]}.")
    if isinstance(error, FileNotFoundError):
        return ImageError("there is no such object")
    if meaning == Meaning.NO_CREDENTIALS:
        return RequestError(f"{bucket}: no credentials were found. Set {kind.credentials}; {public}.")
    if meaning in (Meaning.EXPIRED, Meaning.NOT_ACCEPTED):
        return RequestError(
            f"{bucket}: {server} does not accept the credentials ({code or status}). Renew {kind.credentials}."
        )
    if meaning == Meaning.OTHER_REGION:
        return RequestError(f"{bucket}: the bucket is in another region. Set AWS_REGION to its own.")
    if meaning == Meaning.DENIED:
        return ImageError(f"access denied by {server}; {public}")
    if status and status.startswith("4") and status != "429":
        return ImageError(f"{server} answers with status {status} ({code or 'no reason given'})")
    if isinstance(error, ValueError):  # a requested key
        return ImageError(f"obstore cannot address this object ({line})")
    if type(error).__name__ == "InvalidPathError":  # a listed key
        return RequestError(f"{bucket}: {line}. Rename this object, or name a prefix that it is not below.")
    if server is None and not BROKEN.search(text):  # before any request: a setting is invalid
        return RequestError(f"{bucket}: {line}.")
    reason = f"status {status}" if status else _first(SYSTEM, text) or (line if server else "its answer broke off")
    unanswered = _Unanswered(
        f"{bucket}: {server or 'its server'} does not answer ({reason}). Check the network and {kind.endpoints[0]}, "
        "and run the same command again; what was computed is stored."
    )
    unanswered.reason = reason
    return unanswered


def _first(pattern: re.Pattern[str], text: str) -> str | None:
    match = pattern.search(text)
    return next(filter(None, match.groups()), None) if match else None
