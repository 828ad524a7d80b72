from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import PipelineError
from pipeline.core.model_files import ModelCard
from pipeline.core.vectors import cosines
from pipeline.decoders.baselines import Baselines

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(40, 12)).astype(np.float32)
Y = RANDOM.normal(size=(10, 7)).astype(np.float32)[np.arange(40) % 10]
CARD = ModelCard("random:0", "f", {"layer": "fc2"}, feature_dim=12, target_dim=7, output_activation="linear")


@pytest.fixture(scope="module")
def baselines() -> Baselines:
    return Baselines.fit(X[:30], Y[:30], np.arange(30))


def test_mean_and_deviation_are_those_of_the_targets(baselines: Baselines) -> None:
    np.testing.assert_allclose(baselines.mean, Y[:30].astype(np.float64).mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(baselines.deviation, Y[:30].astype(np.float64).std(axis=0), rtol=1e-6)
    assert np.array_equal(baselines.predict(X[:5])["mean"], np.tile(baselines.mean, (5, 1)))


def test_training_targets_are_known_again(baselines: Baselines) -> None:
    assert baselines.has_seen(Y[:30]).all()
    assert not baselines.has_seen(Y[:30] + 1).any()


def test_ridge_learns_a_linear_relation() -> None:
    y = (X @ RANDOM.normal(size=(12, 7))).astype(np.float32)
    found = Baselines.fit(X[:30], y[:30], np.arange(30)).predict(X[30:])
    assert cosines(found["ridge"], y[30:]).mean() > 0.99


def test_baselines_survive_the_disk(baselines: Baselines, tmp_path: Path) -> None:
    baselines.save(tmp_path, CARD)
    loaded = Baselines.load(tmp_path)
    assert set(loaded.models) == {"ridge", "conse"}
    for name, predicted in baselines.predict(X).items():
        assert np.array_equal(loaded.predict(X)[name], predicted)
    assert np.array_equal(loaded.has_seen(Y), baselines.has_seen(Y))


def test_damaged_or_missing_baselines(baselines: Baselines, tmp_path: Path) -> None:
    assert Baselines.load(tmp_path) is None
    baselines.save(tmp_path, CARD)
    file = tmp_path / "baselines.npz"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(PipelineError, match=r"baselines\.npz is damaged"):
        Baselines.load(tmp_path)
