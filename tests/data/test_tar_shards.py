"""Images in tar files: shards as WebDataset writes them, in folders and in buckets, damaged and hostile."""

import io
import json
import os
import pickle
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from helpers import encoded, make_image, wait_for_tick
from object_storage import S3Server

from pipeline.core.errors import ImageError, RequestError
from pipeline.data.containers import expand_braces
from pipeline.data.images import ImageSet
from pipeline.data.sources import find_images, image_refs


def png(seed: int) -> bytes:
    return encoded(make_image(seed))


def write_tar(file: Path, members: Mapping[str, bytes]) -> Path:
    with tarfile.open(file, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file


def contents(images: ImageSet) -> dict[str, bytes]:
    return {path: ref.read()[0] for path, ref in zip(images.paths, images.refs, strict=True)}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards with two samples each, in the layout of img2dataset."""
    from webdataset import TarWriter

    folder = tmp_path_factory.mktemp("shards") / "photos"
    folder.mkdir()
    for shard in range(3):
        with TarWriter(str(folder / f"{shard:05}.tar")) as writer:
            for number in range(2 * shard, 2 * shard + 2):
                columns = {"caption": f"photo {number}", "label": "cat" if number % 2 else "dog", "width": 60}
                sample = {"png": png(number), "txt": columns["caption"], "json": columns}
                writer.write({"__key__": f"{number:09}", **sample})
    (folder / "00000_stats.json").write_text("{}")
    return folder


EXPECTED = {f"{number:09}.png": png(number) for number in range(6)}


@pytest.mark.parametrize("source", ["", "{00000..00002}.tar", "{00000,00001,00002}.tar"])
def test_shards_are_found_by_folder_and_by_pattern(shards: Path, source: str) -> None:
    images = find_images(f"{shards}/{source}")
    assert contents(images) == EXPECTED
    assert list(images.paths) == sorted(EXPECTED)
    assert images.labels == ["dog", "cat"] * 3
    assert [ref.uri for ref in images.refs][2] == f"{shards}/00001.tar#000000002.png"
    assert not images.unread


def test_a_tar_file_is_like_the_folder_that_it_was_made_from(folder: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "images.tar", "w") as tar:
        tar.add(folder, ".")
    images, files = find_images(tmp_path / "images.tar"), find_images(folder)
    assert (list(images.paths), images.labels) == (list(files.paths), files.labels)
    assert contents(images) == contents(files)


def test_a_member_is_named_by_its_file_and_name(shards: Path) -> None:
    images = find_images(f"{shards}/00001.tar#000000003.png")
    assert contents(images) == {"000000003.png": png(3)}
    with pytest.raises(RequestError, match=r"00001\.tar has no image 'x\.png'; its images begin with '000000002\.png'"):
        find_images(f"{shards}/00001.tar#x.png")


def test_lists_and_urls_name_images_inside_files(shards: Path, tmp_path: Path) -> None:
    import h5py

    write_tar(tmp_path / "odd.tar", {"a#b.tar#c.png": png(7)})
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = np.stack([np.asarray(make_image(number)) for number in range(2)])
    names = [f"{shards}/00001.tar#000000003.png", "odd.tar#a#b.tar#c.png", "a.h5:x#1", "odd.tar#missing.png"]
    (tmp_path / "list.txt").write_text("\n".join(names))
    images = dict(zip((found := find_images(tmp_path / "list.txt")).paths, found.refs, strict=True))
    assert set(images) == set(names)
    assert images[names[0]] == find_images(shards).refs[3]
    assert images[names[1]].read()[0] == png(7)
    assert images[names[2]].read()[0][-7200:] == np.asarray(make_image(1)).tobytes()
    with pytest.raises(ImageError, match="No such file"):
        images[names[3]].read()
    assert image_refs([ref.uri for ref in find_images(shards).refs]) == find_images(shards).refs


def test_tar_files_next_to_images_are_ignored(folder: Path) -> None:
    write_tar(folder / "backup.tar", {"0.png": png(0)})
    assert len(find_images(folder)) == 6


def test_images_with_the_same_name_are_named_with_their_shard(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_tar(tmp_path / f"{name}.tar", {"cat/1.png": png(ord(name)), "other.txt": b"x"})
    images = find_images(tmp_path)
    assert contents(images) == {"a.tar#cat/1.png": png(ord("a")), "b.tar#cat/1.png": png(ord("b"))}
    assert images.labels == ["cat", "cat"]


def test_descriptions_are_the_columns_of_a_list(tmp_path: Path) -> None:
    columns = {"label": "from json", "Split": "test", "group": 7, "target": [0.5, 1], "caption": ["x"]}
    shard = write_tar(
        tmp_path / "a.tar",
        {"x/1.left.png": png(1), "x/1.json": json.dumps(columns).encode(), "x/1.cls": b"from cls\n"}
        | {"x/2.json": json.dumps(columns | {"group": None}).encode(), "x/2.png": png(2), "x/2.txt": b"a caption"},
    )
    images = find_images(shard)
    assert list(images.paths) == ["x/1.left.png", "x/2.png"]
    assert images.labels == ["from cls", "from json"]
    assert (images.splits, images.groups) == (["test", "test"], ["7", None])
    assert images.targets is not None
    assert images.targets.tolist() == [[0.5, 1]] * 2


@pytest.mark.parametrize(
    "json_content", [b"[1, 2]", b"{", b"\xff", b"[" * 100_000, b'{"label": {"a": 1}, "target": [[1]], "group": NaN}']
)
def test_other_json_is_not_a_description(tmp_path: Path, json_content: bytes) -> None:
    shard = write_tar(tmp_path / "a.tar", {"x/1.png": png(1), "x/1.json": json_content, "x/1.cls": b"\xff"})
    images = find_images(shard)
    assert (images.labels, images.targets, images.groups) == (["x"], None, None)


def test_a_member_is_read_in_another_process(shards: Path) -> None:
    refs = pickle.loads(pickle.dumps(find_images(shards).refs))
    assert [ref.read()[0] for ref in refs] == list(EXPECTED.values())


def test_a_truncated_shard_is_named_and_the_others_are_read(
    shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for shard in shards.glob("*.tar"):
        (tmp_path / shard.name).write_bytes(shard.read_bytes())
    content = (tmp_path / "00001.tar").read_bytes()
    second = content.index(b"000000003.png")
    os.truncate(tmp_path / "00001.tar", second + 700)
    images = find_images(tmp_path)
    assert list(images.paths) == sorted(EXPECTED)
    with pytest.raises(ImageError, match=r"00001\.tar ends within it: the file is truncated"):
        images.refs[3].read()
    assert images.refs[4].read()[0] == EXPECTED["000000004.png"]

    (tmp_path / "00001.tar").write_bytes(content[:second] + b"\xff" * 512 + content[second + 512 :])
    images = find_images(tmp_path)
    assert list(images.paths) == sorted(set(EXPECTED) - {"000000003.png"})
    assert images.unread == [str(tmp_path / "00001.tar")]
    assert f"00001.tar: its header at byte {second:,}" in caplog.text


def test_members_of_a_shard_that_changed_are_not_read(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"1.png": png(1), "2.png": png(2)})
    wait_for_tick(tmp_path)
    images = find_images(tmp_path)
    version = images.refs[0].version()
    assert images.refs[0].read() == (png(1), version)
    assert version is not None
    write_tar(tmp_path / "a.tar", {"2.png": png(2), "1.png": png(1)})
    assert images.refs[0].version() is None
    with pytest.raises(ImageError, match=r"a\.tar changed while this command ran"):
        images.refs[0].read()


def test_hostile_members_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "in").mkdir()
    with tarfile.open(tmp_path / "in" / "a.tar", "w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            info = tarfile.TarInfo("link.png")
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        for name in ("/top/1.png", "../../2.png", "a/../../3.png", "._4.png", "__MACOSX/5.png", "6.svg", "6.exe"):
            info = tarfile.TarInfo(name)
            info.size = len(png(1))
            tar.addfile(info, io.BytesIO(png(1)))
        for number in range(1000):
            tar.addfile(tarfile.TarInfo(f"{number}.png"))
            tar.addfile(tarfile.TarInfo(f"{number}.cls"))
        info = tarfile.TarInfo("lies.png")
        info.size = 2**40
        tar.addfile(info)
    before = sorted(tmp_path.rglob("*"))
    images = find_images(tmp_path / "in")
    assert list(images.paths) == ["lies.png", "top/1.png"]
    with pytest.raises(ImageError, match="larger than 1,073,741,824 bytes"):
        images.refs[0].read()
    assert images.passed_over == ["6.svg"]
    assert "Left out 1000 members without content: '0.png', '1.png'" in caplog.text
    assert sorted(tmp_path.rglob("*")) == before


def test_compressed_and_empty_shards_are_refused(tmp_path: Path) -> None:
    import gzip

    (tmp_path / "a.tar").write_bytes(gzip.compress(write_tar(tmp_path / "b.tar", {"1.png": png(1)}).read_bytes()))
    with pytest.raises(RequestError, match=r"no images in 'a\.tar' \(a\.tar: it is compressed"):
        find_images(tmp_path / "a.tar")
    write_tar(tmp_path / "b.tar", {"1.txt": b"x"})
    with pytest.raises(RequestError, match=r"no images in 'b\.tar' \(looked for members with"):
        find_images(tmp_path / "b.tar")


def test_patterns_are_those_of_a_shell(tmp_path: Path) -> None:
    assert expand_braces("a{08..11}.tar") == ["a08.tar", "a09.tar", "a10.tar", "a11.tar"]
    assert expand_braces("{a,b}/{0..1}.tar") == ["a/0.tar", "a/1.tar", "b/0.tar", "b/1.tar"]
    assert expand_braces("{a}.png") == ["{a}.png"]
    for huge in ("{0..999999999}.tar", "{0..1999}{0..1999}.tar"):
        with pytest.raises(RequestError, match="names more than 1,000,000 files"):
            expand_braces(huge)
    write_tar(tmp_path / "0.tar", {"1.png": png(1)})
    with pytest.raises(RequestError, match=r"1 of 2 files do not exist: '.*/1\.tar'"):
        find_images(tmp_path / "{0..1}.tar")
    with pytest.raises(RequestError, match="they must be tar files"):
        find_images(tmp_path / "{0..1}.png")
    (tmp_path / "{0..1}.tar").write_bytes((tmp_path / "0.tar").read_bytes())
    assert list(find_images(tmp_path / "{0..1}.tar").paths) == ["1.png"]


def test_shards_in_a_bucket_are_read_by_ranges(shards: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.variables.items():
        monkeypatch.setenv(name, value)
    s3.upload(shards, "tar-shards", "photos/")
    before = len(s3.requests("GET", ".tar"))
    images = find_images("s3://tar-shards/photos")
    assert images.labels == ["dog", "cat"] * 3
    assert len(s3.requests("GET", ".tar")) - before == 6  # two for each shard
    assert contents(images) == EXPECTED
    assert len(s3.requests("GET", ".tar")) - before == 12
    assert images.refs[0].version() == images.refs[0].read()[1]
    for source in ("s3://tar-shards/photos/{00000..00002}.tar", "s3://tar-shards/photos/00001.tar"):
        assert contents(find_images(source)).items() <= EXPECTED.items()
    assert image_refs([ref.uri for ref in images.refs]) == images.refs
    s3.put("tar-shards", "photos/00001.tar", (shards / "00002.tar").read_bytes())
    with pytest.raises(ImageError, match=r"00001\.tar changed while this command ran"):
        images.refs[2].read()
