import numpy as np

from pipeline.core.keras_backend import import_keras
from pipeline.decoders import xla
from pipeline.decoders.hidden_layer import NetworkConfig
from pipeline.decoders.xla import train_network


def test_xla_training_matches_keras_adamw() -> None:
    keras = import_keras()
    random = np.random.default_rng(4)
    z, y = random.normal(size=(32, 5)).astype(np.float32), random.normal(size=(32, 3)).astype(np.float32)
    y -= y.mean(axis=0)
    y /= (y**2).mean() ** 0.5
    # A batch contains all rows, so their order does not matter.
    network = train_network(z, y, np.arange(32), NetworkConfig(16, 60, 3.0), stretch=1.0, seed=0)
    same = np.random.default_rng([0, 3])
    for _ in range(60):
        same.permutation(32)
    kernel = same.normal(size=(5, 16)) * (2 / 5) ** 0.5
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(3)])
    model.set_weights([kernel, np.zeros(16), np.zeros((16, 3)), np.zeros(3)])
    rate = keras.optimizers.schedules.CosineDecay(1e-3, 60)
    model.compile(keras.optimizers.AdamW(rate, weight_decay=3.0), "mse")
    model.fit(z, y, batch_size=32, epochs=60, shuffle=False, verbose=0)
    assert np.allclose(network(z), model.predict(z, verbose=0), atol=1e-3)
    assert not np.allclose(network(z), 0, atol=1e-2)


def test_several_calls_take_the_same_steps_as_one(monkeypatch) -> None:
    random = np.random.default_rng(0)
    z, y = random.normal(size=(50, 5)).astype(np.float32), random.normal(size=(50, 2)).astype(np.float32)
    done: list[int] = []

    def trained() -> np.ndarray:
        return train_network(z, y, np.arange(40), NetworkConfig(8, 18, 1.0), 1.0, seed=1, advance=done.append).kernel

    whole = trained()
    assert done == [18]
    monkeypatch.setattr(xla, "STEPS_PER_CALL", 7)
    assert np.allclose(trained(), whole, atol=1e-6)
    assert done == [18, 7, 7, 4]
