"""Data sets of the Hugging Face Hub, from a local server."""

import hashlib
import io
import json
import re
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from helpers import encoded, make_image

from pipeline.commands.examples import images_of_run
from pipeline.core.errors import PipelineError, RequestError
from pipeline.core.runs import RunRecord, SplitRecord
from pipeline.data.hub import local_copy
from pipeline.data.images import ImageSet
from pipeline.data.sources import find_images

PNGS = [encoded(make_image(number)) for number in range(4)]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
URL = "hf://datasets/ann/photos"


def contents(images: ImageSet) -> list[bytes]:
    return [ref.read()[0] for ref in images.refs]


def parquet(pngs: list[bytes]) -> bytes:
    written = io.BytesIO()
    pyarrow.parquet.write_table(pa.table({"image": [{"bytes": png, "path": None} for png in pngs]}), written)
    return written.getvalue()


def tar(png: bytes) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as opened:
        info = tarfile.TarInfo(f"{hashlib.md5(png).hexdigest()}.png")
        info.size = len(png)
        opened.addfile(info, io.BytesIO(png))
    return written.getvalue()


FILES = {
    "README.md": b"# Photos",
    "script.py": b"raise SystemExit('code ran')",
    "data/train-00000-of-00002.parquet": parquet(PNGS[:2]),
    "data/train-00001-of-00002.parquet": parquet(PNGS[2:]),
    "shards/0.tar": tar(PNGS[0]),
    "shards/1.tar": tar(PNGS[1]),
}


class Hub(BaseHTTPRequestHandler):
    """Answers the requests of huggingface_hub when it downloads a data set."""

    def do_GET(self) -> None:
        path, headers = self.path.partition("?")[0], {}
        if match := re.fullmatch(rf"/datasets/ann/photos/resolve/{COMMIT}/(.+)", path):
            data = FILES[match[1]]
            headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
        elif path == "/api/datasets/ann/photos/revision/main":
            data = json.dumps({"id": "ann/photos", "sha": COMMIT}).encode()
        elif path == f"/api/datasets/ann/photos/tree/{COMMIT}":
            files = [{"type": "file", "path": name, "size": len(data), "oid": "0"} for name, data in FILES.items()]
            data = json.dumps(files).encode()
        else:
            kind = "RevisionNotFound" if path.startswith("/api/datasets/ann/photos/") else "RepoNotFound"
            self.send_response(404)
            headers, data = {"X-Error-Code": kind}, b"{}"
        if headers.get("X-Error-Code") is None:
            self.send_response(200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A server, and an empty cache."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    yield tmp_path / "hub"
    server.shutdown()
    server.server_close()


def test_a_part_of_a_data_set_is_downloaded(cache: Path) -> None:
    images = find_images(f"{URL}/data")
    assert contents(images) == PNGS
    assert images.paths[1:3] == ["train-00000-of-00002.parquet#1", "train-00001-of-00002.parquet#0"]
    assert (images.source, images.splits) == (f"{URL}/data", ["train"] * 4)
    [snapshot] = cache.glob("datasets--ann--photos/snapshots/*")
    assert [file.name for file in snapshot.iterdir()] == ["data"]
    assert contents(find_images(f"{URL}/data/train-00001-of-00002.parquet")) == PNGS[2:]
    assert sorted(contents(find_images(f"{URL}/shards/{{0..1}}.tar"))) == sorted(PNGS[:2])
    assert sorted(contents(find_images(URL))) == sorted(PNGS[:2])  # tar files come first
    assert not list(cache.rglob("script.py"))


def test_a_downloaded_data_set_needs_no_server(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match=r"is not in the cache of huggingface_hub\. Download it first"):
        local_copy(f"{URL}/data", may_download=False)
    find_images(f"{URL}/data")
    monkeypatch.setattr(Hub, "do_GET", None)
    images = images_of_run(RunRecord({"images": f"{URL}/data"}, {}, {}, 0, SplitRecord("random:0.2", {}, {}), "", {}))
    assert (contents(images), images.source) == (PNGS, f"{URL}/data")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert contents(find_images(f"{URL}/data")) == PNGS
    assert local_copy(f"{URL}/data", may_download=False).endswith("/data")
    with pytest.raises(PipelineError, match="and the Hub does not answer"):
        find_images("hf://datasets/ann/others")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("hf://datasets/ann/missing", "there is no such data set, or no access to it"),
        (f"{URL}@v2", "the data set has no revision 'v2'"),
        (f"{URL}/missing", "the data set has no such file or folder"),
        (f"{URL}/../x", "is not the address of a data set"),
        ("hf://ann/photos", "is not the address of a data set"),
        ("hf://datasets/photos", "is not the address of a data set"),
    ],
)
def test_other_addresses_are_refused(source: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        find_images(source)
