"""Bad images: each is skipped with its cause or read correctly, without affecting the others."""

import io
import json
import os
import socket
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from helpers import SMALL, are_close, encoded, make_image, make_images, run_program, wait_until
from PIL import Image

from pipeline.core.errors import ImageError
from pipeline.data.decoding import decode
from pipeline.data.images import file_ref


def bomb(side: int = 50_000) -> bytes:
    """A PNG of side x side pixels in a few kB."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    packer, rows = zlib.compressobj(9), b""
    for _ in range(20):
        rows += packer.compress(bytes(side // 8 + 1))
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows += packer.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def broken_exif() -> bytes:
    whole = encoded(make_image(1), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08" + b"\xff" * 40)
    assert b"\xff" * 40 in whole
    return whole


SKIPPED = {
    "empty.jpg": (b"", "the file is empty"),
    "text.jpg": (b"these are words\n", "not an image of a format that is read"),
    "page.png": (b"<!doctype html><title>404</title>", "not an image of a format that is read"),
    "bomb.png": (bomb(), "2,500,000,000 pixels, more than"),
    **{
        f"cut{tenth}.{kind.lower()}": (encoded(make_image(2, 300, 200), kind)[: tenth * size // 10], "")
        for kind in ("PNG", "JPEG", "WEBP", "GIF")
        for size in [len(encoded(make_image(2, 300, 200), kind))]
        for tenth in range(1, 10)
    },
}
READ = {
    "exif.jpg": broken_exif(),
    "dot.png": encoded(Image.new("RGB", (1, 1), "red")),
    "line.png": encoded(make_image(3, 1, 10_000)),
    "moving.gif": encoded(make_image(4), "GIF", save_all=True, append_images=[make_image(5), make_image(6)]),
    "moving.webp": encoded(make_image(4), "WEBP", save_all=True, append_images=[make_image(5)], lossless=True),
    "deep.png": encoded(Image.fromarray(np.asarray(make_image(7).convert("L")).astype(np.uint16) * 257)),
    "bits.png": encoded(make_image(8).convert("1")),
    "cmyk.jpg": encoded(make_image(9).convert("CMYK"), "JPEG", quality=95),
}


def similar(data: bytes, expected: Image.Image) -> float:
    """The mean difference between the levels of an image and the expected ones."""
    resized = np.asarray(expected.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)).astype(float)
    return float(np.abs(decode(data) - resized).mean())


def test_odd_images_are_read_correctly() -> None:
    assert similar(READ["exif.jpg"], make_image(1)) < 8
    assert decode(READ["dot.png"]).tolist() == np.full((224, 224, 3), [255, 0, 0]).tolist()
    assert similar(READ["line.png"], make_image(3, 1, 10_000)) < 1
    assert similar(READ["moving.gif"], make_image(4)) < 12
    assert similar(READ["moving.webp"], make_image(4)) < 1
    assert similar(READ["deep.png"], make_image(7).convert("L")) < 1
    assert similar(READ["bits.png"], make_image(8).convert("1")) < 1
    assert similar(READ["cmyk.jpg"], make_image(9)) < 8


def test_ycck_is_read_as_cmyk() -> None:
    """Adobe's YCCK differs from CMYK in its marker and in the coding of the first three planes."""
    cmyk = make_image(9).convert("CMYK")
    c, m, y, k = cmyk.split()
    # Decoders convert YCC to RGB and use it as inverted CMY, because Adobe writes all inks inverted.
    # Pillow's encoder has no YCCK, so the planes are coded here, and Adobe's marker is changed to say so (transform 2).
    rgb = Image.merge("RGB", [c, m, y])
    coded = Image.merge("CMYK", [*rgb.convert("YCbCr").split(), k.point(lambda level: 255 - level)])
    # Pillow inverts CMYK when writing it; this is undone here in advance.
    data = encoded(coded.point(lambda level: 255 - level), "JPEG", quality=95, subsampling=0)
    at = data.index(b"Adobe")
    assert data[at + 11] == 0
    data = data[: at + 11] + b"\x02" + data[at + 12 :]
    assert Image.open(io.BytesIO(data)).mode == "CMYK"
    assert similar(data, cmyk) < 8


@pytest.mark.parametrize("tenth", range(1, 10))
def test_a_truncated_image_is_an_error(tenth: int) -> None:
    for kind in ("PNG", "JPEG", "WEBP", "TIFF", "BMP"):
        whole = encoded(make_image(2, 300, 200), kind)
        with pytest.raises(ImageError):
            decode(whole[: tenth * len(whole) // 10])


def test_the_pixel_limit_is_the_requested_one(run, fresh_cache, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    make_image(0, 100, 100).save(images / "small.png")
    make_image(1, 101, 100).save(images / "large.png")
    result = run("extract", images, *SMALL, "--max-pixels", 10_000, "--cache", fresh_cache("cache"), "--json").json
    assert [failure["path"] for failure in result["failed"]] == ["large.png"]
    assert "it has 10,100 pixels, more than" in result["failed"][0]["error"]


def test_bad_images_do_not_change_others(run, fresh_cache, tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", range(8))
    alone = fresh_cache("alone")
    run("extract", images, *SMALL, "--batch-size", 1, "--cache", alone, "--out", tmp_path / "alone.npz")
    for name, (data, _) in SKIPPED.items():
        (images / name).write_bytes(data)
    for name, data in READ.items():
        (images / name).write_bytes(data)
    os.mkfifo(images / "pipe.png")
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(os.path.relpath(images / "socket.png"))
    (images / "loop").symlink_to(images)
    (images / "nothing.png").symlink_to(images / "gone.png")
    (images / "itself.png").symlink_to("itself.png")
    (images / "folder.png").mkdir()
    options = ("--batch-size", 1, "--cache", fresh_cache("cache"), "--out", tmp_path / "all.npz")
    finished = run("extract", images, *SMALL, *options, "--json")
    failed = {failure["path"]: failure["error"] for failure in finished.json["failed"]}
    others = {
        "pipe.png": "not a regular file",
        "socket.png": "",
        "nothing.png": "No such file",
        "itself.png": "Too many levels",
    }
    gifs = {name for name in SKIPPED if name.endswith(".gif")}  # the first frame of a truncated GIF may be complete
    assert set(SKIPPED) - gifs | set(others) <= set(failed) <= set(SKIPPED) | set(others)
    for name, cause in ({name: cause for name, (_, cause) in SKIPPED.items()} | others).items():
        assert name in gifs or cause in failed[name], failed[name]
    with np.load(tmp_path / "alone.npz") as before, np.load(tmp_path / "all.npz") as after:
        kept = dict(zip(after["paths"].tolist(), after["features"], strict=True))
        assert set(READ) <= set(kept)
        for path, vector in zip(before["paths"].tolist(), before["features"], strict=True):
            assert np.array_equal(kept[path], vector)


def test_an_unreadable_file_is_skipped(tmp_path: Path) -> None:
    file = tmp_path / "secret.png"
    make_image(0).save(file)
    file.chmod(0)
    if os.access(file, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(ImageError, match="Permission denied"):
        file_ref(file).read()


def test_files_that_vanish_or_change_during_extraction(run, start, fresh_cache, tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", range(120))
    cache = fresh_cache("cache")
    process = start("extract", images, *SMALL, "--batch-size", 4, "--workers", 1, "--cache", cache, "--json")
    wait_until(lambda: list(cache.glob("features/*/data/*")), process)
    (images / "0118.png").unlink()
    make_image(999).save(images / "0119.png")
    _, messages = process.communicate(timeout=120)
    assert process.returncode == 0, messages
    assert "skipped 0118.png: No such file or directory" in messages
    # A changed file is stored under its new digest, never under the digest of other content.
    again = run("extract", images, *SMALL, "--cache", cache, "--json", "--out", tmp_path / "out.npy").json
    assert (again["images"], again["computed"]) == (119, 0)
    run("extract", images, *SMALL, "--cache", fresh_cache("other"), "--out", tmp_path / "other.npy")
    assert are_close(np.load(tmp_path / "out.npy"), np.load(tmp_path / "other.npy"))


def endless_jpeg(scans: int) -> bytes:
    """A progressive JPEG of 2,000 x 2,000 pixels with its last scan repeated many times."""
    whole = encoded(Image.new("RGB", (2000, 2000), "red"), "JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * scans + whole[-2:]


def test_a_jpeg_with_endless_scans_is_named_and_affects_no_other(start, fresh_cache, tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", range(12))
    (images / "0003b.jpg").write_bytes(endless_jpeg(30_000))
    options = ("--cache", fresh_cache("cache"), "--json")
    process = start("extract", images, *SMALL, *options, program="impatient")
    out, messages = process.communicate(timeout=300)
    assert process.returncode == 0, messages
    [failed] = json.loads(out)["failed"]
    assert failed["path"] == "0003b.jpg"
    assert "skipped 0003b.jpg" in messages
    assert json.loads(out)["computed"] == 12


KINDS = (
    *(("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True}), ("WEBP", {}), ("GIF", {}), ("BMP", {}), ("TIFF", {})),
    *(("TIFF", {"compression": "tiff_lzw"}), ("TIFF", {"compression": "jpeg"}), ("ICO", {}), ("TGA", {}), ("PPM", {})),
    *(("JPEG2000", {}), ("AVIF", {})),
)


@pytest.mark.parametrize("count", [200, pytest.param(2000, marks=pytest.mark.faults)])
def test_mutated_images_are_read_or_refused(count: int, times: int, tmp_path: Path) -> None:
    for number, (kind, options) in enumerate(KINDS):
        (tmp_path / f"{number:02}").write_bytes(encoded(make_image(number), kind, **options))
    counts = run_program("fuzz_images", tmp_path, count * times).json
    assert 0.1 * count * times < counts["refused"] < count * times
    # At most 10 million pixels, in up to four planes of four bytes, plus a copy.
    assert counts["grown"] < 500e6
