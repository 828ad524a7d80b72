"""The example server, started and queried."""

import contextlib
import http.client
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import requests
from helpers import ROOT, encoded, make_image, wait_until

from pipeline.data.decoding import decode
from pipeline.export.savedmodel import write_savedmodel


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of a server that returns the mean of each colour as the embedding."""
    import keras

    for package in ("fastapi", "python_multipart", "uvicorn"):
        pytest.importorskip(package)
    pixels = keras.Input((224, 224, 3), dtype="uint8")
    means = keras.layers.GlobalAveragePooling2D()(keras.ops.cast(pixels, "float32"))
    (tmp_path / "model").mkdir()
    write_savedmodel(keras.Model(pixels, means), {}, tmp_path / "model", takes_bytes=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, ROOT / "scripts" / "serve_example.py", tmp_path / "model", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        wait_until(lambda: answers(port), process)
        yield f"http://127.0.0.1:{port}/embeddings"
    finally:
        process.terminate()
        process.communicate()


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def test_the_server_embeds_images_and_refuses_other_files(server: str) -> None:
    contents = [encoded(make_image(seed), kind) for seed, kind in enumerate(("JPEG", "PNG"))]
    answered = requests.post(server, files=[("files", data) for data in contents], timeout=60)
    assert answered.status_code == 200
    means = [decode(data).mean(axis=(0, 1)) for data in contents]
    assert np.abs(np.array(answered.json()) - means).max() < 1
    refused = requests.post(server, files=[("files", b"text")], timeout=60)
    assert (refused.status_code, "not a JPEG or PNG" in refused.text) == (422, True)


def test_the_server_limits_requests(server: str) -> None:
    photo = encoded(make_image(0), "PNG")
    many = requests.post(server, files=[("files", photo)] * 17, timeout=60)
    assert (many.status_code, "at most 16 files" in many.text) == (413, True)
    address = urlsplit(server)
    with contextlib.closing(http.client.HTTPConnection(address.netloc, timeout=60)) as connection:
        connection.putrequest("POST", address.path)
        connection.putheader("Content-Length", str(2**30))
        connection.endheaders()
        large = connection.getresponse()
        assert (large.status, b"at most 33554432 bytes" in large.read()) == (413, True)
    endless = requests.post(server, data=iter([b"x"] * 3), timeout=60)  # chunked, without a length
    assert endless.status_code == 411
    header = photo[:16] + (60_000).to_bytes(4) * 2 + photo[24:]
    bomb = requests.post(server, files=[("files", header)], timeout=60)
    assert bomb.status_code == 422
