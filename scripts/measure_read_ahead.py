"""Measure how many images a second one worker reads from a bucket, with and without read-ahead.

The bucket is a local server that waits before it answers, like a remote one.
"""

import argparse
import contextlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from measuring import in_turn, table

from pipeline.data.buckets import read_object
from pipeline.data.decoding import MAX_PIXELS
from pipeline.data.images import DIGEST, ImageRef, file_ref
from pipeline.features.backends.slots import Slots
from pipeline.features.backends.worker_pool import WorkerPool
from pipeline.features.backends.worker_process import CHUNK, CHUNKS_AHEAD, shared_digests

ROOT = Path(__file__).resolve().parent.parent
TILES = sorted((ROOT / "images").glob("*/*.jpg"))


class OneByOne(ImageRef):
    """An object that is read without read-ahead, like a file."""

    __slots__ = ()
    is_remote = False

    def read(self) -> tuple[bytes, str | None]:
        """Read the object."""
        return read_object(self.uri)


class _Answers(BaseHTTPRequestHandler):
    """Answers each request with a tile of the sample, after a delay."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and content are sent separately
    latency = 0.0

    def do_GET(self) -> None:
        time.sleep(self.latency)
        data = TILES[int(self.path.rpartition("/")[2]) % len(TILES)].read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", '"tile"')
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


def _serve(latency: float, connection: Connection) -> None:
    _Answers.latency = latency
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
    connection.send(server.server_port)
    server.serve_forever()


@contextmanager
def _server(latency: float) -> Iterator[str]:
    """Start the server in a separate process; returns its address."""
    ours, theirs = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=_serve, args=(latency, theirs), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        process.kill()


def read(refs: list[ImageRef]) -> None:
    """Read and decode images with one worker."""
    slots = Slots(2 * CHUNK * CHUNKS_AHEAD)
    nothing = shared_digests(np.zeros(0, DIGEST))
    with contextlib.closing(WorkerPool(1, nothing, slots, MAX_PIXELS, "squash")) as pool:
        for image in pool.decode(refs, range(len(refs))):
            if image.error:
                raise SystemExit(image.error)
            slots.give_back([image.slot])


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--latency", type=float, default=0.05, help="Delay of the server in seconds.")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with _server(args.latency) as address:
        os.environ |= {"AWS_ENDPOINT_URL": address, "AWS_SKIP_SIGNATURE": "true"}
        kinds = {
            "a file": [file_ref(TILES[at % len(TILES)]) for at in range(args.images)],
            "an object, without read-ahead": [OneByOne(f"s3://bucket/{at}") for at in range(args.images)],
            "an object, read ahead": [ImageRef(f"s3://bucket/{at}") for at in range(args.images)],
        }
        start = in_turn({"start": partial(read, kinds["an object, read ahead"][:1])}, args.rounds)["start"]
        seconds = in_turn({kind: partial(read, refs) for kind, refs in kinds.items()}, args.rounds)
    rows = [(kind, f"{args.images / (total - start):.0f}") for kind, total in seconds.items()]
    table(("source", "images a second"), rows)


if __name__ == "__main__":
    main()
