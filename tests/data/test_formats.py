"""Unsupported formats in a folder, HEIC, and unsupported sources."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.core.errors import ImageError, RequestError
from pipeline.data.decoding import decode, decode_with_thumbnail, thumbnail
from pipeline.data.image_files import HEIF_BRANDS, READS_HEIF
from pipeline.data.sources import find_images


def test_images_in_unsupported_formats_are_named(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "notes.docx").write_bytes(b"x")
    (folder / ".hidden.psd").write_bytes(b"x")
    assert list(find_images(folder).passed_over) == []
    assert caplog.text == ""
    names = ["blue/a.NEF", "blue/b.psd", "blue/c.svg", "blue/d.jxl", "red/e.cr2", "red/f.dng"]
    for name in names:
        (folder / name).write_bytes(b"x")
    images = find_images(folder)
    assert list(images.passed_over) == names
    assert len(images) == 6
    assert "Ignored 6 files in an unsupported image format" in caplog.text
    assert "'blue/a.NEF', 'blue/b.psd', 'blue/c.svg', 'blue/d.jxl', 'red/e.cr2', ..." in caplog.text


def test_a_single_image_is_a_set_of_one(folder: Path) -> None:
    images = find_images(folder / "red" / "1.png")
    assert (list(images.paths), list(images.labels)) == (["1.png"], [""])
    assert images.refs[0].read()[0] == (folder / "red" / "1.png").read_bytes()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("https://example.org/a.jpg", "https:// URLs are not supported.*img2dataset --url_list urls.txt"),
        ("hdfs://host/folder", "hdfs:// URLs are not supported.*IMAGES is a folder"),
        ("images.zip", "is an archive. Unpack it"),
        ("images.tar.gz", "is an archive. Unpack it"),
        ("paper.pdf", "is not a folder of images, tar files or Parquet files, one of these, FILE.h5:DATASET, a list"),
        ("gone", "does not exist. IMAGES is a folder"),
    ],
)
def test_unsupported_sources_list_the_supported_ones(tmp_path: Path, name: str, message: str) -> None:
    source = name if "://" in name else tmp_path / name
    if "." in name and "://" not in name:
        source.write_bytes(b"x")
    with pytest.raises(RequestError, match=message):
        find_images(source)


def test_pixels_are_counted_without_decoding() -> None:
    import io

    written = io.BytesIO()
    Image.new("L", (30, 20)).save(written, "PNG")
    pixels, small, pixel_count = decode_with_thumbnail(written.getvalue())
    assert np.array_equal(pixels, decode(written.getvalue()))
    assert np.array_equal(small, thumbnail(pixels))
    assert pixel_count == 600


@pytest.mark.skipif(not READS_HEIF, reason="pillow-heif is not installed")
def test_heic_is_read_like_other_formats(folder: Path) -> None:
    image = Image.open(folder / "red" / "0.png")
    image.save(folder / "red" / "photo.HEIC", format="HEIF", quality=100, chroma=444)
    found = find_images(folder)
    assert found.paths[-1] == "red/photo.HEIC"
    assert list(found.passed_over) == []
    heic, png = (decode(found.refs[row].read()[0]).astype(int) for row in (-1, 3))
    assert np.abs(heic - png).mean() < 3
    assert np.abs(heic - np.roll(png, 30, axis=1)).mean() > 10
    assert decode_with_thumbnail(found.refs[-1].read()[0])[2] == image.width * image.height


@pytest.mark.skipif(READS_HEIF, reason="pillow-heif is installed")
def test_heic_without_its_reader_names_the_extra(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "red" / "photo.heic").write_bytes(b"x")
    assert list(find_images(folder).passed_over) == ["red/photo.heic"]
    assert "pip install 'image-vectors[heic]'" in caplog.text
    with pytest.raises(RequestError, match="pip install 'image-vectors"):
        find_images(folder / "red" / "photo.heic")
    with pytest.raises(ImageError, match="pip install 'image-vectors"):
        decode(b"\0\0\0\x18ftyp" + HEIF_BRANDS[0] + b"rest")
