"""`export` to tables: their content, and the programs that open them."""

import csv
import io
import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import SMALL, load_npz, make_images, wait_until, write_targets
from PIL import Image

from pipeline.core.vectors import cosines, unit

LABELS = ("blue", "red")


@dataclass(frozen=True)
class TwoLabels:
    """A run on two labels with four images each."""

    images: Path
    folder: Path
    targets: dict[str, np.ndarray]


@pytest.fixture(scope="module")
def two_labels(run, tmp_path_factory: pytest.TempPathFactory) -> TwoLabels:
    folder = tmp_path_factory.mktemp("labels")
    for number, label in enumerate(LABELS):
        make_images(folder / "images" / label, range(4 * number, 4 * number + 4))
    targets = write_targets(folder, *LABELS)
    options = ("--epochs", 5, "--models", folder / "models", "--api", "functional", "--json")
    trained = run("train", folder / "images", "--targets", targets, *SMALL, *options)
    rows = {label: np.array(values, np.float32) for label, *values in csv.reader(targets.read_text().splitlines())}
    return TwoLabels(folder / "images", Path(trained.json["run"]), rows)


def export_table(run, trained: TwoLabels, out: Path, *options: object) -> dict[str, list]:
    result = run("export", trained.folder, "--format", "parquet", "--out", out, "--json", "--quiet", *options).json
    rows = pq.read_table(out).to_pydict()
    assert result["rows"] == len(rows["path"])
    assert result["columns"] == {"vector": 512, "prediction": 3}
    return rows


def test_a_run_is_exported_as_a_table(run, two_labels: TwoLabels, tmp_path: Path) -> None:
    rows = export_table(run, two_labels, tmp_path / "run.parquet")
    run("extract", two_labels.images, *SMALL, "--out", tmp_path / "vectors.npz")
    run("predict", two_labels.folder, two_labels.images, "--out", tmp_path / "predictions.npy", "--quiet")
    vectors, predictions = load_npz(tmp_path / "vectors.npz"), np.load(tmp_path / "predictions.npy")
    assert rows["path"] == vectors["paths"].tolist()
    assert rows["label"] == [path.partition("/")[0] for path in rows["path"]]
    split = json.loads((two_labels.folder / "run.json").read_text())["split"]
    sides = dict.fromkeys(split["train"], "train") | dict.fromkeys(split["validation"], "held-out")
    assert rows["split"] == [sides[path] for path in rows["path"]]
    assert set(rows["split"]) == {"train", "held-out"}
    assert np.array_equal(rows["vector"], vectors["features"])
    assert np.allclose(rows["prediction"], predictions, atol=1e-6)
    targets = np.stack([two_labels.targets[label] for label in rows["label"]])
    near = cosines(predictions, targets)
    assert np.allclose(rows["cosine"], near, atol=1e-6)
    others = cosines(predictions, np.stack([two_labels.targets[LABELS[label == "blue"]] for label in rows["label"]]))
    assert rows["rank"] == (1 + (others > near)).tolist()


def test_positions_are_those_of_the_map(run, two_labels: TwoLabels, tmp_path: Path) -> None:
    rows = export_table(run, two_labels, tmp_path / "run.parquet")
    points = unit(np.concatenate([rows["prediction"], list(two_labels.targets.values())]))
    centred = points - points.mean(axis=0)
    axes = np.linalg.svd(centred)[2][:2]
    found, expected = np.array([rows["x"], rows["y"]]).T, (centred @ axes.T)[:8]
    assert np.allclose(np.abs(found), np.abs(expected), atol=1e-4)


def test_images_are_previews_that_pillow_can_open(run, two_labels: TwoLabels, tmp_path: Path) -> None:
    out = tmp_path / "run.parquet"
    rows = export_table(run, two_labels, out, "--api", "ridge")
    kind = pq.read_schema(out)
    assert kind.field("image").type == pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    assert kind.field("vector").type == pa.list_(pa.float32(), 512)
    assert kind.field("prediction").type == pa.list_(pa.float32(), 3)
    for path, image in zip(rows["path"], rows["image"], strict=True):
        assert image["path"] == path
        with Image.open(io.BytesIO(image["bytes"])) as opened:
            assert (opened.format, opened.size) == ("JPEG", (60, 40))


def test_images_added_after_the_run_have_no_split(
    run, two_labels: TwoLabels, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    new = two_labels.images / "blue" / "new.png"
    request.addfinalizer(new.unlink)
    shutil.copy(make_images(tmp_path / "new", [99]) / "0099.png", new)
    rows = export_table(run, two_labels, tmp_path / "run.parquet")
    assert [path for path, side in zip(rows["path"], rows["split"], strict=True) if side is None] == ["blue/new.png"]


@pytest.fixture
def atlas(run, two_labels: TwoLabels, tmp_path: Path) -> Iterator[str]:
    """The address of an embedding-atlas server with the run's table."""
    program = shutil.which("embedding-atlas")
    if not program:
        pytest.skip("embedding-atlas is not installed (pip install embedding-atlas, with torch more than 1 GB)")
    export_table(run, two_labels, tmp_path / "run.parquet")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    options = ("--x", "x", "--y", "y", "--image", "image", "--port", str(port), "--no-auto-port")
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([program, tmp_path / "run.parquet", *options], stdout=log, stderr=log)
    wait_until(lambda: _answers(port), process)
    yield f"http://localhost:{port}"
    process.kill()
    process.wait()


def _answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("localhost", port)) == 0


def test_embedding_atlas_opens_the_table(atlas: str, browser: Any) -> None:
    page = browser.new_page()
    page.goto(atlas)
    page.get_by_text("8 / 8 points").wait_for()
    page.get_by_text("blue/0000.png").first.wait_for()
    for column in ("path", "label", "split", "cosine", "rank", "x", "y"):
        assert page.get_by_text(column, exact=True).count()
    loaded = "[...document.images].filter(image => image.naturalWidth === 60).length"
    page.wait_for_function(f"{loaded} >= 8")
    page.close()


def test_wrong_requests_are_refused_and_leave_nothing(run, two_labels: TwoLabels, small_run, tmp_path: Path) -> None:
    alone = tmp_path / "alone.keras"
    alone.write_bytes(small_run.model.read_bytes())
    (tmp_path / "full.lance").mkdir()
    before = sorted(tmp_path.rglob("*"))
    table, lance = ("--format", "parquet", "--out"), ("--format", "lance", "--out")
    for arguments, message in [
        ((two_labels.folder, *table, tmp_path / "x.csv"), "must end in .parquet"),
        ((two_labels.folder, *table, tmp_path / "no" / "x.parquet"), "does not exist"),
        ((two_labels.folder, *table, tmp_path / "x.parquet", "--layer", "fc1"), "does not take --layer"),
        ((two_labels.folder, *table, tmp_path / "x.parquet", "--images", tmp_path), "does not take --images"),
        ((two_labels.folder, *table, tmp_path / "x.parquet", "--api", "sequential"), "no decoder 'sequential'"),
        ((two_labels.images, *table, tmp_path / "x.parquet"), "is not a run"),
        ((alone, *table, tmp_path / "x.parquet"), "no run next to"),
        ((two_labels.folder, *lance, tmp_path / "x.lance"), "--format lance takes IMAGES"),
        ((two_labels.images, *lance, tmp_path / "x.parquet"), "must end in .lance"),
        ((two_labels.images, *lance, tmp_path / "full.lance"), "exists; choose a new name"),
        ((two_labels.images, *lance, tmp_path / "no" / "x.lance"), "does not exist"),
        ((two_labels.images, *lance, tmp_path / "x.lance", "--api", "ridge"), "does not take --api"),
        ((tmp_path / "gone", *lance, tmp_path / "x.lance"), "gone"),
        ((two_labels.folder, "--format", "keras", "--out", tmp_path / "x.keras", "--pool", "max"), "not take --pool"),
    ]:
        finished = run("export", *arguments, "--quiet", code=2)
        assert message in finished.err, finished.err
        assert finished.out == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_lancedb_finds_an_image_by_its_own_vector(run, two_labels: TwoLabels, tmp_path: Path) -> None:
    import lancedb

    out = tmp_path / "images.lance"
    result = run("export", two_labels.images, "--format", "lance", "--out", out, *SMALL, "--json").json
    assert (result["rows"], result["columns"]) == (8, {"vector": 512})
    printed = run("export", two_labels.images, "--format", "lance", "--out", tmp_path / "again.lance", *SMALL).out
    assert printed.startswith("8 rows, with vector (512 numbers)\n0 computed, 8 cached, 0 failed\n")
    run("extract", two_labels.images, *SMALL, "--out", tmp_path / "vectors.npz")
    expected = load_npz(tmp_path / "vectors.npz")
    table = lancedb.connect(tmp_path).open_table("images")
    rows = table.to_arrow().to_pydict()
    assert rows["path"] == expected["paths"].tolist()
    assert rows["label"] == ["blue"] * 4 + ["red"] * 4
    assert np.array_equal(rows["vector"], expected["features"])
    for path, vector in zip(expected["paths"], expected["features"], strict=True):
        assert table.search(vector).distance_type("cosine").limit(1).to_list()[0]["path"] == path


def test_several_layers_have_one_column_each(run, two_labels: TwoLabels, tmp_path: Path) -> None:
    import lancedb

    options = ("--weights", "random:0", "--layer", "block5_pool,block3_conv1:pre", "--engine", "keras", "--quiet")
    out = tmp_path / "layers.lance"
    result = run("export", two_labels.images, "--format", "lance", "--out", out, *options, "--json").json
    assert result["columns"] == {"block5_pool": 512, "block3_conv1:pre": 256}
    run("extract", two_labels.images, *options, "--out", tmp_path / "layers.npz")
    expected = load_npz(tmp_path / "layers.npz")
    table = lancedb.connect(tmp_path).open_table("layers")
    for layer in result["columns"]:
        assert np.array_equal(table.to_arrow().to_pydict()[layer], expected[layer])
        found = table.search(expected[layer][3], vector_column_name=layer).limit(1).to_list()
        assert found[0]["path"] == expected["paths"][3]
