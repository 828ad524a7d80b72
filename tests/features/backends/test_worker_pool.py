"""The processes that read and decode images."""

import contextlib
import multiprocessing
import os
import re
import resource
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from helpers import CrashingRef, decode_ahead, encoded, make_image, make_images, run_program, wait_for_tick

from pipeline.core.errors import PipelineError
from pipeline.data.decoding import MAX_PIXELS, decode, thumbnail
from pipeline.data.images import DIGEST, ImageRef, content_digest, file_ref
from pipeline.features.backends import worker_pool
from pipeline.features.backends.slots import Slots
from pipeline.features.backends.worker_process import CHUNK, CHUNKS_AHEAD, Decoded

NOTHING = np.zeros(0, DIGEST)


def decoded(
    folder: Path, slots: Slots, stored: np.ndarray = NOTHING, count: int = 2, max_pixels: int = MAX_PIXELS
) -> Iterator[Decoded]:
    refs = [file_ref(file) for file in sorted(folder.iterdir())]
    return decode_ahead(refs, range(len(refs)), stored, slots, count, max_pixels)


def test_images_arrive_in_order_with_digest_and_pixels(tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", range(20))
    (images / "0007.png").write_bytes(b"not an image")
    contents = [file.read_bytes() for file in sorted(images.iterdir())]
    stored = np.sort(np.frombuffer(content_digest(contents[3]) + content_digest(b""), DIGEST))
    slots = Slots(24)
    results = list(decoded(images, slots, stored))
    assert [image.number for image in results] == list(range(20))
    for image, content in zip(results, contents, strict=True):
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
    [results] = decoded(tmp_path, Slots(CHUNK), max_pixels=100)
    assert results.error == "it has 110 pixels, more than the limit of 100 (max_pixels)"


def test_no_more_images_are_decoded_than_there_are_slots(tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", range(5 * CHUNK))
    slots = Slots(2 * CHUNK)
    with contextlib.closing(decoded(images, slots)) as ahead:
        first = [next(ahead) for _ in range(2 * CHUNK)]
        assert sorted(image.slot for image in first) == list(range(2 * CHUNK))
        threading.Timer(0.1, slots.give_back, [[image.slot for image in first]]).start()
        rest = []
        for image in ahead:  # waits for the slots
            rest.append(image.number)
            slots.give_back([image.slot])
    assert rest == list(range(2 * CHUNK, 5 * CHUNK))
    assert sorted(slots.take(2 * CHUNK)) == list(range(2 * CHUNK))


@pytest.mark.parametrize("workers", [1, 3])
def test_the_requested_number_of_processes_decodes(tmp_path: Path, workers: int) -> None:
    images = make_images(tmp_path / "images", range(64))
    before = multiprocessing.active_children()
    with contextlib.closing(decoded(images, Slots(64), count=workers)) as ahead:
        assert next(ahead).number == 0
        assert len(set(multiprocessing.active_children()) - set(before)) == workers
        assert len(list(ahead)) == 63


def kill_workers(before: Sequence[multiprocessing.process.BaseProcess]) -> None:
    for worker in set(multiprocessing.active_children()) - set(before):
        worker.kill()


def test_a_killed_worker_is_replaced(tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", range(2 * CHUNK * CHUNKS_AHEAD))
    before = multiprocessing.active_children()
    with contextlib.closing(decoded(images, Slots(128), count=1)) as ahead:
        results = [next(ahead)]
        kill_workers(before)
        results += ahead
    assert [image.number for image in results] == list(range(len(results)))
    assert len(results) == 2 * CHUNK * CHUNKS_AHEAD
    assert all(image.is_new for image in results)


def test_images_that_crash_the_decoder_are_named_and_affect_no_other(tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", range(30))
    wait_for_tick(images)
    refs = [file_ref(file) for file in sorted(images.iterdir())]
    for number in (4, 5, 29):
        refs[number] = CrashingRef(refs[number].uri)
    results = list(decode_ahead(refs, range(30), NOTHING, Slots(64), 2, MAX_PIXELS))
    assert [image.number for image in results] == list(range(30))
    assert [image.number for image in results if image.crashed] == [4, 5, 29]
    assert all(image.is_new != image.crashed for image in results)
    assert results[4].error == "decoding it ended the process (SIGSEGV)"
    assert results[5].version == refs[5].version()


class StalledRef(ImageRef):
    """An image on a file system that hangs."""

    __slots__ = ()

    def read(self) -> tuple[bytes, str | None]:
        time.sleep(1000)
        raise AssertionError


class EndlessRef(ImageRef):
    """An image that is decoded endlessly while holding the GIL."""

    __slots__ = ()

    def read(self) -> tuple[bytes, str | None]:
        re.match("(a+)+b", "a" * 100)
        raise AssertionError


class StoppingRef(ImageRef):
    """An image that stops its worker with a signal."""

    __slots__ = ()

    def read(self) -> tuple[bytes, str | None]:
        os.kill(os.getpid(), signal.SIGSTOP)
        raise AssertionError


@pytest.mark.parametrize("kind", [StalledRef, EndlessRef, StoppingRef])
def test_an_image_that_takes_too_long_is_named_and_affects_no_other(
    kind: type[ImageRef], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(worker_pool, "TIME_LIMIT", 1.0)
    images = make_images(tmp_path / "images", range(30))
    os.utime(images / "0005.png", (0, 0))
    refs = [file_ref(file) for file in sorted(images.iterdir())]
    refs[5] = kind(refs[5].uri)
    results = list(decode_ahead(refs, range(30), NOTHING, Slots(64), 2, MAX_PIXELS))
    assert [image.number for image in results] == list(range(30))
    assert [image.number for image in results if not image.is_new] == [5]
    assert (results[5].error, results[5].crashed) == ("it took longer than 1 s to read and decode", True)
    assert results[5].version == refs[5].version()
    assert f"{refs[5].uri} took longer than 1 s to read and decode; it is tried once more, on its own." in caplog.text


def test_a_stopped_worker_loses_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_pool, "TIME_LIMIT", 1.0)
    images = make_images(tmp_path / "images", range(2 * CHUNK * CHUNKS_AHEAD))
    before = set(multiprocessing.active_children())
    with contextlib.closing(decoded(images, Slots(128), count=1)) as ahead:
        results = [next(ahead)]
        for worker in set(multiprocessing.active_children()) - before:
            os.kill(worker.pid, signal.SIGSTOP)
        results += ahead
    assert all(image.is_new for image in results)
    assert len(results) == 2 * CHUNK * CHUNKS_AHEAD


class SlowObject(ImageRef):
    """A slow object in a bucket."""

    __slots__ = ()

    def read(self) -> tuple[bytes, str | None]:
        time.sleep(3)
        return encoded(make_image(0)), None


@pytest.mark.parametrize(("uri", "count"), [("s3://bucket/image.png", 9), ("tfds:name:train#0#null", 1)])
def test_waiting_for_sources_with_their_own_limit_does_not_count(
    uri: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_pool, "TIME_LIMIT", 1.5)
    refs = [SlowObject(uri)] * count
    results = list(decode_ahead(refs, range(len(refs)), NOTHING, Slots(64), 1, MAX_PIXELS))
    assert [image.error for image in results] == [""] * len(refs)


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGCONT])
def test_workers_end_at_once_in_any_state(tmp_path: Path, number: int) -> None:
    images = make_images(tmp_path / "images", range(30))
    before = set(multiprocessing.active_children())
    refs: list[ImageRef] = [file_ref(file) for file in sorted(images.iterdir())]
    refs[8:] = [EndlessRef(ref.uri) for ref in refs[8:]]
    ahead = decode_ahead(refs, range(30), NOTHING, Slots(64), 2, MAX_PIXELS)
    next(ahead)
    for worker in set(multiprocessing.active_children()) - before:
        os.kill(worker.pid, number)
    ahead.close()
    assert set(multiprocessing.active_children()) == before


def test_suspects_are_read_after_all_others_one_at_a_time(tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", range(40))
    refs: list[ImageRef] = [file_ref(file) for file in sorted(images.iterdir())]
    refs[3] = CrashingRef(refs[3].uri)
    suspects = [3, 7, 11]
    others = [number for number in range(40) if number not in suspects]
    results = list(decode_ahead(refs, others, NOTHING, Slots(64), 2, MAX_PIXELS, suspects=suspects))
    assert [image.number for image in results] == [*others, *suspects]
    assert [image.number for image in results if image.crashed] == [3]
    alone = decode_ahead(refs, [], NOTHING, Slots(8), 2, MAX_PIXELS, suspects=suspects)
    assert [(image.number, image.is_new) for image in alone] == [(3, False), (7, True), (11, True)]


class ExhaustingRef(ImageRef):
    """An image that leaves its worker without file descriptors."""

    __slots__ = ()

    def read(self) -> tuple[bytes, str | None]:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
        return ImageRef.read(self)


class HungryRef(ImageRef):
    """An image that runs out of memory while it is read."""

    __slots__ = ()

    def read(self) -> tuple[bytes, str | None]:
        return bytes(2**62), None


class BadSectorRef(ImageRef):
    """An image on a broken disk: reading it gives an I/O error."""

    __slots__ = ()

    def read(self) -> tuple[bytes, str | None]:
        return ImageRef("/proc/self/mem").read()


def test_a_worker_without_file_descriptors_ends_the_run_with_the_cause(tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", range(20))
    refs: list[ImageRef] = [file_ref(file) for file in sorted(images.iterdir())]
    refs[9] = ExhaustingRef(refs[9].uri)
    with pytest.raises(PipelineError, match=r"0009.png cannot be read, nor can any other image: Too many open files"):
        list(decode_ahead(refs, range(20), NOTHING, Slots(64), 2, MAX_PIXELS))


@pytest.mark.parametrize(
    ("kind", "error"), [(BadSectorRef, "Input/output error"), (HungryRef, "there was too little memory for it")]
)
def test_system_errors_fail_only_their_image(kind: type[ImageRef], error: str, tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", range(20))
    refs: list[ImageRef] = [file_ref(file) for file in sorted(images.iterdir())]
    refs[9] = kind(refs[9].uri)
    results = list(decode_ahead(refs, range(20), NOTHING, Slots(64), 2, MAX_PIXELS))
    assert [image.number for image in results if not image.is_new] == [9]
    assert (results[9].error, results[9].version) == (error, None)  # without a version, so the next run reads it again


@pytest.mark.parametrize("limit", ["RLIMIT_NOFILE", "RLIMIT_NPROC"])
def test_a_system_without_room_for_processes_is_reported(limit: str, tmp_path: Path) -> None:
    ended = run_program("decode_without_room", make_images(tmp_path / "images", range(20)), limit)
    assert "The system starts no process that reads images" in ended.out
    assert ended.err == ""


def test_workers_that_do_not_start_give_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = make_images(tmp_path / "images", range(3))
    before = multiprocessing.active_children()
    slots = Slots(64)
    monkeypatch.setattr(slots, "memory", ())  # something they cannot start with
    with pytest.raises(PipelineError, match=r"processes that read images cannot be started \(exit code 1\)"):
        list(decoded(images, slots))
    assert multiprocessing.active_children() == before


def test_no_images_need_no_process(tmp_path: Path) -> None:
    before = multiprocessing.active_children()
    assert list(decoded(tmp_path, Slots(8))) == []
    assert multiprocessing.active_children() == before
