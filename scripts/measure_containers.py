"""Measure the rate of reading and decoding images in tar, Parquet and HDF5 files, compared with files in a folder.

The bucket is a local server that waits before it answers, like a remote one.
"""

import argparse
import contextlib
import io
import os
import re
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet
from benchmark_extraction import photographs
from measuring import in_turn, table
from PIL import Image

from pipeline.data.decoding import MAX_PIXELS
from pipeline.data.images import DIGEST, ImageRef
from pipeline.data.sources import find_images, image_refs
from pipeline.features.backends.slots import Slots
from pipeline.features.backends.worker_pool import WorkerPool
from pipeline.features.backends.worker_process import CHUNK, CHUNKS_AHEAD, shared_digests

FILES = 4  # tar files, and Parquet files


class _Answers(BaseHTTPRequestHandler):
    """Answers requests for files and ranges of files, after a delay."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    folder, latency = Path(), 0.0

    def do_GET(self) -> None:
        time.sleep(self.latency)
        with open(self.folder / self.path.partition("/bucket/")[2], "rb") as file:
            size = os.fstat(file.fileno()).st_size
            match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            first, last = (int(match[1]), min(int(match[2]), size - 1)) if match else (0, size - 1)
            file.seek(first)
            data = file.read(last - first + 1)
        self.send_response(206 if match else 200)
        if match:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", '"file"')
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


def _serve(folder: Path, latency: float, connection: Connection) -> None:
    _Answers.folder, _Answers.latency = folder, latency
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
    connection.send(server.server_port)
    server.serve_forever()


@contextmanager
def _server(folder: Path, latency: float) -> Iterator[str]:
    """Start the server in a separate process; returns its address."""
    ours, theirs = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=_serve, args=(folder, latency, theirs), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        process.kill()


def write_containers(files: Sequence[Path], folder: Path) -> None:
    """Write the same images as tar files, as Parquet files, and as an array."""
    each = -(-len(files) // FILES)
    for number in range(FILES):
        part = files[number * each : (number + 1) * each]
        with tarfile.open(folder / f"{number}.tar", "w") as tar:
            for file in part:
                tar.add(file, file.name)
                info = tarfile.TarInfo(f"{file.stem}.cls")
                info.size = 1
                tar.addfile(info, io.BytesIO(b"1"))
        rows = [{"bytes": file.read_bytes(), "path": file.name} for file in part]
        pyarrow.parquet.write_table(pa.table({"image": rows}), folder / f"{number}.parquet", row_group_size=100)
    with h5py.File(folder / "images.h5", "w") as opened:
        shape = np.asarray(Image.open(files[0])).shape
        array = opened.create_dataset("images", (len(files), *shape), np.uint8)
        for row, file in enumerate(files):
            array[row] = np.asarray(Image.open(file))


def read(refs: Sequence[ImageRef], workers: int) -> None:
    """Read and decode images."""
    slots = Slots(2 * CHUNK * CHUNKS_AHEAD * workers)
    nothing = shared_digests(np.zeros(0, DIGEST))
    with contextlib.closing(WorkerPool(workers, nothing, slots, MAX_PIXELS, "squash")) as pool:
        for image in pool.decode(refs, range(len(refs))):
            if image.error:
                raise SystemExit(image.error)
            slots.give_back([image.slot])


def sources(folder: Path, files: Sequence[Path], is_remote: bool) -> dict[str, Sequence[ImageRef]]:
    """The same images in files of each kind, on disk or in the bucket."""
    root = "s3://bucket" if is_remote else str(folder)
    kinds = {
        "files": image_refs([f"{root}/files/{file.name}" for file in files]),
        "tar": find_images(f"{root}/{{0..{FILES - 1}}}.tar").refs,
        "Parquet": find_images(f"{root}/{{0..{FILES - 1}}}.parquet").refs,
    }
    return kinds if is_remote else kinds | {"HDF5 (pixels)": find_images(folder / "images.h5").refs}


def measure(refs: dict[str, Sequence[ImageRef]], where: str, workers: int, rounds: int) -> list[Sequence[str]]:
    """The rows of the table for some sources."""
    # The time of the first images is subtracted: it includes starting the workers and importing the reader.
    starts = in_turn({kind: partial(read, images[: workers * CHUNK], workers) for kind, images in refs.items()}, rounds)
    seconds = in_turn({kind: partial(read, images, workers) for kind, images in refs.items()}, rounds)
    count = len(refs["files"]) - workers * CHUNK
    rates = {kind: count / (total - starts[kind]) for kind, total in seconds.items()}
    return [(where, str(workers), kind, f"{rate:.0f}", f"{rate / rates['files']:.2f}") for kind, rate in rates.items()]


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--latency", type=float, default=0.02, help="Delay of the server in seconds.")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    rows: list[Sequence[str]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        files = sorted(photographs(folder / "files", args.images).iterdir())
        write_containers(files, folder)
        for workers in (1, 2):
            rows += measure(sources(folder, files, False), "disk", workers, args.rounds)
        with _server(folder, args.latency) as address:
            os.environ |= {"AWS_ENDPOINT_URL": address, "AWS_SKIP_SIGNATURE": "true"}
            for workers in (1, 2):
                rows += measure(sources(folder, files, True), "bucket", workers, args.rounds)
    table(("where", "workers", "source", "images a second", "of the files' rate (goal 0.9)"), rows)


if __name__ == "__main__":
    main()
