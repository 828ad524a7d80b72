import tracemalloc

import numpy as np
import pytest

from pipeline.core.vectors import in_blocks
from pipeline.data.decoding import THUMBNAIL
from pipeline.data.images import DIGEST
from pipeline.decoders.network import DecoderSpec, TrainingConfig, build_decoder, predict
from pipeline.decoders.streaming import Stream, aligned_empty, epoch_order, in_memory, is_aligned
from pipeline.decoders.training import TrainingData, fit
from pipeline.features.extractor import Extractor
from pipeline.features.features import StoredFeatures
from pipeline.features.store import FeatureStore
from pipeline.features.weights import weights_from

DIM = 512


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[StoredFeatures, np.ndarray]:
    """A store of 3000 vectors, and the vectors it must return."""
    store = FeatureStore(tmp_path_factory.mktemp("cache"), Extractor(weights_from("random:0"), layer="block5_pool"))
    vectors = np.random.default_rng(0).random((3000, DIM), np.float32)
    digests = np.frombuffer(np.random.default_rng(1).bytes(16 * 3000), DIGEST)
    for start in range(0, 3000, 500):
        thumbnails = np.zeros((500, THUMBNAIL, THUMBNAIL), np.uint8)
        store.append(digests[start : start + 500], vectors[start : start + 500], thumbnails, np.ones(500, int))
    return StoredFeatures(store, store.rows(digests), DIM), vectors


def test_stored_features_read_like_an_array(stored: tuple[StoredFeatures, np.ndarray]) -> None:
    x, vectors = stored
    assert (x.shape, len(x), x.dtype) == (vectors.shape, len(vectors), vectors.dtype)
    rows = np.array([2999, 5, 5, 700])
    assert np.array_equal(x[rows], vectors[rows])
    assert np.array_equal(x[10:20], vectors[10:20])
    assert np.array_equal(x.subset(rows)[1:], vectors[rows[1:]])
    assert np.array_equal(np.concatenate(list(in_blocks(x))), vectors)
    assert np.array_equal(in_memory(x), vectors)


def test_aligned_arrays_are_not_copied() -> None:
    array = aligned_empty(10, 3)
    assert array.ctypes.data % 64 == 0
    assert is_aligned(array)
    assert in_memory(array) is array
    other = np.ones((10, 3))
    assert not is_aligned(other)
    assert is_aligned(in_memory(other))


def test_the_order_depends_only_on_seed_and_epoch() -> None:
    assert np.array_equal(epoch_order(50, 1, 2), epoch_order(50, 1, 2))
    for other in (epoch_order(50, 2, 2), epoch_order(50, 1, 3)):
        assert not np.array_equal(epoch_order(50, 1, 2), other)
        assert sorted(other) == list(range(50))


def test_a_stream_yields_each_row_once_with_its_target(stored: tuple[StoredFeatures, np.ndarray]) -> None:
    x, vectors = stored
    y = np.arange(len(x), dtype=np.float32)[:, None]
    stream = Stream(x, y, rows=640)
    seen = []
    for features, targets, taken in stream.epoch(seed=0, epoch=4):
        rows = targets[taken, 0].astype(int)
        assert np.array_equal(features[taken], vectors[rows])
        seen.append(rows)
    assert [len(rows) for rows in seen] == [640, 640, 640, 640, 440]
    assert sorted(np.concatenate(seen)) == list(range(3000))
    assert np.abs(np.diff(seen[0])).mean() > 300  # well mixed: neighbours in a block come from all parts of the store
    again = [targets[taken, 0].astype(int) for _, targets, taken in stream.epoch(seed=0, epoch=4)]
    other = [targets[taken, 0].astype(int) for _, targets, taken in stream.epoch(seed=0, epoch=5)]
    assert all(map(np.array_equal, seen, again))
    assert not np.array_equal(seen[0], other[0])


def test_streamed_training_stays_within_its_memory_budget(stored: tuple[StoredFeatures, np.ndarray]) -> None:
    x, vectors = stored
    random = np.random.default_rng(1)
    y = (vectors[:, :20] @ random.normal(size=(20, 4)) + random.normal(0, 0.3, (len(x), 4))).astype(np.float32)
    rows, held_out = np.arange(2600), np.arange(2600, 3000)
    config = TrainingConfig(DecoderSpec(()), epochs=10, batch_size=50, learning_rate=0.01)
    losses, peaks = [], []
    for memory in (2**30, 2**21):  # 5.3 MB of training features, in memory or in blocks
        data = TrainingData(x.subset(rows), y[rows], x.subset(held_out), y[held_out], memory)
        assert isinstance(data.loaded().x, np.ndarray) == (memory == 2**30)
        model = build_decoder(config.decoder, "functional", data.x, data.y, 0)
        fit({"functional": model}, data, config)  # compiles first, so that only features are counted below
        model = build_decoder(config.decoder, "functional", data.x, data.y, 0)
        tracemalloc.start()
        history = fit({"functional": model}, data, config)["functional"]
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        losses.append(history.curves["validation_loss"])
        assert losses[-1][-1] < losses[-1][0] / 3
        assert np.mean((predict(model, data.x_validation) - data.y_validation) ** 2) == pytest.approx(
            losses[-1][-1], rel=1e-4
        )
    assert losses[1][-1] == pytest.approx(losses[0][-1], rel=0.2)
    assert peaks[0] > vectors.nbytes > peaks[1]
