"""Keys in S3 buckets that obstore cannot name, by botocore: with control characters, empty segments, or dots as one.

obstore refuses a listing that holds such a key, and drops slashes at both ends of a key.
"""

import contextlib
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

from pipeline.core.errors import ImageError, first_line

CONTROL = re.compile(r"[\x00-\x1f\x7f]")
SECONDS = {"connect_timeout": 5, "read_timeout": 15}
T = TypeVar("T")


class ListedObject(NamedTuple):
    """An object in a listing: its key, its size in bytes, and its ETag."""

    key: str
    size: int
    tag: str | None


def is_odd(key: str) -> bool:
    """Whether obstore cannot name an object by this key, or names another one."""
    return any(part in ("", ".", "..") or CONTROL.search(part) for part in key.split("/"))


def within(limit: timedelta, ask: Callable[[], T]) -> T:
    """Call a function that waits for a server; botocore has limits for each part of an answer, and none for all of it.

    Raises:
        TimeoutError: It takes longer; it goes on in a thread that does not keep the process.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(ask())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return outcome.result(limit.total_seconds())


class OddKeys:
    """A bucket on S3.

    Args:
        bucket: Its name.
        limits: How long an answer may take: a page of a listing, an object.
        endpoint: The server's address; None for Amazon's.
        variables: The environment variables that begin with `AWS_`.

    Raises:
        ImportError: botocore is missing.
    """

    def __init__(
        self, bucket: str, limits: tuple[timedelta, timedelta], endpoint: str | None, variables: Mapping[str, str]
    ) -> None:
        import botocore
        from botocore.config import Config
        from botocore.session import get_session

        self._bucket = bucket
        self._short, self._long = limits
        is_public = variables.get("AWS_SKIP_SIGNATURE", "").lower() in ("1", "true", "yes", "on")
        config = Config(
            **SECONDS,
            retries={"total_max_attempts": 5, "mode": "standard"},
            s3={"addressing_style": "path" if endpoint else "auto"},
            **({"signature_version": botocore.UNSIGNED} if is_public else {}),
        )
        region = variables.get("AWS_REGION") or variables.get("AWS_DEFAULT_REGION") or "us-east-1"
        self._client = get_session().create_client("s3", region_name=region, endpoint_url=endpoint, config=config)

    def begin_with_slash(self) -> bool:
        """Whether there are keys that begin with a slash; False where that cannot be found out."""
        with contextlib.suppress(Exception):
            return bool(self._client.list_objects_v2(Bucket=self._bucket, Prefix="/", MaxKeys=1).get("Contents"))
        return False

    def list(self, prefix: str) -> Iterator[ListedObject]:
        """List the objects whose keys begin with a prefix, but for the markers of folders.

        Raises:
            botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError, TimeoutError: The listing failed.
        """
        pages = iter(self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix))
        while page := within(self._short, lambda: next(pages, None)):
            for each in page.get("Contents", ()):
                if not each["Key"].endswith("/"):
                    yield ListedObject(each["Key"], each["Size"], each.get("ETag"))

    def read(self, key: str, max_bytes: int) -> tuple[bytes, str | None]:
        """Read an object.

        Returns:
            Its content and its ETag.

        Raises:
            ImageError: There is no such object, it is larger than allowed, or cannot be read.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return within(self._long, lambda: self._read(key, max_bytes))
        except TimeoutError as error:
            raise ImageError(f"it comes too slowly: not all of it in {self._long.total_seconds():.0f} s") from error
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") in ("NoSuchKey", "404"):
                raise ImageError("there is no such object") from error
            raise ImageError(first_line(error)) from error
        except BotoCoreError as error:
            raise ImageError(first_line(error)) from error

    def _read(self, key: str, max_bytes: int) -> tuple[bytes, str | None]:
        found: dict[str, Any] = self._client.get_object(Bucket=self._bucket, Key=key)
        if found["ContentLength"] > max_bytes:
            raise ImageError(f"the object is larger than {max_bytes:,} bytes")
        return found["Body"].read(), found.get("ETag")
