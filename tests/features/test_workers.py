"""The processes that read and decode images."""

import contextlib
import multiprocessing
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
from helpers import CrashingRef, encoded, make_image, make_images, wait_for_tick

from pipeline.core.errors import PipelineError
from pipeline.data.decoding import MAX_PIXELS, decode, thumbnail
from pipeline.data.images import DIGEST, content_digest, file_ref
from pipeline.features.slots import Slots
from pipeline.features.workers import CHUNK, CHUNKS_AHEAD, Decoded, decode_ahead

NOTHING = np.zeros(0, DIGEST)


def decoded(
    folder: Path, slots: Slots, stored: np.ndarray = NOTHING, count: int = 2, max_pixels: int = MAX_PIXELS
) -> Iterator[Decoded]:
    refs = [file_ref(file) for file in sorted(folder.iterdir())]
    return decode_ahead(refs, range(len(refs)), stored, slots, count, max_pixels)


def test_images_come_in_their_order_with_digest_and_pixels(tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", range(20))
    (images / "0007.png").write_bytes(b"not an image")
    contents = [file.read_bytes() for file in sorted(images.iterdir())]
    stored = np.sort(np.frombuffer(content_digest(contents[3]) + content_digest(b""), DIGEST))
    slots = Slots(24)
    found = list(decoded(images, slots, stored))
    assert [image.number for image in found] == list(range(20))
    for image, content in zip(found, contents, strict=True):
        if image.number == 7:
            assert "not an image" in image.error
            continue
        assert image.digest == content_digest(content)
        assert image.is_new == (image.number != 3)
        if image.is_new:
            assert np.array_equal(slots.pixels[image.slot], decode(content))
            assert np.array_equal(slots.thumbnails[image.slot], thumbnail(decode(content)))
            assert image.pixel_count == 60 * 40


def test_large_images_are_errors(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(make_image(0, 11, 10)))
    [found] = decoded(tmp_path, Slots(CHUNK), max_pixels=100)
    assert found.error == "it has 110 pixels, more than max_pixels=100"


def test_no_more_is_decoded_than_there_are_slots(tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", range(5 * CHUNK))
    slots = Slots(2 * CHUNK)
    with contextlib.closing(decoded(images, slots)) as ahead:
        first = [next(ahead) for _ in range(2 * CHUNK)]
        assert sorted(image.slot for image in first) == list(range(2 * CHUNK))
        batch = Future[None]()
        slots.give_back_after(batch, [image.slot for image in first])
        threading.Timer(0.1, batch.set_result, [None]).start()
        rest = []
        for image in ahead:  # waits for the batch
            rest.append(image.number)
            slots.give_back([image.slot])
    assert rest == list(range(2 * CHUNK, 5 * CHUNK))
    assert sorted(slots.take(2 * CHUNK)) == list(range(2 * CHUNK))


@pytest.mark.parametrize("asked", [1, 3])
def test_as_many_processes_decode_as_were_asked_for(tmp_path: Path, asked: int) -> None:
    images = make_images(tmp_path / "images", range(64))
    before = multiprocessing.active_children()
    with contextlib.closing(decoded(images, Slots(64), count=asked)) as ahead:
        assert next(ahead).number == 0
        assert len(set(multiprocessing.active_children()) - set(before)) == asked
        assert len(list(ahead)) == 63


def kill_workers(before: Sequence[multiprocessing.process.BaseProcess]) -> None:
    for worker in set(multiprocessing.active_children()) - set(before):
        worker.kill()


def test_a_worker_that_was_killed_is_replaced(tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", range(2 * CHUNK * CHUNKS_AHEAD))
    before = multiprocessing.active_children()
    with contextlib.closing(decoded(images, Slots(128), count=1)) as ahead:
        found = [next(ahead)]
        kill_workers(before)
        found += ahead
    assert [image.number for image in found] == list(range(len(found)))
    assert len(found) == 2 * CHUNK * CHUNKS_AHEAD
    assert all(image.is_new for image in found)


def test_images_that_crash_the_decoder_are_named_and_cost_no_other(tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", range(30))
    wait_for_tick(images)
    refs = [file_ref(file) for file in sorted(images.iterdir())]
    for number in (4, 5, 29):
        refs[number] = CrashingRef(refs[number].uri)
    found = list(decode_ahead(refs, range(30), NOTHING, Slots(64), 2, MAX_PIXELS))
    assert [image.number for image in found] == list(range(30))
    assert [image.number for image in found if image.crashed] == [4, 5, 29]
    assert all(image.is_new != image.crashed for image in found)
    assert found[4].error == "decoding it ended the process (SIGSEGV)"
    assert found[5].version == refs[5].version()


def test_workers_that_do_not_start_are_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = make_images(tmp_path / "images", range(3))
    before = multiprocessing.active_children()
    slots = Slots(64)
    monkeypatch.setattr(slots, "memory", ())  # what they cannot begin with
    with pytest.raises(PipelineError, match=r"processes that read images cannot be started \(exit code 1\)"):
        list(decoded(images, slots))
    assert multiprocessing.active_children() == before


def test_no_images_need_no_process(tmp_path: Path) -> None:
    before = multiprocessing.active_children()
    assert list(decoded(tmp_path, Slots(8))) == []
    assert multiprocessing.active_children() == before
