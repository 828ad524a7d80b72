"""The processes that read and decode images."""

import multiprocessing
from pathlib import Path

import pytest
from helpers import encoded, make_image, make_images

from pipeline.core.errors import PipelineError
from pipeline.data.decoding import MAX_PIXELS, decode
from pipeline.data.images import ImageRef, content_digest, file_ref
from pipeline.features.workers import CHUNK, decode_ahead


def refs(folder: Path) -> list[tuple[str, ImageRef]]:
    return [(file.name, file_ref(file)) for file in sorted(folder.iterdir())]


def test_images_come_in_their_order_with_digest_and_pixels(tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", range(20))
    (images / "0007.png").write_bytes(b"not an image")
    known = content_digest((images / "0003.png").read_bytes())
    found = list(decode_ahead(refs(images), frozenset([known]), 2, MAX_PIXELS))
    assert [image.path for image in found] == [f"{number:04}.png" for number in range(20)]
    for image in found:
        content = (images / image.path).read_bytes()
        if image.path == "0007.png":
            assert "not an image" in image.error
        else:
            assert image.digest == content_digest(content)
            assert (image.pixels is None) == (image.digest == known)
            assert image.pixels is None or (image.pixels == decode(content)).all()


def test_large_images_are_errors(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(make_image(0, 11, 10)))
    [found] = decode_ahead(refs(tmp_path), frozenset(), 1, 100)
    assert found.error == "it has 110 pixels, more than max_pixels=100"


@pytest.mark.parametrize("asked", [1, 3])
def test_as_many_processes_decode_as_were_asked_for(tmp_path: Path, asked: int) -> None:
    images = make_images(tmp_path / "images", range(64))
    before = multiprocessing.active_children()
    decoded = decode_ahead(refs(images), frozenset(), asked, MAX_PIXELS)
    assert next(decoded).path == "0000.png"
    assert len(set(multiprocessing.active_children()) - set(before)) == asked
    assert len(list(decoded)) == 63


def test_a_killed_worker_is_one_error(tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", range(8 * CHUNK))
    before = multiprocessing.active_children()
    decoded = decode_ahead(refs(images), frozenset(), 1, MAX_PIXELS)
    next(decoded)
    for worker in set(multiprocessing.active_children()) - set(before):
        worker.kill()
    with pytest.raises(PipelineError, match=r"was killed, possibly out of memory.*fewer processes"):
        list(decoded)


def test_no_images_need_no_process() -> None:
    before = multiprocessing.active_children()
    assert list(decode_ahead([], frozenset(), 4, MAX_PIXELS)) == []
    assert multiprocessing.active_children() == before
