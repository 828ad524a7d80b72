"""S3 keys that obstore cannot name, read with botocore: control characters, and segments that are "", "." or "..".

obstore refuses a listing with such a key, and strips slashes at both ends of a key.
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
    """Whether obstore cannot name an object with this key, or would name another object."""
    return any(part in ("", ".", "..") or CONTROL.search(part) for part in key.split("/"))


def within(limit: timedelta, request: Callable[[], T]) -> T:
    """Call a function with a time limit: botocore limits each part of an answer, but not the whole.

    Raises:
        TimeoutError: It takes longer; it continues in a daemon thread, which does not keep the process alive.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(request())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return outcome.result(limit.total_seconds())


class OddKeys:
    """A bucket on S3.

    Args:
        bucket: Its name.
        limits: Time limits for a response: for a page of a listing, and for an object.
        endpoint: The server's address; None for Amazon's.
        variables: The environment variables that begin with `AWS_`.

    Raises:
        ImportError: botocore is not installed.
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
        """Whether any key begins with a slash; False if the request fails."""
        with contextlib.suppress(Exception):
            return bool(self._client.list_objects_v2(Bucket=self._bucket, Prefix="/", MaxKeys=1).get("Contents"))
        return False

    def list(self, prefix: str) -> Iterator[ListedObject]:
        """List the objects whose keys begin with a prefix, except folder markers.

        Raises:
            botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError, TimeoutError: The listing failed.
        """
        pages = iter(self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix))
        while page := within(self._short, lambda: next(pages, None)):
            for entry in page.get("Contents", ()):
                if not entry["Key"].endswith("/"):
                    yield ListedObject(entry["Key"], entry["Size"], entry.get("ETag"))

    def read(self, key: str, max_bytes: int) -> tuple[bytes, str | None]:
        """Read an object.

        Returns:
            Its content and its ETag.

        Raises:
            ImageError: The object does not exist, is larger than allowed, or cannot be read.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return within(self._long, lambda: self._read(key, max_bytes))
        except TimeoutError as error:
            raise ImageError(
                f"the download is too slow: incomplete after {self._long.total_seconds():.0f} s"
            ) from error
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") in ("NoSuchKey", "404"):
                raise ImageError("there is no such object") from error
            raise ImageError(first_line(error)) from error
        except BotoCoreError as error:
            raise ImageError(first_line(error)) from error

    def _read(self, key: str, max_bytes: int) -> tuple[bytes, str | None]:
        response: dict[str, Any] = self._client.get_object(Bucket=self._bucket, Key=key)
        if response["ContentLength"] > max_bytes:
            raise ImageError(f"the object is larger than {max_bytes:,} bytes")
        return response["Body"].read(), response.get("ETag")
