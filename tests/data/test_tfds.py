"""A data set built here with tensorflow-datasets, as TFRecords on disk."""

import json
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import SmallRun

from pipeline.cli.train import repeated
from pipeline.commands.examples import images_of_run
from pipeline.core.errors import PipelineError, RequestError
from pipeline.core.runs import read_run
from pipeline.data.images import content_digest
from pipeline.data.sources import find_images
from pipeline.features.extraction import extract_features
from pipeline.features.extractor import Extractor
from pipeline.features.options import ExtractionOptions
from pipeline.features.weights import weights_from

FEATURES = "tensorflow_datasets.core.features.features_dict.FeaturesDict"
EXTRACTOR = Extractor(weights_from("random:0"), "block5_pool")


@pytest.fixture(scope="session")
def tfds_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `tfds:small_images`, 12 images for training and 3 for testing, and `tfds:no_images`."""
    from small_datasets import NoImages, SmallImages

    folder = tmp_path_factory.mktemp("tfds")
    SmallImages(data_dir=folder, config="plain").download_and_prepare()
    NoImages(data_dir=folder).download_and_prepare()
    return folder


def test_examples_have_names_labels_and_content_digests(tfds_dir: Path, fresh_cache, tmp_path: Path) -> None:
    images = find_images("tfds:small_images/plain:train", tfds_dir)
    assert len(images) == 12
    assert all(path.startswith("small_images-train.tfrecord-") for path in images.paths)
    assert len(set(images.paths)) == 12
    assert sorted(images.labels) == ["golden retriever"] * 6 + ["teapot"] * 6

    options = ExtractionOptions(engine="mnn", batch_size=4, workers=1, cache=fresh_cache("cache"), progress=False)
    features = extract_features(images, EXTRACTOR, options)
    assert (features.computed, features.cached, features.failed) == (12, 0, [])
    assert list(features.paths) == list(images.paths)

    # Files in a folder with the same bytes are cache hits and have the same vectors.
    folder = tmp_path / "images"
    folder.mkdir()
    for number, ref in enumerate(images.refs):
        (folder / f"{number:02}.png").write_bytes(ref.read()[0])
    again = extract_features(find_images(folder), EXTRACTOR, options)
    assert (again.computed, again.cached) == (0, 12)
    assert np.array_equal(again.vectors(), features.vectors())


def test_examples_are_read_in_any_order(tfds_dir: Path) -> None:
    refs = find_images("tfds:small_images/plain:test", tfds_dir).refs
    for row in (0, 2, 1, 1, 0):
        assert content_digest(refs[row].read()[0]) == refs[row].digest


def test_an_example_is_read_without_the_previous_ones(tfds_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(tfds_dir / "small_images", tmp_path / "small_images")
    refs = find_images("tfds:small_images/plain:test+train[50%:]", tmp_path).refs
    [file] = tmp_path.glob("small_images/plain/1.0.0/*-train.tfrecord*")
    content = bytearray(file.read_bytes())
    content[100] ^= 1  # in the first example, which this part of the split does not contain
    content[-100] ^= 1  # in the last
    file.write_bytes(content)
    for row in (7, 4, 0, 5, 3):
        assert content_digest(refs[row].read()[0]) == refs[row].digest
    with pytest.raises(PipelineError, match=r"The data set in .* is damaged"):
        refs[8].read()


def test_parts_of_a_split_are_splits(tfds_dir: Path) -> None:
    assert len(find_images("tfds:small_images/plain:train[:25%]", tfds_dir)) == 3


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        ("tfds:small_images", RequestError, "as tfds:NAME"),
        ("tfds:no_such_data_set:train", RequestError, "does not know this data set"),
        ("tfds:small_images/plain:dev", RequestError, "dev"),
        ("tfds:no_images:train", RequestError, "has no image"),
    ],
)
def test_missing_data_sets_are_named(tfds_dir: Path, source: str, kind: type, message: str) -> None:
    with pytest.raises(kind, match=message) as raised:
        find_images(source, tfds_dir)
    assert source in str(raised.value)


@pytest.mark.parametrize("key", ["pythonClassName", "python_class_name", "type"])
@pytest.mark.parametrize("nested", [False, True])
def test_no_module_that_a_data_set_names_is_imported(
    tfds_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, nested: bool
) -> None:
    folder = tmp_path / "data" / "brought" / "1.0.0"
    shutil.copytree(tfds_dir / "small_images" / "plain" / "1.0.0", folder)
    content = {"content": {}} if key == "type" else {"jsonFeature": {"json": "{}"}}
    features = {key: "harmful_module.Feature"} | content
    if nested:
        inside = {"image": features}
        content = {"content": inside} if key == "type" else {"featuresDict": {"features": inside}}
        features = {key: FEATURES} | content
    (folder / "features.json").write_text(json.dumps(features))
    (tmp_path / "harmful_module.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RequestError, match=r"tfds:brought:train: its features\.json names 'harmful_module\.Feature'"):
        find_images("tfds:brought:train", tmp_path / "data")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"type": 7}', '{"pythonClassName": "os"}', "[" * 100_000])
def test_wrong_features_give_one_message(tfds_dir: Path, tmp_path: Path, content: str) -> None:
    folder = tmp_path / "brought" / "1.0.0"
    shutil.copytree(tfds_dir / "small_images" / "plain" / "1.0.0", folder)
    (folder / "features.json").write_text(content)
    with pytest.raises(RequestError, match=r"^tfds:brought:train"):
        find_images("tfds:brought:train", tmp_path)


def test_a_run_does_not_choose_the_folder_of_data_sets(
    run, small_run: SmallRun, tfds_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may come from someone else, and could choose a folder for downloads."""
    shutil.copytree(small_run.folder, tmp_path / "brought")
    file = tmp_path / "brought" / "run.json"
    record = json.loads(file.read_text())
    del record["checksum"]
    record["options"] |= {"images": "tfds:small_images/plain:train", "data_dir": str(tfds_dir)}
    checksum = f"{zlib.crc32(json.dumps(record, sort_keys=True).encode()):08x}"
    file.write_text(json.dumps(record | {"checksum": checksum}))
    monkeypatch.setattr("tensorflow_datasets.core.DatasetBuilder.download_and_prepare", lambda _: pytest.fail("loaded"))
    for command in (
        ("evaluate", tmp_path / "brought"),
        ("export", tmp_path / "brought", "--format", "parquet", "--out", tmp_path / "a.parquet"),
        ("predict", tmp_path / "brought", small_run.images, "--nearest", 1, "--out", tmp_path / "a.npz"),
        ("search", small_run.images, "--query", "red", "--model", tmp_path / "brought"),
    ):
        assert "Name a folder that holds it with --data-dir FOLDER" in run(*command, "--quiet", code=2).err
    assert len(images_of_run(read_run(tmp_path / "brought"), tfds_dir)) == 12
    assert "data_dir" not in repeated(record["options"])
