"""Access to buckets through Lance: retries, listings, uploads, and the meaning of errors.

Credentials and endpoints come from the environment variables that the tools of each provider use.
"""

import os
import re
from pathlib import Path

from lance.file import LanceFileSession

from pipeline.data.buckets import KINDS
from pipeline.features.store_repair import lance_cause

# Lance's retries, and their time limit in seconds, in the middle of a run; its default of 180 s is multiplied by its
# retries of a listing.
PATIENCE = {"client_max_retries": "5", "client_retry_timeout": "30"}
# When a store is opened, a wrong address should fail soon.
NO_PATIENCE = {"timeout": "10s", "client_max_retries": "3", "client_retry_timeout": "5", "lance_aimd_max_retries": "0"}
LONGEST_CAUSE = 200  # characters

# Pattern in an error's message -> what it means and what to do; the first match counts.
MEANINGS = {
    "NoSuchBucket|bucket does not exist": "there is no such bucket; correct its name, or create it",
    "ExpiredToken|TokenRefreshRequired|token.{0,20}expired": "the credentials have expired; log in again",
    "InvalidAccessKeyId|SignatureDoesNotMatch|InvalidToken|401 Unauthorized": (
        "the credentials are not valid; check them, or log in again"
    ),
    "Failed to get AWS credentials|CredentialsNotLoaded|NoCredentials|metadata\\.google|169\\.254\\.169\\.254": (
        "there are no credentials; set those of its provider in the environment, such as AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, or log in with its tools"
    ),
    "AccessDenied|403 Forbidden|necessary privileges": (
        "access is denied; check which account is logged in, and that it may list, read, write and delete there"
    ),
    "PermanentRedirect|AuthorizationHeaderMalformed|IllegalLocationConstraint": (
        "the bucket is in another region; set AWS_REGION"
    ),
    "status code: 501": "the server does not know conditional writes (If-None-Match), which a store needs",
    "status code: (5\\d\\d|429)": "the server is overloaded or broken; run the same command again later",
    "HTTP error: (error sending|builder error|request or response)|operation timed out|connection closed": (
        "the server does not answer; check the network and, if it is set, the variable of its address, such as "
        "AWS_ENDPOINT_URL"
    ),
}


def storage_options() -> dict[str, str]:
    """Lance's options in addition to the environment."""
    plain = any(os.environ.get(name, "").startswith("http://") for kind in KINDS.values() for name in kind.endpoints)
    # Images may be in a public bucket, which is read without credentials; a store is always written with them.
    signed = {"aws_skip_signature": "false"} if "AWS_ACCESS_KEY_ID" in os.environ else {}
    return PATIENCE | signed | ({"allow_http": "true"} if plain else {})


def folders_in(url: str) -> list[str]:
    """The names of the folders directly below a URL; takes one request, and fails soon.

    Raises:
        RuntimeError: The bucket cannot be listed; see `meaning`.
    """
    parent, _, name = url.rpartition("/")
    listing = LanceFileSession(parent, storage_options=storage_options() | NO_PATIENCE).list_with_delimiter(name)
    return sorted(prefix.rstrip("/").rpartition("/")[2] for prefix in listing.common_prefixes)


def upload(folder: Path, url: str) -> None:
    """Upload the files of a folder to a URL, sorted by name."""
    session = LanceFileSession(url, storage_options=storage_options())
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            session.upload_file(str(file), file.relative_to(folder).as_posix())


def meaning(error: BaseException) -> str | None:
    """What an error of Lance means if the bucket caused it; None if it may be damage."""
    text = str(error)
    return next((explanation for pattern, explanation in MEANINGS.items() if re.search(pattern, text)), None)


def short_cause(error: BaseException) -> str:
    """The message of an error of Lance, truncated."""
    return lance_cause(error)[:LONGEST_CAUSE]
