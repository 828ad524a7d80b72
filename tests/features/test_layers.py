"""Several layers in one pass, each with its own store."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from helpers import wait_for_tick, write_targets

from pipeline.core.model_files import read_card
from pipeline.data.sources import find_images
from pipeline.features.extraction import extract_features
from pipeline.features.extractor import Extractor, extractors_for
from pipeline.features.options import ExtractionOptions
from pipeline.features.projection import Projection
from pipeline.features.weights import weights_from

WEIGHTS = weights_from("random:0")


@pytest.fixture
def options(fresh_cache, folder: Path) -> ExtractionOptions:
    wait_for_tick(folder)
    return ExtractionOptions(engine="mnn", batch_size=4, workers=2, cache=fresh_cache("cache"), progress=False)


def computed(layers: str, folder: Path, options: ExtractionOptions) -> dict[str, int]:
    features = extract_features(find_images(folder), extractors_for(WEIGHTS, layers), options)
    return {layer.extractor.layer: layer.computed for layer in features.layers}


def test_a_layer_added_later_is_computed_alone(folder: Path, options: ExtractionOptions) -> None:
    assert computed("block5_pool", folder, options) == {"block5_pool": 6}
    assert computed("block5_conv3,block5_pool", folder, options) == {"block5_conv3": 6, "block5_pool": 0}
    assert computed("block5_pool,block5_conv3", folder, options) == {"block5_pool": 0, "block5_conv3": 0}


def test_a_new_image_is_computed_for_all_layers(folder: Path, options: ExtractionOptions) -> None:
    (folder / "red" / "2.png").rename(folder.parent / "2.png")
    computed("block5_pool,block5_conv3", folder, options)
    (folder.parent / "2.png").rename(folder / "red" / "2.png")
    assert computed("block5_pool,block5_conv3", folder, options) == {"block5_pool": 1, "block5_conv3": 1}


def test_a_layer_is_the_same_alone_and_with_others(folder: Path, options: ExtractionOptions, fresh_cache) -> None:
    images = find_images(folder)
    together = extract_features(images, extractors_for(WEIGHTS, "block5_conv3,block5_pool"), options)
    assert together.vectors().shape == (6, 1024)
    for layer, part in zip(("block5_conv3", "block5_pool"), together.by_layer(), strict=True):
        alone = extract_features(images, Extractor(WEIGHTS, layer), replace(options, cache=fresh_cache(layer)))
        np.testing.assert_allclose(part[:], alone.vectors(), rtol=1e-4, atol=1e-4)


def test_concatenated_layers_have_a_common_scale(folder: Path, options: ExtractionOptions) -> None:
    features = extract_features(find_images(folder), extractors_for(WEIGHTS, "block5_conv3,block5_pool"), options)
    rows = np.array([0, 2, 3, 5])
    scaled = features.scaled_by(rows).stored()
    first, second = scaled[rows][:, :512], scaled[rows][:, 512:]
    assert first.var(axis=0).mean() == pytest.approx(1, rel=1e-4)
    assert second.var(axis=0).mean() == pytest.approx(1, rel=1e-4)
    assert np.array_equal(scaled.subset(rows)[:], scaled[rows])
    assert scaled.shape == (6, 1024)


def test_a_flat_layer_warns_about_its_size(
    folder: Path, options: ExtractionOptions, caplog: pytest.LogCaptureFixture
) -> None:
    features = extract_features(find_images(folder), Extractor(WEIGHTS, "block5_pool", pool="flat"), options)
    assert "block5_pool take 0.1 MB an image" in caplog.text
    by_mean = extract_features(find_images(folder), Extractor(WEIGHTS, "block5_pool"), options).vectors()
    np.testing.assert_allclose(features.vectors().reshape(6, 49, 512).mean(axis=1), by_mean, rtol=1e-4, atol=1e-4)


def test_projection_applies_to_the_features_of_the_layer(folder: Path, options: ExtractionOptions) -> None:
    whole = extract_features(find_images(folder), Extractor(WEIGHTS, "block5_pool"), options).vectors()
    found = extract_features(find_images(folder), Extractor(WEIGHTS, "block5_pool", project="64:5"), options).vectors()
    np.testing.assert_allclose(found, Projection(64, 5)(whole), rtol=1e-3, atol=1e-3)


LAYERS = ("--weights", "random:0", "--layer", "block5_pool,block5_conv3", "--quiet")


def test_extract_reports_each_layer(run, folder: Path, tmp_path: Path) -> None:
    npz, parquet = tmp_path / "v.npz", tmp_path / "v.parquet"
    document = run("extract", folder, *LAYERS, "--json", "--out", npz).json
    run("extract", folder, *LAYERS, "--out", parquet)
    assert [(layer["layer"], layer["dim"]) for layer in document["layers"]] == [
        ("block5_pool", 512),
        ("block5_conv3", 512),
    ]
    assert len({layer["store"] for layer in document["layers"]}) == 2
    assert (document["dim"], document["store"]) == (512, document["layers"][0]["store"])
    with np.load(npz) as arrays:
        assert sorted(arrays) == ["block5_conv3", "block5_pool", "paths"]
        table = pyarrow.parquet.read_table(parquet)
        assert table.column_names == ["path", "block5_pool", "block5_conv3"]
        for name in ("block5_pool", "block5_conv3"):
            assert np.array_equal(np.stack(table[name].to_numpy()), arrays[name])
    assert (
        "a .npz, .parquet, .h5 or .mat file" in run("extract", folder, *LAYERS, "--out", tmp_path / "v.npy", code=2).err
    )


def test_train_on_concatenated_layers(run, folder: Path, tmp_path: Path) -> None:
    targets = write_targets(tmp_path, "red", "blue")
    network = ("--epochs", 2, "--api", "functional", "--models", tmp_path / "models", "--json")
    trained = run("train", folder, "--targets", targets, *LAYERS, *network).json
    model = Path(trained["run"]) / "functional.keras"
    card = read_card(model)
    assert (card.extractor["layer"], card.feature_dim, len(card.scales)) == ("block5_pool,block5_conv3", 1024, 2)
    evaluated = run("evaluate", trained["run"], "--json", "--quiet").json
    cosine = trained["models"]["functional"]["validation_cosine"]
    assert evaluated["models"]["functional"]["cosine"]["mean"] == pytest.approx(cosine, abs=1e-5)
    refused = run(
        "evaluate", model, "--images", folder, "--targets", targets, "--layer", "block5_pool", "--quiet", code=2
    ).err
    assert "layer: trained on 'block5_pool,block5_conv3', given 'block5_pool'" in refused
