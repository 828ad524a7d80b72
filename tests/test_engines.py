import numpy as np
import pytest
import reference
from conftest import ROOT

from pipeline.engines import make_engine
from pipeline.errors import RequestError
from pipeline.images import decode, read
from pipeline.vgg16 import Extractor, weights_from

PHOTOGRAPHS = ("cat/1-1.jpg", "coffee/0-1.jpg")


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.stack([decode(read(ROOT / "images" / path)) for path in PHOTOGRAPHS])


@pytest.mark.parametrize("name", ["keras"])
@pytest.mark.parametrize("layer", ["fc2", "fc1", "block5_pool"])
def test_engines_agree_with_a_float64_computation_without_keras(name: str, layer: str, pixels: np.ndarray) -> None:
    extractor = Extractor(weights_from("random:0"), layer)
    found = make_engine(name, extractor, batch_size=2)(pixels)
    assert found.shape == (2, extractor.dim)
    assert found.dtype == np.float32
    weights = extractor.read_weights()
    for image, feature in zip(pixels, found, strict=True):
        expected = reference.features(image, weights, layer)
        assert np.linalg.norm(feature - expected) <= 1e-3 * np.linalg.norm(expected)


def test_reduced_precision_is_near_and_not_equal(pixels: np.ndarray) -> None:
    full, reduced = (
        make_engine("keras", Extractor(weights_from("random:0"), "block5_pool", precision), batch_size=2)(pixels)
        for precision in ("float32", "bfloat16")
    )
    error = np.linalg.norm(reduced - full) / np.linalg.norm(full)
    assert 1e-4 < error < 5e-2


def test_unknown_engine_is_refused() -> None:
    with pytest.raises(RequestError, match="--engine 'tpu' is unknown; choose from auto, keras"):
        make_engine("tpu", Extractor(weights_from("random:0")))
