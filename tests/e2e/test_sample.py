"""What a newcomer does first: the sample, with an empty home."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, Finished


@pytest.fixture(scope="module")
def trained(run, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return run("train", "--json", "--quiet", "--models", tmp_path_factory.mktemp("models"))


def test_both_decoders_beat_the_baselines(trained: Finished) -> None:
    result = trained.json
    assert trained.err == ""
    assert set(result) == {
        "run", "images", "train", "validation", "target_dim", "models", "baselines", "ceiling"
    }  # fmt: skip
    assert (result["images"], result["target_dim"], result["ceiling"]) == (144, 50, 1)
    assert result["train"] + result["validation"] == 144
    mean, ridge = (result["baselines"][name]["validation_cosine"] for name in ("mean", "ridge"))
    for model in result["models"].values():
        assert set(model) == {"path", "epochs", "seconds", "train_cosine", "validation_cosine"}
        assert Path(model["path"]).is_file()
        assert model["validation_cosine"] >= 0.60
        assert model["validation_cosine"] > ridge > mean


def test_api_styles_are_saved_bit_identical(trained: Finished) -> None:
    import keras

    ours, theirs = (keras.models.load_model(model["path"]) for model in trained.json["models"].values())
    assert isinstance(theirs, keras.Sequential)
    for pair in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        assert np.array_equal(*pair)


def test_a_second_extraction_computes_nothing(trained: Finished, run) -> None:
    result = run("extract", "images", "--weights", "random:0", "--json", "--quiet").json
    assert set(result) == {
        "images", "computed", "cached", "failed", "seconds", "images_per_second", "dim", "engine", "extractor", "store"
    }  # fmt: skip
    assert (result["images"], result["computed"], result["cached"], result["failed"]) == (144, 0, 144, [])
    assert (result["dim"], result["engine"]) == (4096, None)


def test_evaluation_of_the_run_repeats_its_cosine(trained: Finished, run) -> None:
    result = run("evaluate", trained.json["run"], "--json", "--quiet").json
    assert set(result) == {"models", "baselines", "ceiling", "images"}
    assert result["images"] == trained.json["validation"]
    for name, model in trained.json["models"].items():
        judged = result["models"][name]
        assert judged["cosine"]["mean"] == pytest.approx(model["validation_cosine"], abs=1e-6)
        assert set(judged["cosine"]) == {"mean", "median", "p05", "p95", "ci95"}
        assert set(judged["retrieval"]) == {"top1", "top5", "mrr", "median_rank"}
        assert judged["retrieval"]["top1"] > 0.4  # chance is 1 of 16
    for name, baseline in trained.json["baselines"].items():
        assert result["baselines"][name]["cosine"]["mean"] == pytest.approx(baseline["validation_cosine"], abs=1e-6)


def test_evaluation_of_a_model_alone_says_what_it_has_seen(trained: Finished, run) -> None:
    model = trained.json["models"]["functional"]["path"]
    finished = run("evaluate", model, "images", "--targets", "images/targets.csv", "--json")
    assert finished.json["images"] == 144
    assert set(finished.json["models"]) == {"functional"}
    assert f"were trained on {trained.json['train']} of these 144 images" in finished.err


def test_tables_fit_80_columns(trained: Finished, run) -> None:
    finished = run("evaluate", trained.json["run"], "--quiet")
    assert "functional" in finished.out
    assert "ridge baseline" in finished.out
    assert max(map(len, finished.out.splitlines())) <= 80


def test_run_json_says_how_it_was_made(trained: Finished) -> None:
    saved = json.loads((Path(trained.json["run"]) / "run.json").read_text())
    assert saved["extractor"]["weights"] == "random-he-normal-0"
    assert saved["options"]["images"] == str(ROOT / "images")
    assert len(saved["split"]["validation"]) == trained.json["validation"]
    assert len(saved["curves"]["functional"]["loss"]) == trained.json["models"]["functional"]["epochs"]
    labels = [path.partition("/")[0] for path in saved["split"]["validation"]]
    assert {labels.count(label) for label in labels} <= {1, 2}
