"""The estimators follow scikit-learn's conventions and work in its tools on real images."""

import pickle
from collections.abc import Callable
from pathlib import Path

import joblib
import numpy as np
import pytest
import sklearn
from helpers import ROOT, SMALL, are_close, make_image
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import SkipTestWarning
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_predict, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.utils import estimator_checks

from pipeline import BlendDecoder, KerasDecoder, PipelineError, RequestError, VGG16Features, load_decoder
from pipeline.core.runs import read_run

IMAGES = ROOT / "images"
SUBJECTS = ("brick", "cat", "china")
EXPECTED_FAILURES = {
    "check_sample_weight_equivalence_on_dense_data": "a row that is there twice changes the random batches",
}
SKIPPED = {
    "check_array_api_input": "runs only where SCIPY_ARRAY_API is set before SciPy is imported",
    "check_sample_weights_pandas_series": "needs pandas",
}


@pytest.fixture
def features(home: Path) -> VGG16Features:
    """Features of the narrow network, in the session's cache."""
    return VGG16Features(SMALL[1], SMALL[3], workers=1, cache=home / ".cache" / "image-vectors")


@pytest.fixture
def stored(features: VGG16Features) -> VGG16Features:
    """The same, but unable to compute: a batch of this size does not fit into memory."""
    return clone(features).set_params(batch_size=10**12)


@pytest.fixture(scope="module")
def paths() -> list[str]:
    """27 tiles of three photographs."""
    return [str(file) for subject in SUBJECTS for file in sorted((IMAGES / subject).glob("*.jpg"))]


@pytest.fixture(scope="module")
def embeddings(paths: list[str]) -> np.ndarray:
    """One embedding per photograph."""
    rows = np.random.default_rng(0).normal(size=(len(SUBJECTS), 5))
    return np.array([rows[SUBJECTS.index(Path(path).parent.name)] for path in paths])


def decoder(**options: object) -> KerasDecoder:
    return KerasDecoder(**{"hidden": (8,), "epochs": 20, "weight_decay": 0.0, "random_state": 0} | options)


@pytest.mark.slow
def test_the_decoder_passes_scikit_learns_checks() -> None:
    # It trains 80 times, mostly compiling, so the smallest network is used.
    estimator = decoder(hidden=(), optimizer="sgd", epochs=30, learning_rate=0.05)
    results = estimator_checks.check_estimator(
        estimator, on_fail=None, on_skip=None, expected_failed_checks=EXPECTED_FAILURES
    )
    assert len(results) > 50
    assert [(each["check_name"], each["exception"]) for each in results if each["status"] == "failed"] == []
    assert {each["check_name"] for each in results if each["status"] == "skipped"} <= set(SKIPPED)


def test_the_blend_passes_scikit_learns_checks() -> None:
    blend = BlendDecoder(weight_decays=(), ramps=8)
    results = estimator_checks.check_estimator(blend, on_fail=None, on_skip=None)
    assert len(results) > 50
    assert [(each["check_name"], each["exception"]) for each in results if each["status"] == "failed"] == []
    assert {each["check_name"] for each in results if each["status"] == "skipped"} <= set(SKIPPED)


@pytest.mark.slow
def test_the_blend_is_the_decoder_of_the_command(run, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    labels, centres = np.arange(60) % 6, random.normal(size=(6, 12))
    x = (centres[labels] + random.normal(size=(60, 12)) / 2).astype(np.float32)
    y = (centres[labels] @ random.normal(size=(12, 5)) + random.normal(size=(60, 5)) / 5).astype(np.float32)
    names = np.array([f"{row:02}.png" for row in range(60)])
    np.savez(tmp_path / "vectors.npz", paths=names, features=x, label=labels.astype(str))
    np.save(tmp_path / "targets.npy", y)
    options = ("--targets", tmp_path / "targets.npy", "--models", tmp_path / "models", "--seed", 3, "--quiet", "--json")
    result = run("train", "--features", tmp_path / "vectors.npz", *options).json
    train = np.isin(names, list(read_run(Path(result["run"])).split.train))
    assert train.sum() == result["train"] < 60
    for api in ("functional", "sequential"):
        blend = BlendDecoder(api=api, random_state=3).fit(x[train], y[train])
        saved = load_decoder(Path(result["models"][api]["path"]))
        assert all(map(np.array_equal, blend.model_.get_weights(), saved.get_weights()))
    assert blend.shares_ == result["shares"]
    assert blend.score(x[~train], y[~train]) == pytest.approx(result["models"]["functional"]["validation_cosine"])


def test_groups_of_a_blend_stay_in_one_fold() -> None:
    """Copies of images in other folds show a target that is noise; as groups they do not."""
    random = np.random.default_rng(1)
    x, y, groups = random.normal(size=(30, 40)), random.normal(size=(30, 4)), np.repeat(np.arange(30), 4)
    x = x[groups] + random.normal(size=(120, 40)) / 100
    blend = BlendDecoder(weight_decays=(), ramps=32)
    apart = clone(blend).fit(x, y[groups])
    together = clone(blend).fit(x, y[groups], groups=[f"object {group}" for group in groups])
    assert sum(apart.shares_.values()) > 0.5
    assert sum(together.shares_.values()) < 0.2
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        blend.fit(x, y[groups], groups=groups[:-1])
    with pytest.raises(RequestError, match=r"groups must have one label per image, shape \(N,\), not \(120, 1\)"):
        blend.fit(x, y[groups], groups=groups[:, None])


def test_groups_reach_a_blend_by_metadata_routing() -> None:
    random = np.random.default_rng(2)
    groups = np.repeat(np.arange(12), 3)
    x, y = random.normal(size=(12, 6))[groups] + random.normal(size=(36, 6)) / 10, random.normal(size=(12, 3))[groups]
    blend, cv = BlendDecoder(weight_decays=(), ramps=8), GroupKFold(3)
    with sklearn.config_context(enable_metadata_routing=True):
        routed = clone(blend).set_fit_request(groups=True)
        scores = cross_val_score(routed, x, y, params={"groups": groups}, cv=cv)
        search = GridSearchCV(routed, {"ramps": [8, 16]}, cv=cv).fit(x, y, groups=groups)
    by_hand = [
        clone(blend).fit(x[train], y[train], groups=groups[train]).score(x[test], y[test])
        for train, test in cv.split(x, y, groups)
    ]
    assert scores.tolist() == by_hand
    assert search.cv_results_["mean_test_score"][0] == np.mean(by_hand)
    assert scores.tolist() != cross_val_score(blend, x, y, groups=groups, cv=cv).tolist()


def test_the_transformer_passes_the_checks_without_numeric_tables() -> None:
    with pytest.warns(
        SkipTestWarning, match="requires input"
    ):  # its input is images, so the checks are called one by one:
        estimator_checks.check_estimator(VGG16Features())
    for name in (
        *("estimator_cloneable", "estimator_tags_renamed", "valid_tag_types", "estimator_repr", "mixin_order"),
        *("no_attributes_set_in_init", "do_not_raise_errors_in_init_or_set_params", "parameters_default_constructible"),
        *("get_params_invariance", "set_params"),
    ):
        getattr(estimator_checks, f"check_{name}")("VGG16Features", VGG16Features())


def test_stored_features_are_not_recomputed(features: VGG16Features, stored: VGG16Features, paths: list[str]) -> None:
    found = features.fit_transform(paths)
    assert (found.shape, found.dtype) == ((27, 512), np.float32)
    assert np.array_equal(stored.transform(paths[::-1]), found[::-1])
    assert np.array_equal(stored.transform(IMAGES / "cat"), found[9:18])
    arrays = np.stack([np.asarray(make_image(seed)) for seed in range(100, 103)])
    of_arrays = features.transform(arrays)
    assert np.array_equal(stored.transform(list(arrays[::-1])), of_arrays[::-1])
    with pytest.raises(PipelineError, match="The system has no"):
        stored.transform(arrays + np.uint8(1))


def test_arrays_and_pil_images_give_the_features_of_their_file(features: VGG16Features, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    transparent = make_image(6)
    transparent.putalpha(100)
    make_image(4).save(tmp_path / "plain.png")
    make_image(5).save(tmp_path / "turned.png", exif=exif)
    transparent.save(tmp_path / "transparent.png")
    files = [tmp_path / f"{name}.png" for name in ("plain", "turned", "transparent")]
    opened = [Image.open(file) for file in files]
    expected = features.transform(files)
    assert are_close(features.transform(opened), expected)
    by_keras = clone(features).set_params(resize="keras")
    assert are_close(by_keras.transform(opened), by_keras.transform(files))
    assert (opened[1].size, opened[2].mode) == ((60, 40), "RGBA")  # the inputs are unchanged
    assert are_close(features.transform(np.asarray(opened[0])[None]), expected[:1])


def test_features_have_names_and_can_be_a_data_frame(features: VGG16Features, paths: list[str]) -> None:
    pandas = pytest.importorskip("pandas")
    names = features.get_feature_names_out()
    assert (names[0], names[-1], len(names)) == ("block5_pool_0", "block5_pool_511", 512)
    two = VGG16Features("random:0", "block5_pool,fc2").get_feature_names_out()
    assert (two[511], two[512], len(two)) == ("block5_pool_511", "fc2_0", 512 + 4096)
    frame = clone(features).set_output(transform="pandas").transform(pandas.DataFrame({"path": paths}))
    assert frame.columns.tolist() == names.tolist()
    assert np.array_equal(frame.to_numpy(), features.transform(pandas.Series(paths)))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 8, 8, 3), np.float32), r"image 0 is an array of shape \(8, 8, 3\), float32; .*uint8"),
        (np.zeros((2, 8, 8), np.uint8), r"shape \(8, 8\), uint8"),
        ([1, 2], "not int"),
        ([], "no images"),
        ("gone", "gone does not exist"),
        (Image.new("RGB", (8, 8)), r"X is one image; for a list of one, write \[image\]"),
        (np.zeros((8, 8, 3), np.uint8), "X is one image"),
        (7, "X must hold images; it is a int"),
        (None, "X must hold images; it is a NoneType"),
        (["gone.jpg", str(IMAGES / "cat" / "0-0.jpg")], r"1 of 2 images cannot be read.*gone\.jpg"),
    ],
)
def test_other_inputs_are_refused(features: VGG16Features, images: object, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        features.transform(images)


def test_a_pipeline_learns_and_can_be_cloned_and_pickled(
    features: VGG16Features, paths: list[str], embeddings: np.ndarray
) -> None:
    import keras

    model = make_pipeline(features, decoder(epochs=80)).fit(paths, embeddings)
    predicted = model.predict(paths)
    assert predicted.shape == embeddings.shape
    assert model.score(paths, embeddings) > 0.8
    assert np.array_equal(pickle.loads(pickle.dumps(model)).predict(paths), predicted)
    again = clone(model)
    assert not hasattr(again[-1], "model_")
    assert np.array_equal(again.fit(paths, embeddings).predict(paths), predicted)
    other = clone(model).set_params(kerasdecoder__api="sequential").fit(paths, embeddings)
    assert np.array_equal(other.predict(paths), predicted)
    assert isinstance(other[-1].model_, keras.Sequential)
    loss = model[-1].history_["loss"]
    assert len(loss) == 80
    assert loss[-1] < loss[0]
    by_keras = model[-1].model_.predict(features.transform(paths), verbose=0)
    assert np.allclose(by_keras, predicted, atol=1e-4)


def test_grid_search_chooses_by_cosine_or_r2(features: VGG16Features, paths: list[str], embeddings: np.ndarray) -> None:
    model = Pipeline([("features", features), ("decoder", decoder())])
    rows = slice(None, None, 3)
    grid, folds = {"decoder__epochs": [1, 20]}, [(np.arange(9), np.arange(9))]
    search = GridSearchCV(model, grid, cv=folds, refit=False).fit(paths[rows], embeddings[rows])
    assert search.best_params_ == {"decoder__epochs": 20}
    [cosine] = cross_val_score(model, paths[rows], embeddings[rows], cv=folds)
    [r2] = cross_val_score(model, paths[rows], embeddings[rows], cv=folds, scoring="r2")
    assert cosine == search.best_score_
    assert r2 < cosine


@pytest.mark.slow
def test_held_out_groups_are_predicted_in_parallel(
    features: VGG16Features, paths: list[str], embeddings: np.ndarray, fresh_cache: Callable[[str], Path]
) -> None:
    groups = [Path(path).parent.name for path in paths]
    model = make_pipeline(clone(features).set_params(cache=fresh_cache("loky")), decoder())
    with joblib.parallel_backend("loky", n_jobs=2):
        found = cross_val_predict(model, paths, embeddings, groups=groups, cv=GroupKFold(3))
    kept = [row for row, group in enumerate(groups) if group != "cat"]
    without_cats = model.fit([paths[row] for row in kept], embeddings[kept])
    assert np.allclose(found[9:18], without_cats.predict(paths[9:18]), atol=1e-3)


def test_sample_weights_change_the_loss() -> None:
    x = np.tile(np.random.default_rng(0).normal(size=(20, 6)), (2, 1))
    y = np.concatenate([np.ones((20, 2)), -np.ones((20, 2))])  # the same features: the weights decide
    for weights, expected in (([3] * 20 + [1] * 20, 0.5), ([1] * 20 + [3] * 20, -0.5)):
        model = decoder(epochs=100, learning_rate=0.01).fit(x, y, sample_weight=weights)
        assert model.predict(x).mean() == pytest.approx(expected, abs=0.1)
    half = [1] * 20 + [0] * 20
    only = decoder().fit(x, y, sample_weight=half)
    assert np.allclose(only.predict(x), decoder().fit(x[:20], y[:20]).predict(x), atol=1e-5)
    assert only.score(x, y) == pytest.approx(0)
    assert only.score(x, y, sample_weight=half) == pytest.approx(1)
    with pytest.raises(ValueError, match="weight"):
        decoder().fit(x, y, sample_weight=np.zeros(40))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"api": "subclassed"}, "'api' parameter of KerasDecoder must be a str among .*Got 'subclassed'"),
        ({"output_activation": "nonsense"}, "output_activation 'nonsense' is unknown"),
        ({"optimizer": "nonsense"}, "optimizer .nonsense. is unknown"),
        ({"epochs": 0}, "'epochs' parameter of KerasDecoder must be an int in the range"),
    ],
)
def test_fit_refuses_wrong_parameters(options: dict, message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        decoder(**options).fit(np.eye(6), np.eye(6))


def test_a_table_of_several_columns_is_refused(features: VGG16Features, paths: list[str]) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"path": paths, "label": 0})
    for columns in (["path", "label"], []):
        with pytest.raises(RequestError, match=f"X is a table of {len(columns)} columns"):
            features.transform(frame[columns])


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (KerasDecoder(schedule="cosin"), "'schedule' parameter of KerasDecoder must be .*Got 'cosin'"),
        (KerasDecoder(epochs=0), "'epochs'"),
        (KerasDecoder(epochs=1.5), "'epochs'"),
        (KerasDecoder(batch_size="8"), "'batch_size'"),
        (KerasDecoder(learning_rate=float("nan")), "'learning_rate'"),
        (KerasDecoder(weight_decay=-1), "'weight_decay'"),
        (KerasDecoder(activation=None), "'activation'"),
        (KerasDecoder(hidden="64"), "'hidden'|hidden must be"),
        (KerasDecoder(hidden=(4.5,)), "hidden must be a number of units or a sequence of them"),
        (KerasDecoder(hidden=0), "'hidden'"),
        (KerasDecoder(hidden=[[4]]), "hidden must be"),
        (KerasDecoder(random_state="0"), "'random_state'"),
        (BlendDecoder(weight_decays=(10, -1)), "weight_decays must be a sequence of numbers of at least 0"),
        (BlendDecoder(weight_decays=(float("nan"),)), "weight_decays must be"),
        (BlendDecoder(weight_decays=["10"]), "weight_decays must be"),
        (BlendDecoder(weight_decays=[[10.0]]), "weight_decays must be"),
        (BlendDecoder(weight_decays=10), "'weight_decays' parameter of BlendDecoder must be an array-like"),
        (BlendDecoder(ramps=0), "'ramps'"),
        (BlendDecoder(random_state=-1), "'random_state'"),
        (VGG16Features("random:0", engine="mn"), "'engine' parameter of VGG16Features must be"),
        (VGG16Features("random:0", batch_size=0), "'batch_size'"),
        (VGG16Features("random:0", workers=2.0), "'workers'"),
        (VGG16Features(0), "'weights'"),
    ],
)
def test_parameters_are_checked_before_any_work(estimator: object, message: str) -> None:
    transforms = isinstance(estimator, VGG16Features)
    call, arguments = (
        (estimator.transform, (["gone.png"],)) if transforms else (estimator.fit, (np.zeros((4, 3)), np.zeros((4, 2))))
    )
    with pytest.raises(RequestError, match=message):
        call(*arguments)


@pytest.mark.parametrize("hidden", [4, np.int64(4), (np.int32(4),), np.array([4]), [4]])
def test_numpy_integers_are_accepted(hidden: object) -> None:
    rng = np.random.default_rng(0)
    decoder = KerasDecoder(hidden=hidden, epochs=np.int64(1), batch_size=np.int32(8), random_state=0)
    decoder.fit(rng.random((12, 5)), rng.normal(size=(12, 3)))
    assert [layer.units for layer in decoder.model_.layers if hasattr(layer, "units")] == [4, 3]
    assert decoder.hidden is hidden


def test_the_unit_of_the_targets_has_no_effect() -> None:
    random = np.random.default_rng(0)
    x = np.maximum(random.normal(size=(60, 12)), 0).astype(np.float32)
    y = x[:, :4] @ random.normal(size=(4, 5))
    scores = [
        KerasDecoder(hidden=(16,), epochs=20, api=api, random_state=0).fit(x[:45], scale * y[:45]).score(x[45:], y[45:])
        for scale, api in ((1, "functional"), (1e-3, "sequential"), (1e2, "functional"))
    ]
    np.testing.assert_allclose(scores, scores[0], atol=5e-3)


def test_features_have_the_network_and_the_weights_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGE_VECTORS_WEIGHTS", "random:3")
    [extractor] = VGG16Features(network="vgg19", preprocess="torch")._extractors()
    weights = extractor.weights
    assert (weights.name, weights.network.name, weights.preprocess) == ("random:3", "vgg19", "torch")
    [extractor] = VGG16Features("random:0")._extractors()
    assert (extractor.weights.name, extractor.weights.network.name) == ("random:0", "vgg16")
