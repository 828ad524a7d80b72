"""An S3 server for tests: some of its objects fail, each in a different way; it serves all others."""

import hashlib
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape


@dataclass
class FaultyServer:
    """A server with one bucket, called `bucket`.

    Attributes:
        objects: Key -> content.
        faults: Key -> the fault of the object: "error" (status 500), "cut" (the connection ends halfway), "silent" (no
            answer), "trickle" (a byte every 0.2 s), "flip" (a changed byte), "flip once" (only in the first answer),
            "encrypted" (its ETag is not an MD5, as with AWS KMS). The key "" stands for the listing, which may be "cut"
            or "trickle".
        gets: Key -> number of reads; "" -> number of listings.
    """

    objects: Mapping[str, bytes]
    faults: dict[str, str]
    url: str = ""
    gets: Counter[str] = field(default_factory=Counter)
    is_over: threading.Event = field(default_factory=threading.Event)

    def etag(self, key: str) -> str:
        """The ETag of an object."""
        salt = b"key" if self.faults.get(key) == "encrypted" else b""
        return hashlib.md5(self.objects[key] + salt).hexdigest()

    def listing(self, prefix: str) -> bytes:
        """The listing of the objects with this prefix."""
        rows = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            f'<ETag>"{self.etag(key)}"</ETag><Size>{len(data)}</Size></Contents>'
            for key, data in sorted(self.objects.items())
            if key.startswith(prefix)
        )
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{rows}</ListBucketResult>".encode()


@contextmanager
def faulty_storage(objects: Mapping[str, bytes], faults: dict[str, str]) -> Iterator[FaultyServer]:
    """Start a server, and stop it afterwards."""
    server = FaultyServer(objects, faults)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            place = urlsplit(self.path)
            key = unquote(place.path).removeprefix("/bucket").removeprefix("/")
            if "list-type=2" in place.query:
                server.gets[""] += 1
                listing = server.listing(parse_qs(place.query).get("prefix", [""])[0])
                fault = server.faults.get("")
                half = len(listing) // 2 if fault == "cut" else None
                self._answer(200, listing, {}, sent=half, pause=0.2 if fault == "trickle" else 0)
            elif key not in server.objects:
                self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>", {})
            else:
                server.gets[key] += self.command == "GET"
                self._object(key, server.objects[key], server.faults.get(key, ""))

        do_HEAD = do_GET

        def _object(self, key: str, data: bytes, fault: str) -> None:
            headers = {"ETag": f'"{server.etag(key)}"', "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
            if fault == "encrypted":
                headers["x-amz-server-side-encryption"] = "aws:kms"
            if fault == "error":
                self._answer(500, b"<Error><Code>InternalError</Code></Error>", {})
            elif fault == "silent":
                server.is_over.wait(60)
            elif fault == "cut":
                self._answer(200, data, headers, sent=len(data) // 2)
            elif fault == "trickle":
                self._answer(200, data, headers, pause=0.2)
            elif fault == "flip" or (fault == "flip once" and server.gets[key] == 1):
                self._answer(200, data[:-1] + bytes([data[-1] ^ 1]), headers)
            else:
                self._answer(200, data, headers)

        def _answer(
            self, status: int, data: bytes, headers: Mapping[str, str], sent: int | None = None, pause: float = 0
        ) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            for at in range(len(data)) if pause else ():
                if server.is_over.wait(pause):
                    return
                self.wfile.write(data[at : at + 1])
            if not pause:
                self.wfile.write(data[:sent])
            self.close_connection = True

        def log_message(self, *arguments: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            pass  # the client has exited

    with Server(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        server.url = f"http://127.0.0.1:{listening.server_port}"
        yield server
        server.is_over.set()
        listening.shutdown()
