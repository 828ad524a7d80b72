from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from pipeline.core.errors import PipelineError
from pipeline.decoders.baselines import Baselines

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(40, 12)).astype(np.float32)
Y = RANDOM.normal(size=(40, 7)).astype(np.float32)


def test_baselines_survive_the_disk(tmp_path: Path) -> None:
    baselines = Baselines.fit(X, Y[np.arange(40) % 30])
    baselines.save(tmp_path / "b.npz")
    loaded = Baselines.load(tmp_path / "b.npz")
    predicted = loaded.predict(X[:5])
    mean = Y[np.arange(40) % 30].mean(axis=0, dtype=np.float64).astype(np.float32)
    assert np.array_equal(predicted["mean"], np.tile(mean, (5, 1)))
    expected = Ridge(alpha=baselines.alpha).fit(X, Y[np.arange(40) % 30]).predict(X[:5])
    np.testing.assert_allclose(predicted["ridge"], expected, atol=1e-4)
    assert loaded.has_seen(Y).tolist() == [True] * 30 + [False] * 10

    (tmp_path / "b.npz").write_bytes((tmp_path / "b.npz").read_bytes()[:200])
    with pytest.raises(PipelineError, match="damaged"):
        Baselines.load(tmp_path / "b.npz")
