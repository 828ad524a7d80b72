"""An S3 server for tests: moto's, over HTTP, in a separate process."""

import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.parse import quote

SERVER = Path(__file__).parent / "programs" / "moto_server.py"


@dataclass(frozen=True)
class S3Server:
    """A running server.

    Attributes:
        url: Its address.
        log: The file with its requests.
    """

    url: str
    log: Path

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables with its address and credentials."""
        return {
            **{"AWS_ENDPOINT_URL": self.url, "AWS_REGION": "us-east-1"},
            **{"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"},
        }

    def create_bucket(self, name: str) -> None:
        """Create a bucket."""
        self._request("PUT", name)

    def put(self, bucket: str, key: str, data: bytes) -> None:
        """Store an object."""
        self._request("PUT", f"{bucket}/{quote(key)}", data)

    def delete(self, bucket: str, key: str) -> None:
        """Delete an object."""
        self._request("DELETE", f"{bucket}/{quote(key)}")

    def upload(self, folder: Path, bucket: str, prefix: str = "") -> None:
        """Store the files of a folder in a new bucket."""
        self.create_bucket(bucket)
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                self.put(bucket, prefix + file.relative_to(folder).as_posix(), file.read_bytes())

    def requests(self, method: str, containing: str = "") -> list[str]:
        """The paths requested so far with one HTTP method."""
        plain = re.sub(r"\x1b\[\d+m", "", self.log.read_text())  # responses other than 200 are coloured
        paths = re.findall(rf'"{method} (\S+) HTTP', plain)
        return [path for path in paths if containing in path]

    def _request(self, method: str, path: str, data: bytes | None = None) -> None:
        # A dummy signature: moto only uses it to tell S3 from its other services.
        credential = "Credential=test/20200101/us-east-1/s3/aws4_request"
        headers = {
            "Authorization": f"AWS4-HMAC-SHA256 {credential}, SignedHeaders=host, Signature=0",
            "Content-Type": "application/octet-stream",
        }
        request = urllib.request.Request(f"{self.url}/{path}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            answer.read()


@contextmanager
def s3_server(log: Path) -> Iterator[S3Server]:
    """Start a server, and stop it afterwards."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (
        log.open("w") as out,
        subprocess.Popen(
            [sys.executable, SERVER, str(port)],
            stdout=out,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            server = S3Server(f"http://127.0.0.1:{port}", log)
            _wait_for(server, process)
            yield server
        finally:
            process.kill()


def _wait_for(server: S3Server, process: subprocess.Popen) -> None:
    while True:
        assert process.poll() is None, server.log.read_text()
        try:
            with urllib.request.urlopen(f"{server.url}/moto-api/", timeout=30):
                return
        except URLError:
            time.sleep(0.05)
