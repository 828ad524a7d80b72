"""Bad pictures: each is skipped with its cause or read right, and the others come out the same as without it."""

import io
import os
import socket
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import alike, fuzz, picture, pictures
from PIL import Image

from pipeline.core.errors import ImageError
from pipeline.data import images as image_files
from pipeline.data.decoding import decode

SMALL = ("--weights", "random:0", "--layer", "block5_pool", "--quiet")


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    written = io.BytesIO()
    image.save(written, kind, **options)
    return written.getvalue()


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
    whole = encoded(picture(1), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08" + b"\xff" * 40)
    assert b"\xff" * 40 in whole
    return whole


SKIPPED = {
    "empty.jpg": (b"", "the file is empty"),
    "text.jpg": (b"these are words\n", "not an image of a format that Pillow reads"),
    "page.png": (b"<!doctype html><title>404</title>", "not an image of a format that Pillow reads"),
    "bomb.png": (bomb(), "more than 178,956,970 pixels, the limit of --max-pixels"),
    **{
        f"cut{tenth}.{kind.lower()}": (encoded(picture(2, 300, 200), kind)[: tenth * size // 10], "")
        for kind in ("PNG", "JPEG", "WEBP", "GIF")
        for size in [len(encoded(picture(2, 300, 200), kind))]
        for tenth in range(1, 10)
    },
}
READ = {
    "exif.jpg": broken_exif(),
    "dot.png": encoded(Image.new("RGB", (1, 1), "red")),
    "line.png": encoded(picture(3, 1, 10_000)),
    "moving.gif": encoded(picture(4), "GIF", save_all=True, append_images=[picture(5), picture(6)]),
    "moving.webp": encoded(picture(4), "WEBP", save_all=True, append_images=[picture(5)], lossless=True),
    "deep.png": encoded(Image.fromarray(np.asarray(picture(7).convert("L")).astype(np.uint16) * 257)),
    "bits.png": encoded(picture(8).convert("1")),
    "cmyk.jpg": encoded(picture(9).convert("CMYK"), "JPEG", quality=95),
}


def similar(data: bytes, expected: Image.Image) -> float:
    """The mean difference of the levels of a picture and what is expected of it."""
    wanted = np.asarray(expected.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)).astype(float)
    return float(np.abs(decode(data) - wanted).mean())


def test_odd_pictures_are_read_right() -> None:
    assert similar(READ["exif.jpg"], picture(1)) < 8
    assert decode(READ["dot.png"]).tolist() == np.full((224, 224, 3), [255, 0, 0]).tolist()
    assert similar(READ["line.png"], picture(3, 1, 10_000)) < 1
    assert similar(READ["moving.gif"], picture(4)) < 12
    assert similar(READ["moving.webp"], picture(4)) < 1
    assert similar(READ["deep.png"], picture(7).convert("L")) < 1
    assert similar(READ["bits.png"], picture(8).convert("1")) < 1
    assert similar(READ["cmyk.jpg"], picture(9)) < 8


def test_ycck_is_read_as_cmyk() -> None:
    """Adobe's YCCK differs from CMYK by its marker and by how the first three planes are coded."""
    cmyk = picture(9).convert("CMYK")
    c, m, y, k = cmyk.split()
    # Decoders make ink of YCC as they make light of it, and take it for its inverse, as Adobe writes all ink inverted.
    # Pillow's encoder has no YCCK, so the planes are coded here, and Adobe's marker is changed to say so (transform 2).
    rgb = Image.merge("RGB", [c, m, y])
    coded = Image.merge("CMYK", [*rgb.convert("YCbCr").split(), k.point(lambda level: 255 - level)])
    # Pillow inverts what it writes as CMYK; undone beforehand.
    data = encoded(coded.point(lambda level: 255 - level), "JPEG", quality=95, subsampling=0)
    at = data.index(b"Adobe")
    assert data[at + 11] == 0
    data = data[: at + 11] + b"\x02" + data[at + 12 :]
    assert Image.open(io.BytesIO(data)).mode == "CMYK"
    assert similar(data, cmyk) < 8


@pytest.mark.parametrize("tenth", range(1, 10))
def test_a_picture_cut_short_is_no_picture(tenth: int) -> None:
    for kind in ("PNG", "JPEG", "WEBP", "TIFF", "BMP"):
        whole = encoded(picture(2, 300, 200), kind)
        with pytest.raises(ImageError):
            decode(whole[: tenth * len(whole) // 10])


def test_the_pixel_limit_is_what_was_asked_for(run, fresh_cache, tmp_path: Path) -> None:
    images = tmp_path / "pictures"
    images.mkdir()
    picture(0, 100, 100).save(images / "small.png")
    picture(1, 101, 100).save(images / "large.png")
    result = run("extract", images, *SMALL, "--max-pixels", 10_000, "--cache", fresh_cache("cache"), "--json").json
    assert [failure["path"] for failure in result["failed"]] == ["large.png"]
    assert "more than 10,000 pixels, the limit of --max-pixels" in result["failed"][0]["error"]


def test_bad_pictures_change_no_other(run, fresh_cache, tmp_path: Path) -> None:
    images = pictures(tmp_path / "pictures", range(8))
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
    finished = run("extract", images, *SMALL, "--batch-size", 1, "--cache", fresh_cache("cache"), "--json",
                   "--out", tmp_path / "all.npz")  # fmt: skip
    failed = {failure["path"]: failure["error"] for failure in finished.json["failed"]}
    others = {"pipe.png": "not a regular file", "socket.png": "", "nothing.png": "No such file",
              "itself.png": "Too many levels"}  # fmt: skip
    gifs = {name for name in SKIPPED if name.endswith(".gif")}  # the first frame of a cut GIF may be whole
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
    picture(0).save(file)
    file.chmod(0)
    if os.access(file, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(ImageError, match="Permission denied"):
        image_files.read(file)


def test_files_that_vanish_or_change_meanwhile(run, start, fresh_cache, tmp_path: Path) -> None:
    images = pictures(tmp_path / "pictures", range(60))
    cache = fresh_cache("cache")
    process = start("extract", images, *SMALL, "--batch-size", 4, "--workers", 1, "--cache", cache, "--json")
    while not list(cache.glob("features/*/data/*")):
        assert process.poll() is None
    (images / "0058.png").unlink()
    picture(99).save(images / "0059.png")
    _, messages = process.communicate(timeout=120)
    assert process.returncode == 0, messages
    assert "skipped 0058.png: No such file or directory" in messages
    # What changed is known as what it is now: nothing is stored under the name of another content.
    again = run("extract", images, *SMALL, "--cache", cache, "--json", "--out", tmp_path / "out.npy").json
    assert (again["images"], again["computed"]) == (59, 0)
    run("extract", images, *SMALL, "--cache", fresh_cache("other"), "--out", tmp_path / "other.npy")
    assert alike(np.load(tmp_path / "out.npy"), np.load(tmp_path / "other.npy"))


FUZZ = """
import faulthandler, json, random, resource, sys
from pathlib import Path
from mutations import mutated
from pipeline.core.errors import ImageError
from pipeline.data.decoding import decode

seeds = [file.read_bytes() for file in sorted(Path(sys.argv[1]).iterdir())]
chance = random.Random(0)
before, skipped = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0
for number in range(int(sys.argv[2])):
    data = mutated(chance.choice(seeds), chance)
    faulthandler.dump_traceback_later(5, exit=True)  # a hang ends this process
    try:
        assert decode(data, 10_000_000).shape == (224, 224, 3)
    except ImageError:
        skipped += 1
    faulthandler.cancel_dump_traceback_later()
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(json.dumps({"skipped": skipped, "grown": grown * 1024}))
"""


def test_2000_mutated_pictures(times: int, tmp_path: Path) -> None:
    seeds = tmp_path / "seeds"
    seeds.mkdir()
    for number, (kind, options) in enumerate([
        ("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True}), ("WEBP", {}), ("GIF", {}), ("BMP", {}),
        ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("TIFF", {"compression": "jpeg"}), ("ICO", {}),
        ("TGA", {}), ("PPM", {}), ("JPEG2000", {}), ("AVIF", {}),
    ]):  # fmt: skip
        (seeds / f"{number:02}").write_bytes(encoded(picture(number), kind, **options))
    found = fuzz(FUZZ, seeds, 2000 * times).json
    assert 200 * times < found["skipped"] < 2000 * times
    # At most 10 million pixels, in up to four planes of four bytes and a copy.
    assert found["grown"] < 500e6
