import json
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

from pipeline.core.errors import PipelineError, RequestError
from pipeline.core.model_files import CARD, FORMAT, ModelCard, load_decoder, read_card, save_decoder

DESCRIPTION = {"network": "vgg16", "layer": "fc2", "precision": "float32"}
EXAMPLE = ModelCard("imagenet", "f00d", DESCRIPTION, feature_dim=4, target_dim=2, output_activation="linear")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("model") / "decoder.keras"
    save_decoder(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]), file, EXAMPLE)
    return file


def with_card(saved: Path, file: Path, content: bytes | None) -> Path:
    """A copy of the model with another card, or with none."""
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
def test_cards_of_other_formats_are_refused_by_name(saved: Path, tmp_path: Path, number: int | None, age: str) -> None:
    card = EXAMPLE.to_json() | {"format": number}
    if number is None:
        del card["format"]
    file = with_card(saved, tmp_path / "other.keras", json.dumps(card).encode())
    with pytest.raises(RequestError, match=rf"other\.keras has format \d, written by an? {age} version"):
        read_card(file)


@pytest.mark.parametrize("content", [None, b"{", b"[]", b'{"format": %d}' % FORMAT, b"\xff"])
def test_files_without_a_proper_card_are_refused(saved: Path, tmp_path: Path, content: bytes | None) -> None:
    with pytest.raises(PipelineError, match=r"other\.keras"):
        read_card(with_card(saved, tmp_path / "other.keras", content))


def test_missing_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no such model"):
        read_card(tmp_path / "gone.keras")
    (tmp_path / "text.keras").write_text("not a model")
    with pytest.raises(RequestError, match=r"text\.keras is damaged or not a \.keras file"):
        read_card(tmp_path / "text.keras")
    with pytest.raises(RequestError, match=r"text\.keras cannot be loaded"):
        load_decoder(tmp_path / "text.keras")


def test_features_and_targets_that_do_not_fit_are_refused() -> None:
    EXAMPLE.check_features(Path("a.keras"), DESCRIPTION)
    with pytest.raises(RequestError, match=r"a\.keras does not fit .*layer: trained on 'fc2', given 'fc1'"):
        EXAMPLE.check_features(Path("a.keras"), DESCRIPTION | {"layer": "fc1"})
    EXAMPLE.check_targets(Path("a.keras"), 2)
    with pytest.raises(RequestError, match="embeddings of dimension 2; the targets have 3"):
        EXAMPLE.check_targets(Path("a.keras"), 3)
