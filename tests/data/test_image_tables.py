"""Images in Parquet and Arrow files, as the library `datasets` writes them and in other layouts, whole and damaged."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from helpers import encoded, make_image, wait_for_tick
from object_storage import S3Server

from pipeline.core.errors import ImageError, PipelineError, RequestError
from pipeline.data.images import ImageSet
from pipeline.data.sources import find_images

PNGS = [encoded(make_image(number)) for number in range(6)]
LABELS = ["cat", "golden retriever"]


def contents(images: ImageSet) -> list[bytes]:
    return [ref.read()[0] for ref in images.refs]


def write(file: Path, columns: dict[str, Any], **options: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pa.table(columns), file, **options)
    return file


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set as Parquet files, and saved to disk with and without splits, by the library `datasets`."""
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value, disable_progress_bars

    disable_progress_bars()
    folder = tmp_path_factory.mktemp("hub")
    features = Features({"text": Value("string"), "image": Image(), "animal": ClassLabel(names=LABELS)})
    rows = {
        "image": [{"bytes": data, "path": f"n{number}.png"} for number, data in enumerate(PNGS)],
        "animal": [0, 1, 0, 1, 0, -1],
        "text": ["a caption"] * 6,
    }
    whole = Dataset.from_dict(rows, features=features)
    train, test = whole.select(range(4)), whole.select([4, 5])
    whole.to_parquet(str(folder / "whole.parquet"), batch_size=2)
    for name, part in {"train": train, "test": test}.items():
        (folder / "parts" / "data").mkdir(parents=True, exist_ok=True)
        part.to_parquet(str(folder / "parts" / "data" / f"{name}-00000-of-00001.parquet"))
    whole.save_to_disk(str(folder / "saved"), num_shards=2)
    DatasetDict({"train": train, "test": test}).save_to_disk(str(folder / "splits"))
    return folder


@pytest.mark.parametrize("source", ["whole.parquet", "saved", "saved/data-{00000,00001}-of-00002.arrow"])
def test_data_sets_of_the_hub_are_read(hub: Path, source: str) -> None:
    images = find_images(hub / source)
    assert contents(images) == PNGS
    assert list(images.paths) == [f"n{number}.png" for number in range(6)]
    assert images.labels == ["cat", "golden retriever"] * 2 + ["cat", ""]
    assert images.splits is None
    assert [ref.read()[0] for ref in pickle.loads(pickle.dumps(images.refs))[::-1]] == PNGS[::-1]
    assert contents(find_images(f"{images.refs[3].uri}")) == [PNGS[3]]


@pytest.mark.parametrize("source", ["parts", "splits"])
def test_splits_are_the_names_of_files_or_folders(hub: Path, source: str) -> None:
    images = find_images(hub / source)
    assert contents(images) == PNGS[4:] + PNGS[:4]
    assert images.splits == ["test"] * 2 + ["train"] * 4
    assert images.labels == ["cat", ""] + LABELS * 2


def test_rows_without_unique_paths_are_named_by_their_numbers(tmp_path: Path) -> None:
    table = {
        "jpg": PNGS,
        "label": [3, None, 3, 4, 4, 4],
        "group": list("aabbcc"),
        "Target": [[0.5, number] for number in range(6)],
    }
    write(tmp_path / "one.parquet", table, row_group_size=4)
    images = find_images(tmp_path / "one.parquet")
    assert (list(images.paths), contents(images)) == (list("012345"), PNGS)
    assert (images.labels, images.groups) == (["3", "", "3", "4", "4", "4"], list("aabbcc"))
    assert images.targets is not None
    assert images.targets[:, 1].tolist() == list(range(6))

    same = [{"bytes": data, "path": "image.png"} for data in PNGS * 2]
    write(tmp_path / "both" / "one.parquet", {"image": PNGS})
    write(tmp_path / "both" / "two.parquet", {"image": same})
    images = find_images(tmp_path / "both")
    assert images.paths[4:8] == ["one.parquet#4", "one.parquet#5", "two.parquet#00", "two.parquet#01"]
    assert contents(images) == PNGS * 3
    assert len({ref.uri for ref in images.refs}) == 18


def test_a_parquet_list_is_still_a_list(folder: Path) -> None:
    write(folder / "list.parquet", {"path": ["red/0.png"], "thumbnail": [b"x"]})
    assert [ref.uri for ref in find_images(folder / "list.parquet").refs] == [str(folder / "red/0.png")]
    write(folder / "other.parquet", {"file": ["red/0.png"]})
    with pytest.raises(RequestError, match="no column 'path'"):
        find_images(folder / "other.parquet")


def test_the_column_of_images_can_be_chosen(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", {"photo": PNGS[:2], "mask": PNGS[2:4], "text": ["x", "y"]})
    with pytest.raises(
        RequestError, match=r"several columns of images: 'photo', 'mask'\. Choose one with image_column"
    ):
        find_images(file)
    assert contents(find_images(file, image_column="mask")) == PNGS[2:4]
    with pytest.raises(RequestError, match=r"image_column='text' is not one of its columns of images: 'photo', 'mask'"):
        find_images(file, image_column="text")
    write(file, {"image": PNGS[:2], "mask": PNGS[2:4]})
    assert contents(find_images(file)) == PNGS[:2]


def test_rows_without_an_image_are_errors(tmp_path: Path) -> None:
    rows = [{"bytes": None, "path": "/etc/passwd"}, {"bytes": b"", "path": "b"}, None, {"bytes": PNGS[0], "path": "c"}]
    images = find_images(write(tmp_path / "a.parquet", {"image": rows}))
    for ref, message in zip(
        images.refs, ["only the path '/etc/passwd'", "is empty", "the row has no image$"], strict=False
    ):
        with pytest.raises(ImageError, match=message):
            ref.read()
    assert images.refs[3].read()[0] == PNGS[0]


@pytest.mark.parametrize("metadata", [b"{", b"[]", b'{"info": 1}', b'{"info": {"features": {"label": {"names": 7}}}}'])
def test_odd_descriptions_are_ignored(tmp_path: Path, metadata: bytes) -> None:
    table = pa.table({"image": PNGS, "label": [0] * 6}).replace_schema_metadata({"huggingface": metadata})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert find_images(tmp_path / "a.parquet").labels == ["0"] * 6


def test_a_damaged_row_group_spares_the_others(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", {"image": PNGS}, row_group_size=2, compression="zstd", use_dictionary=False)
    content = bytearray(file.read_bytes())
    second = pyarrow.parquet.ParquetFile(file).metadata.row_group(1).column(0)
    start = second.data_page_offset
    content[start + 30 : start + second.total_compressed_size] = bytes(second.total_compressed_size - 30)
    file.write_bytes(content)
    images = find_images(file)
    for row in (2, 3):
        with pytest.raises(ImageError, match="it is damaged"):
            images.refs[row].read()
    assert [images.refs[row].read()[0] for row in (0, 5, 1, 4)] == [PNGS[row] for row in (0, 5, 1, 4)]


def test_damaged_files_are_left_out(hub: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for suffix, source in (("parquet", hub / "whole.parquet"), ("arrow", hub / "saved" / "data-00000-of-00002.arrow")):
        (tmp_path / suffix).mkdir()
        content = source.read_bytes()
        (tmp_path / suffix / f"whole.{suffix}").write_bytes(content)
        (tmp_path / suffix / f"cut.{suffix}").write_bytes(content[: len(content) // 2])
        (tmp_path / suffix / f"empty.{suffix}").write_bytes(b"")
        images = find_images(tmp_path / suffix)
        assert {name.partition("#")[0] for name in images.paths} <= {f"n{number}.png" for number in range(6)}
        assert f"cut.{suffix}: it is damaged" in caplog.text
        assert sorted(images.unread) == [str(tmp_path / suffix / f"{name}.{suffix}") for name in ("cut", "empty")]


def test_names_of_columns_that_are_not_utf_8_are_damage(hub: Path, tmp_path: Path) -> None:
    for source in (hub / "whole.parquet", hub / "saved" / "data-00000-of-00002.arrow"):
        file = tmp_path / source.name
        file.write_bytes(source.read_bytes().replace(b"animal", b"anim\xf1l"))
        with pytest.raises(RequestError, match=r"cannot be read|it is damaged"):
            find_images(file)


def test_offsets_that_point_anywhere_are_damage(hub: Path, tmp_path: Path) -> None:
    content = (hub / "saved" / "data-00000-of-00002.arrow").read_bytes()
    paths = np.array([0, 6, 12, 18], np.int32).tobytes()  # where the three paths begin and end
    images = np.array([0, *np.cumsum([len(png) for png in PNGS[:3]])], np.int32).tobytes()
    for offsets in (paths, images):
        assert content.count(offsets) == 1
        wrong = offsets[:8] + b"\xff\xff\xff\x3f" + offsets[12:]
        (tmp_path / "a.arrow").write_bytes(content.replace(offsets, wrong))
        with pytest.raises(PipelineError, match="it is damaged"):
            find_images(tmp_path / "a.arrow").refs[1].read()


def test_a_table_that_changed_is_not_read(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", {"image": PNGS})
    wait_for_tick(tmp_path)
    images = find_images(file)
    assert images.refs[0].read() == (PNGS[0], images.refs[0].version())
    write(file, {"image": PNGS[::-1]})
    with pytest.raises(ImageError, match=r"a\.parquet changed while this command ran"):
        images.refs[1].read()
    assert contents(find_images(file)) == PNGS[::-1]


def test_more_rows_than_bytes_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pa.table({"image": pa.nulls(10**6, pa.binary())}), file)
    with pytest.raises(RequestError, match=r"declares 1,000,000 rows in \d,?\d* bytes"):
        find_images(file)


def test_tables_in_a_bucket_are_read(hub: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.variables.items():
        monkeypatch.setenv(name, value)
    s3.upload(hub, "image-tables")
    for source in ("whole.parquet", "parts", "splits", "saved/data-{00000,00001}-of-00002.arrow"):
        images = find_images(f"s3://image-tables/{source}")
        assert sorted(contents(images)) == sorted(PNGS)
        assert images.labels == find_images(f"{hub}/{source}").labels
