"""The scikit-learn estimators, by scikit-learn's own rules and inside its tools, on tiles of the sample."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import SkipTestWarning
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator

from pipeline import KerasDecoder, PipelineError, RequestError, VGG16Features

LABELS = ("cat", "coffee", "coins")
# One of the two checks of sample weights asks that a row of weight 2 be as good as the row twice.
EXPECTED_FAILURES = {
    "check_sample_weight_equivalence_on_dense_data": "a row that is there twice changes the random batches",
}


@pytest.fixture(scope="module")
def paths() -> list[Path]:
    return [file for label in LABELS for file in sorted((ROOT / "images" / label).glob("*.jpg"))[:3]]


@pytest.fixture(scope="module")
def groups(paths: list[Path]) -> list[str]:
    return [file.parent.name for file in paths]


@pytest.fixture(scope="module")
def embeddings(groups: list[str]) -> np.ndarray:
    of_label = dict(zip(LABELS, np.random.default_rng(0).normal(size=(len(LABELS), 4)), strict=True))
    return np.array([of_label[label] for label in groups])


@pytest.fixture
def features(home: Path) -> VGG16Features:
    """A transformer whose narrow network is converted already."""
    cache = home / ".cache" / "image-vectors"
    return VGG16Features(weights="random:0", layer="block5_pool", workers=1, cache=str(cache))


def decoder(**parameters: object) -> KerasDecoder:
    return KerasDecoder(**{"hidden": (8,), "epochs": 5, "weight_decay": 0.0, "random_state": 0} | parameters)


def test_the_decoder_obeys_scikit_learn() -> None:
    checked = check_estimator(
        decoder(hidden=(16,), epochs=15, learning_rate=0.01),
        expected_failed_checks=EXPECTED_FAILURES,
        on_fail=None,
        on_skip=None,
    )
    assert [(each["check_name"], each["exception"]) for each in checked if each["status"] == "failed"] == []
    skipped = {each["check_name"]: str(each["exception"]) for each in checked if each["status"] == "skipped"}
    assert set(skipped) <= {"check_sample_weights_pandas_series", "check_array_api_input"}, skipped  # optional packages


def test_the_transformer_obeys_scikit_learn() -> None:
    with pytest.warns(SkipTestWarning, match="requires input of type"):  # the other checks give it tables of numbers
        checked = check_estimator(VGG16Features(weights="random:0"), on_fail=None)
    assert {each["status"] for each in checked} == {"passed"}


def test_images_in_memory_have_the_features_of_their_files(features, paths: list[Path]) -> None:
    files = [file for file in paths[:2]]
    pixels = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
    expected = features.transform(files)
    assert expected.shape == (2, 512)
    assert np.allclose(features.transform(pixels), expected, atol=0.05 * np.abs(expected).max())
    assert np.array_equal(features.transform([Image.open(file) for file in files]), features.transform(pixels))
    assert np.array_equal(features.transform(files[::-1]), expected[::-1])
    assert len(features.transform(str(files[0].parent))) == 9


def test_a_second_call_computes_nothing(features, paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in paths[:2]])
    first = features.transform(pixels)

    def no_engine(*arguments: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr("pipeline.features.extraction.make_engine", no_engine)
    assert np.array_equal(features.transform(pixels.copy()), first)


def test_what_is_no_image_is_named(features, paths: list[Path], tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"Image 0 is an array \(3,\) of float64"):
        features.transform(np.zeros((2, 3)))
    with pytest.raises(RequestError, match="no images"):
        features.transform([])
    (tmp_path / "bad.jpg").write_bytes(b"bad")
    with pytest.raises(PipelineError, match=r"1 of 2 images cannot be read.*bad\.jpg"):
        features.transform([paths[0], tmp_path / "bad.jpg"])
    with pytest.raises(RequestError, match="api 'other' is unknown"):
        decoder(api="other").fit(np.eye(3), np.eye(3))


def test_pipeline_clone_and_pickle(features, paths: list[Path], embeddings: np.ndarray) -> None:
    import keras

    fitted = make_pipeline(features, decoder()).fit(paths, embeddings)
    again = clone(fitted).fit(paths, embeddings)
    restored = pickle.loads(pickle.dumps(fitted))
    predictions = fitted.predict(paths)
    assert predictions.shape == embeddings.shape
    assert np.array_equal(again.predict(paths), predictions)
    assert np.array_equal(restored.predict(paths), predictions)
    assert fitted.get_params()["kerasdecoder__epochs"] == 5
    assert isinstance(fitted[-1].model_, keras.Model)
    assert len(fitted[-1].history_["loss"]) == 5
    assert -1 <= fitted.score(paths, embeddings) <= 1


def test_grid_search_in_parallel(features, paths: list[Path], groups: list[str], embeddings: np.ndarray) -> None:
    grid = {"kerasdecoder__hidden": [(), (8,)]}
    search = GridSearchCV(make_pipeline(features, decoder()), grid, cv=GroupKFold(3), n_jobs=2, error_score="raise")
    search.fit(paths, embeddings, groups=groups)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.predict(paths[:2]).shape == (2, 4)


def test_cross_val_predict_with_groups(features, paths: list[Path], groups: list[str], embeddings: np.ndarray) -> None:
    model = make_pipeline(features, decoder())
    found = cross_val_predict(model, paths, embeddings, groups=groups, cv=GroupKFold(3))
    kept = [row for row, label in enumerate(groups) if label != "cat"]
    without_cats = model.fit([paths[row] for row in kept], embeddings[kept])
    assert np.allclose(found[:3], without_cats.predict(paths[:3]), atol=1e-5)


def test_weights_count(embeddings: np.ndarray) -> None:
    x = np.random.default_rng(1).normal(size=(len(embeddings), 6))
    weights = np.array([1.0] * 6 + [0.0] * 3)
    few = decoder().fit(x[:6], embeddings[:6], sample_weight=np.ones(6)).predict(x)
    assert np.allclose(decoder().fit(x, embeddings, sample_weight=weights).predict(x), few, atol=1e-6)
    assert np.allclose(decoder().fit(x[:6], embeddings[:6]).predict(x), few, atol=1e-4)


def test_pandas_output(features, paths: list[Path]) -> None:
    pytest.importorskip("pandas")
    table = features.set_output(transform="pandas").fit_transform(paths[:2])
    assert list(table.columns[:2]) == ["block5_pool_0", "block5_pool_1"]
    assert list(table.columns) == features.get_feature_names_out().tolist()
    assert table.shape == (2, 512)
