"""What errors from object storage mean.

The messages of obstore and of Lance quote the server's answer with its error code; obstore has exceptions for some.
"""

import re
from enum import Enum, auto


class Meaning(Enum):
    """Why every request to a bucket fails."""

    NO_BUCKET = auto()
    NO_CREDENTIALS = auto()
    EXPIRED = auto()
    NOT_ACCEPTED = auto()
    DENIED = auto()
    OTHER_REGION = auto()


CODE = re.compile(r"<Code>(\w+)</Code>")
CODES = {
    Meaning.NO_BUCKET: ("NoSuchBucket", "ContainerNotFound", "InvalidBucketName"),
    Meaning.EXPIRED: ("ExpiredToken", "TokenRefreshRequired"),
    Meaning.NOT_ACCEPTED: (
        *("AuthenticationFailed", "InvalidAccessKeyId", "InvalidSecurity", "InvalidToken", "SignatureDoesNotMatch"),
    ),
    Meaning.DENIED: ("AccessDenied",),
    Meaning.OTHER_REGION: ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraint"),
}
EXCEPTIONS = {"UnauthenticatedError": Meaning.NOT_ACCEPTED, "PermissionDeniedError": Meaning.DENIED}  # of obstore
# The libraries' own messages, and answers without a code that they quote. The addresses are where cloud machines get
# credentials; they are tried if there are no other credentials.
PHRASES = {
    Meaning.NO_BUCKET: "bucket does not exist",
    Meaning.NO_CREDENTIALS: (
        r"Failed to get AWS credentials|CredentialsNotLoaded|NoCredentials|Account must be specified|"
        r"//(169\.254\.|metadata\.google)|/latest/api/token|/computeMetadata/|/metadata/identity"
    ),
    Meaning.EXPIRED: "token.{0,20}expired",
    Meaning.NOT_ACCEPTED: "401 Unauthorized|invalid_grant",
    Meaning.DENIED: "403 Forbidden|necessary privileges",
    Meaning.OTHER_REGION: "incorrectly configured region",
}


def error_code(error: BaseException) -> str | None:
    """The server's error code that a message quotes, or None."""
    code = CODE.search(str(error))
    return code[1] if code else None


def meaning_of(error: BaseException) -> Meaning | None:
    """What an error means; None if it may concern only one request."""
    code, text = error_code(error), str(error)
    by_code = next((meaning for meaning, codes in CODES.items() if code in codes), None)
    by_phrase = next((meaning for meaning, phrase in PHRASES.items() if re.search(phrase, text)), None)
    return by_code or EXCEPTIONS.get(type(error).__name__) or by_phrase
