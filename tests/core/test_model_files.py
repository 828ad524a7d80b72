import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from pipeline.core.errors import PipelineError, RequestError
from pipeline.core.model_files import (
    CARD,
    FORMAT,
    ModelCard,
    find_equal,
    is_decoder,
    load_decoder,
    load_model,
    read_card,
    save_decoder,
)

DESCRIPTION = {"network": "vgg16", "layer": "fc2", "precision": "float32"}
EXAMPLE = ModelCard("imagenet", "f00d", DESCRIPTION, feature_dim=4, target_dim=2, output_activation="linear")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("model") / "decoder.keras"
    save_decoder(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]), file, EXAMPLE)
    return file


def with_card(saved: Path, file: Path, content: bytes | None) -> Path:
    """A copy of the model with another card, or without a card."""
    with zipfile.ZipFile(saved) as archive, zipfile.ZipFile(file, "w") as copy:
        for name in archive.namelist():
            if name != CARD:
                copy.writestr(name, archive.read(name))
        if content is not None:
            copy.writestr(CARD, content)
    return file


def test_a_decoder_is_a_plain_keras_file_with_a_card(saved: Path) -> None:
    assert read_card(saved) == EXAMPLE
    x = np.ones((3, 4), np.float32)
    plain = keras.models.load_model(saved)
    assert np.array_equal(plain.predict(x, verbose=0), load_decoder(saved).predict(x, verbose=0))
    assert [file.name for file in saved.parent.iterdir()] == ["decoder.keras"]


@pytest.mark.parametrize(("number", "age"), [(None, "older"), (FORMAT - 1, "older"), (FORMAT + 1, "newer")])
def test_cards_of_other_formats_name_the_format(saved: Path, tmp_path: Path, number: int | None, age: str) -> None:
    card = EXAMPLE.to_json() | {"format": number}
    if number is None:
        del card["format"]
    file = with_card(saved, tmp_path / "other.keras", json.dumps(card).encode())
    with pytest.raises(RequestError, match=rf"other\.keras has format \d, written by an? {age} version"):
        read_card(file)


@pytest.mark.parametrize("content", [None, b"{", b"[]", b'{"format": %d}' % FORMAT, b"\xff"])
def test_files_without_a_valid_card_are_refused(saved: Path, tmp_path: Path, content: bytes | None) -> None:
    with pytest.raises(PipelineError, match=r"other\.keras"):
        read_card(with_card(saved, tmp_path / "other.keras", content))


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "2"},
        {"feature_dim": "4"},
        {"feature_dim": 0},
        {"target_dim": 10**400},
        {"target_dim": 2.0},
        {"extractor": ["fc2"]},
        {"extractor": {"layer": "fc2"}},
        {"extractor": {**DESCRIPTION, "layer": 2}},
        {"weights": None},
        {"weights": "a\0b"},
        {"output_activation": [[]]},
        {"scales": "1"},
        {"scales": [-1.0]},
        {"scales": [float("nan")]},
        {"scales": {"fc2": 1}},
    ],
)
def test_forged_cards_are_refused(saved: Path, tmp_path: Path, changes: dict) -> None:
    content = json.dumps(EXAMPLE.to_json() | changes).encode()
    with pytest.raises(RequestError, match=r"forged\.keras is damaged"):
        read_card(with_card(saved, tmp_path / "forged.keras", content))


def saved_as(file: Path, *layers: keras.layers.Layer, card: ModelCard = EXAMPLE) -> Path:
    save_decoder(keras.Sequential([keras.Input((4,)), *layers]), file, card)
    return file


def repacked(source: Path, file: Path, changed: str, content: bytes, compression: int = zipfile.ZIP_STORED) -> Path:
    """A copy of the model with one member replaced."""
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(file, "w", compression) as copy:
        for name in {*archive.namelist(), changed}:
            copy.writestr(name, content if name == changed else archive.read(name))
    return file


def reconfigured(source: Path, file: Path, change: Callable[[list[dict]], object]) -> Path:
    """A copy of the model with changed layers in its configuration."""
    with zipfile.ZipFile(source) as archive:
        config = json.loads(archive.read("config.json"))
    change(config["config"]["layers"])
    return repacked(source, file, "config.json", json.dumps(config).encode())


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_decoders_with_nonfinite_outputs_are_refused(tmp_path: Path, value: float) -> None:
    dense = keras.layers.Dense(2)
    dense.build((None, 4))
    dense.set_weights([np.full((4, 2), value, np.float32), np.zeros(2)])
    with pytest.raises(RequestError, match=r"a\.keras cannot be loaded \(its (weights|answers) are not finite"):
        load_decoder(saved_as(tmp_path / "a.keras", dense))


@pytest.mark.parametrize("value", [np.nan, -1.0])
def test_normalizations_with_nonfinite_outputs_are_refused(tmp_path: Path, value: float) -> None:
    normalization = keras.layers.Normalization(mean=[0.0] * 4, variance=[value] * 4)
    with pytest.raises(RequestError, match=r"b\.keras cannot be loaded"):
        load_decoder(saved_as(tmp_path / "b.keras", normalization, keras.layers.Dense(2)))


@pytest.mark.parametrize("changes", [{"feature_dim": 5}, {"target_dim": 3}])
def test_decoders_that_do_not_match_their_card_are_refused(tmp_path: Path, changes: dict) -> None:
    file = saved_as(tmp_path / "a.keras", keras.layers.Dense(2), card=replace(EXAMPLE, **changes))
    with pytest.raises(RequestError, match=r"its card does not fit its shapes, \(None, 4\) and \(None, 2\)"):
        load_decoder(file)


def widen(units: int) -> Callable[[list[dict]], object]:
    return lambda layers: layers[1]["config"].update(units=units)


def hide_shape(layers: list[dict]) -> None:
    layers[1].pop("build_config")
    layers[0]["config"]["batch_shape"] = [None, 10**9]


def insert(layer: dict) -> Callable[[list[dict]], object]:
    return lambda layers: layers.insert(1, {"module": "keras.layers", "registered_name": None} | layer)


@pytest.mark.parametrize(
    "change",
    [
        widen(10**9),
        widen(10**30),
        widen(-(10**9)),
        lambda layers: layers[1]["config"].update(units="9" * 10),
        lambda layers: layers[1].update(build_config={"input_shape": [None, 10**9]}),
        lambda layers: layers[1].update(build_config={"shapes_dict": {"input_shape": [None, 10**9]}}),
        lambda layers: layers[1].update(build_config=[[]]),
        lambda layers: layers[1].update(build_config={"input_shape": [None, 10**7, 10**7]}),
        lambda layers: layers[0]["config"].update(batch_shape=[None, 0]),
        hide_shape,
        insert({"class_name": "RepeatVector", "config": {"n": 10**9}}),
        insert({"class_name": "Embedding", "config": {"input_dim": 10**9, "output_dim": 10**3}}),
        insert({"class_name": "Dense", "module": "os", "config": {"units": 1}}),
        lambda layers: layers.append(7),
        lambda layers: layers[1].update(config=[]),
    ],
)
def test_oversized_layers_are_refused_before_they_are_built(
    saved: Path, tmp_path: Path, change: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = reconfigured(saved, tmp_path / "a.keras", change)
    monkeypatch.setattr(keras.saving, "load_model", lambda *_, **__: pytest.fail("it was built"))
    with pytest.raises(RequestError, match=r"a\.keras cannot be loaded"):
        load_decoder(file)


def test_archives_that_unpack_to_more_are_refused(saved: Path, tmp_path: Path) -> None:
    for member in ("model.weights.h5", "config.json", "assets/a", CARD):
        file = repacked(saved, tmp_path / "a.keras", member, bytes(2**27), zipfile.ZIP_DEFLATED)
        assert file.stat().st_size < 2**20
        with pytest.raises(RequestError, match=r"a\.keras (cannot be loaded|is damaged)"):
            load_decoder(file)


def changed_weights(saved: Path, folder: Path, change: Callable[[h5py.File], object]) -> Path:
    with zipfile.ZipFile(saved) as archive:
        (folder / "weights.h5").write_bytes(archive.read("model.weights.h5"))
    with h5py.File(folder / "weights.h5", "a") as root:
        change(root)
    return repacked(saved, folder / "a.keras", "model.weights.h5", (folder / "weights.h5").read_bytes())


def relink(link: object) -> Callable[[h5py.File], object]:
    def change(root: h5py.File) -> None:
        group = root["layers/dense/vars"]
        del group["0"]
        group["0"] = link

    return change


@pytest.mark.parametrize(
    "change",
    [
        relink(h5py.ExternalLink("/elsewhere.h5", "/kernel")),
        relink(h5py.SoftLink("/layers/dense/vars/1")),
        lambda root: root.create_dataset("more", (10**6, 10**6), "f4", chunks=(1000, 1000)),
        lambda root: root.create_dataset("more", (10,), "S1000000000", chunks=(1,)),
        lambda root: root.create_dataset("more", (4, 2), "f4", external=[("/elsewhere", 0, 32)]),
    ],
)
def test_weights_outside_the_file_are_refused(saved: Path, tmp_path: Path, change: Callable) -> None:
    with pytest.raises(RequestError, match=r"a\.keras cannot be loaded \((its arrays need|the values of|'0' in)"):
        load_decoder(changed_weights(saved, tmp_path, change))


def test_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.keras")
    for read in (load_decoder, load_model, read_card, is_decoder):
        with pytest.raises(RequestError, match=r"a\.keras.*(no such model|not a regular file)"):
            read(tmp_path / "a.keras")


def test_missing_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no such model"):
        read_card(tmp_path / "gone.keras")
    (tmp_path / "text.keras").write_text("not a model")
    with pytest.raises(RequestError, match=r"text\.keras is damaged or not a \.keras file"):
        read_card(tmp_path / "text.keras")
    with pytest.raises(RequestError, match=r"text\.keras cannot be loaded"):
        load_decoder(tmp_path / "text.keras")


def test_mismatched_features_are_refused() -> None:
    EXAMPLE.check_features(Path("a.keras"), DESCRIPTION, 512)
    with pytest.raises(RequestError, match=r"a\.keras does not fit .*layer: trained on 'fc2', given 'fc1'"):
        EXAMPLE.check_features(Path("a.keras"), DESCRIPTION | {"layer": "fc1"}, 512)


def test_decoders_are_equal_by_layers_and_weights_not_by_names_or_api_style(tmp_path: Path) -> None:
    kernel, bias = np.arange(8, dtype=np.float32).reshape(4, 2), np.zeros(2, np.float32)

    def saved_as(name: str, activation: str = "linear", change: float = 0.0, card: ModelCard = EXAMPLE) -> Path:
        inputs, dense = keras.Input((4,)), keras.layers.Dense(2, activation)
        sequential = name == "sequential"
        model = keras.Sequential([inputs, dense]) if sequential else keras.Model(inputs, dense(inputs))
        dense.set_weights([kernel + np.float32(change), bias])
        save_decoder(model, tmp_path / f"{name}.keras", card)
        return tmp_path / f"{name}.keras"

    files = {
        "functional": saved_as("functional"),
        "sequential": saved_as("sequential"),
        "changed": saved_as("changed", change=1e-6),
        "relu": saved_as("relu", "relu"),
        "scaled": saved_as("scaled", card=replace(EXAMPLE, scales=[2.0])),
        "gone": tmp_path / "gone.keras",
        "gone, too": tmp_path / "gone.keras",
    }
    assert find_equal(files) == {name: name for name in files} | {"sequential": "functional"}
