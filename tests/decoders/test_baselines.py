from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from pipeline.core.errors import PipelineError
from pipeline.core.model_files import ModelCard, read_card
from pipeline.core.vectors import cosines
from pipeline.decoders.baselines import FILE, Baselines

RANDOM = np.random.default_rng(0)
LABELS = np.arange(60) % 3
TARGETS = RANDOM.normal(size=(3, 5)).astype(np.float32)
Y = TARGETS[LABELS]
X = (RANDOM.normal(size=(60, 20)) + 2 * np.eye(3, 20)[LABELS]).astype(np.float32)
CARD = ModelCard("random:0", "f", {"layer": "fc2", "precision": "float32"}, 20, 5, "linear")


@pytest.fixture(scope="module")
def fitted() -> Baselines:
    return Baselines.fit(X[:45], Y[:45], np.arange(45))


def test_mean_and_deviation_come_from_the_training_targets(fitted: Baselines) -> None:
    np.testing.assert_allclose(fitted.mean, Y[:45].mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(fitted.deviation, Y[:45].std(axis=0), rtol=1e-5)
    assert (fitted.predict(X[45:])["mean"] == fitted.mean).all()


def test_ridge_and_conse_beat_the_mean(fitted: Baselines) -> None:
    scores = {name: cosines(predicted, Y[45:]).mean() for name, predicted in fitted.predict(X[45:]).items()}
    assert scores["mean"] < scores["ridge"]
    assert scores["mean"] < scores["conse"]


@pytest.mark.parametrize("labels", [2, 3])
def test_conse_is_logistic_regression_times_label_targets(labels: int) -> None:
    rows = labels > LABELS
    model = Baselines.fit(X[rows], Y[rows], np.arange(rows.sum())).models["conse"]
    targets, label = np.unique(Y[rows], axis=0, return_inverse=True)
    scale = (X[rows] - X[rows].mean(axis=0)) / X[rows].var(axis=0).mean() ** 0.5
    predicted = np.asarray(model(X[rows]))
    candidates = []
    for strength in (0.1, 1, 10):
        regression = LogisticRegression(C=strength / 20, max_iter=200).fit(scale, label.ravel())
        candidates.append(regression.predict_proba(scale) @ targets)
    assert min(np.abs(candidate - predicted).max() for candidate in candidates) < 1e-2


def test_conse_can_choose_its_strength_with_single_image_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [*np.flatnonzero(LABELS < 2), np.flatnonzero(LABELS == 2)[0]]
    strengths = []

    def classifier(z: np.ndarray, label: np.ndarray, strength: float) -> LogisticRegression:
        strengths.append(strength)
        return LogisticRegression(C=strength, max_iter=200).fit(z, label)

    monkeypatch.setattr("pipeline.decoders.baselines._fit_classifier", classifier)
    Baselines.fit(X[rows], Y[rows], np.arange(len(rows)))
    assert len(strengths) == 3 * 5 + 1
    assert max(strengths) <= 10 / X.shape[1]


def test_many_labels_with_few_images_give_no_warning() -> None:
    targets = np.random.default_rng(1).normal(size=(16, 5)).astype(np.float32)
    features = np.random.default_rng(2).normal(size=(32, 8)).astype(np.float32)
    fitted = Baselines.fit(features, targets[np.arange(32) % 16], np.arange(32))
    assert set(fitted.models) == {"ridge", "conse"}


def test_the_strength_of_conse_is_chosen_on_other_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each image occurs twice; folds that separate the pairs would choose interpolation."""
    random = np.random.default_rng(5)
    labels = np.arange(40) % 4
    x = np.repeat(random.normal(size=(40, 60)) + 0.8 * np.eye(4, 60)[labels], 2, 0).astype(np.float32)
    y, units = np.repeat(np.eye(4, dtype=np.float32)[labels], 2, 0), np.repeat(np.arange(40), 2)
    strengths = []

    def classifier(z: np.ndarray, label: np.ndarray, strength: float) -> LogisticRegression:
        strengths.append(strength)
        return LogisticRegression(C=strength, max_iter=200).fit(z, label)

    monkeypatch.setattr("pipeline.decoders.baselines._fit_classifier", classifier)
    chosen = []
    for groups in (units, np.arange(80)):
        Baselines.fit(x, y, groups)
        chosen.append(strengths[-1])
    assert chosen[0] < chosen[1]


def test_small_and_flat_data_have_finite_baselines() -> None:
    random = np.random.default_rng(7)
    for count in range(1, 9):
        x = random.normal(size=(count, 5)).astype(np.float32)
        y = np.repeat(random.normal(size=(-(-count // 2), 2)), 2, 0)[:count].astype(np.float32)
        cases = [(x, y), (x * 0 + np.float32(0.3), y), (x, y * 0), (x * 1e4, y * 1e-4), (x[[0] * count], y)]
        for features, targets in cases:
            baselines = Baselines.fit(features.astype(np.float32), targets.astype(np.float32), np.arange(count))
            assert all(np.isfinite(each).all() for each in baselines.predict(x).values())


def test_there_is_no_conse_for_targets_without_labels() -> None:
    assert set(Baselines.fit(X, X[:, :5].copy(), np.arange(60)).models) == {"ridge"}


def test_labels_and_groups_of_the_training_images_are_stored(fitted: Baselines, tmp_path: Path) -> None:
    for number, (groups, known) in enumerate(((None, set()), (["a", "b"], {"a", "b"}))):
        folder = tmp_path / str(number)
        folder.mkdir()
        fitted.with_labels(["cat", "", "chien \N{DOG FACE}"], groups).save(folder, CARD)
        loaded = Baselines.load(folder)
        assert (loaded.labels, loaded.groups) == ({"cat", "chien \N{DOG FACE}"}, known)
    unnamed = tmp_path / "unnamed"
    unnamed.mkdir()
    fitted.save(unnamed, CARD)
    assert Baselines.load(unnamed).labels is Baselines.load(unnamed).groups is None


def test_baselines_are_saved_as_plain_keras_models(fitted: Baselines, tmp_path: Path) -> None:
    fitted.save(tmp_path, replace(CARD, output_activation="sigmoid"))  # of the decoder, not of the baselines
    assert {file.name for file in tmp_path.iterdir()} == {"ridge.keras", "conse.keras", FILE}
    for name in ("ridge", "conse"):
        assert read_card(tmp_path / f"{name}.keras") == CARD
    loaded = Baselines.load(tmp_path)
    assert loaded
    for name, predicted in fitted.predict(X).items():
        np.testing.assert_allclose(loaded.predict(X)[name], predicted, atol=1e-5)


def test_a_damaged_file_is_an_error_and_a_missing_file_is_none(tmp_path: Path) -> None:
    assert Baselines.load(tmp_path) is None
    (tmp_path / FILE).write_bytes(b"damaged")
    with pytest.raises(PipelineError, match=r"baselines\.npz is damaged .*retrain"):
        Baselines.load(tmp_path)


def test_a_single_image_has_baselines() -> None:
    baselines = Baselines.fit(X[:1], Y[:1], np.arange(1))
    np.testing.assert_allclose(baselines.predict(X[:2])["ridge"], Y[[0, 0]], atol=1e-6)
