"""The documents that `--json` prints."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import keras
import pytest

from pipeline.commands.compare import CompareResult
from pipeline.commands.extract import ExtractResult
from pipeline.commands.training_run import TrainedModel, TrainResult
from pipeline.core.model_files import ModelCard, save_decoder
from pipeline.evaluation.refits import Refits, RefitScores
from pipeline.evaluation.results import Permutations
from pipeline.evaluation.retraining import RetrainingTest
from pipeline.features.survey import Failure
from pipeline.studies.verdicts import Scenario

TRAINED = TrainResult(
    run=Path("models/run"),
    images=10,
    train=8,
    validation=2,
    target_dim=3,
    models={"functional": TrainedModel(epochs=5, seconds=1.5, train_cosine=0.9, validation_cosine=0.8)},
    baselines={"mean": 0.5, "ridge": 0.7},
    ceiling=1.0,
    shares={},
    folds=None,
    headline="0.800: better than the ridge baseline of 0.700",
)


def test_train_lists_its_files() -> None:
    document = json.loads(json.dumps(TRAINED.to_json()))
    assert (document["run"], document["report"]) == ("models/run", "models/run/report.html")
    assert document["models"]["functional"]["path"] == "models/run/functional.keras"
    assert document["baselines"]["ridge"] == {"validation_cosine": 0.7}
    assert (document["images"], document["train"], document["validation"]) == (10, 8, 2)


def test_equal_decoders_share_a_row(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    card = ModelCard("random:0", "f00d", {"layer": "fc2", "precision": "float32"}, 4, 3, "linear")
    save_decoder(model, tmp_path / "functional.keras", card)
    functional = TRAINED.models["functional"]
    models = {"functional": functional, "sequential": replace(functional, seconds=2.5)}
    result = replace(TRAINED, run=tmp_path, models=models)
    assert result.titles == {"functional": "functional", "sequential": "sequential"}  # one has no file
    shutil.copy(tmp_path / "functional.keras", tmp_path / "sequential.keras")
    assert result.titles == {"functional": "functional = sequential"}
    models["sequential"] = replace(functional, validation_cosine=0.7)  # of other decoders, by folds
    assert len(result.titles) == 2
    assert set(result.to_json()["models"]) == {"functional", "sequential"}


def test_a_result_survives_run_json() -> None:
    record = json.loads(json.dumps(TRAINED.record()))
    assert "run" not in record  # the folder may have been moved
    assert TrainResult.from_record(Path("models/run"), record) == TRAINED
    later = ("bands", "permutations", "refits", "layers", "learning_curve")
    before = {name: value for name, value in record.items() if name not in later}
    assert TrainResult.from_record(Path("models/run"), before) == TRAINED  # a run of an earlier version


def test_tests_and_refits_survive_run_json() -> None:
    refits = Refits(3, 0.8, 4, RefitScores.of([0.78, 0.8, 0.81]), RefitScores.of([0.7, 0.75, 0.8]))
    tests = [
        RetrainingTest.of(Permutations(4, "label", 12, False, None), "r", 0.3, [0.1, 0.0, -0.1, 0.3]),
        RetrainingTest(Permutations(4, "label", 3, False, "No permutation test."), "r"),
    ]
    assert tests[0].p == pytest.approx(0.4)
    for test in tests:
        result = replace(TRAINED, permutations=test, refits=refits)
        record = json.loads(json.dumps(result.record()))
        assert TrainResult.from_record(Path("models/run"), record) == result


@pytest.mark.parametrize(("computed", "rate"), [(7, 3.5), (0, 0.0)])
def test_extract_counts_images_per_second_after_the_start(computed: int, rate: float) -> None:
    result = ExtractResult(
        images=10,
        computed=computed,
        cached=2,
        failed=[Failure("a.png", "it is empty")],
        passed_over=[],
        seconds=2.0 + 60 * bool(computed),
        seconds_starting=60.0 * bool(computed),
        dim=4096,
        engine="mnn",
        device=None,
        extractor={"fingerprint": "f00d"},
        store="store",
        layers=[],
        out=None,
    )
    document = json.loads(json.dumps(result.to_json()))
    assert document["images_per_second"] == rate
    assert document["failed"] == [{"path": "a.png", "error": "it is empty"}]


def test_compare_lists_its_scenarios() -> None:
    scenario = Scenario("same-seed", [{"seed": 0, "functional": 0.65}], 0.0, {}, "Nothing changes.")
    document = json.loads(json.dumps(CompareResult([scenario], 0.65, None, 1.23456).to_json()))
    assert document["scenarios"][0]["runs"] == [{"seed": 0, "functional": 0.65}]
    assert (document["equivalent"], document["seconds"]) == (None, 1.235)
