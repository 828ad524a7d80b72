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
        "run", "images", "train", "validation", "target_dim", "models", "baselines", "ceiling", "report"
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
    assert set(result) == {
        "models", "baselines", "ceiling", "images", "candidates", "differences", "zero_targets", "conclusions", "report"
    }  # fmt: skip
    assert (result["images"], result["candidates"]) == (trained.json["validation"], 16)
    assert result["report"] == trained.json["report"]
    for name, model in trained.json["models"].items():
        judged = result["models"][name]
        assert judged["cosine"]["mean"] == pytest.approx(model["validation_cosine"], abs=1e-6)
        assert set(judged["cosine"]) == {"mean", "median", "p05", "p95", "ci95"}
        assert set(judged["retrieval"]) == {"top1", "top5", "mrr", "median_rank"}
        assert judged["retrieval"]["top1"] > 0.4  # chance is 1 of 16
        assert 0.3 < judged["progress"] < 1
        assert judged["centred_cosine"]["mean"] < judged["cosine"]["mean"]
        assert sum(label["images"] for label in judged["labels"]) == result["images"]
    for name, baseline in trained.json["baselines"].items():
        assert result["baselines"][name]["cosine"]["mean"] == pytest.approx(baseline["validation_cosine"], abs=1e-6)
    assert result["differences"][0] == {"of": "functional", "minus": "sequential", "mean": 0.0, "ci95": [0.0, 0.0]}
    said = " ".join(result["conclusions"])
    for expected in ("better than ridge", "API style changes nothing", "overfitted", "too few", "untrained weights"):
        assert expected in said


def test_shuffled_targets_are_no_better_than_the_mean(trained: Finished, run, tmp_path: Path) -> None:
    report = tmp_path / "elsewhere.html"
    result = run("evaluate", trained.json["run"], "--shuffled", "--report", report, "--json", "--quiet").json
    assert result["report"] == str(report)
    assert report.stat().st_size > 100_000
    baselines = result["baselines"]
    assert baselines["shuffled"]["cosine"]["mean"] < baselines["mean"]["cosine"]["mean"]
    assert baselines["shuffled"]["retrieval"]["top1"] < 0.3


def test_predictions_are_looked_up_in_a_vocabulary(trained: Finished, run, tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    targets = [line.split(",") for line in (ROOT / "images" / "targets.csv").read_text().splitlines()[1:]]
    random = np.random.default_rng(0)
    lines = [" ".join(row) for row in targets]
    lines += [f"word{number} " + " ".join(map(str, random.normal(size=50).round(3))) for number in range(500)]
    words.write_text("\n".join(lines) + "\n")
    plain = run("evaluate", trained.json["run"], "--json", "--quiet").json
    found = run("evaluate", trained.json["run"], "--vocabulary", words, "--json", "--quiet").json
    assert (found["candidates"], plain["candidates"]) == (516, 16)
    assert found["models"]["functional"]["retrieval"]["mrr"] <= plain["models"]["functional"]["retrieval"]["mrr"]
    words.write_text("word 1 2 3\n")
    refused = run("evaluate", trained.json["run"], "--vocabulary", words, code=2)
    assert "holds vectors of dimension 3; the targets have 50" in refused.err


@pytest.mark.parametrize(("scheme", "width"), [("light", 1000), ("dark", 1000), ("light", 375)])
def test_the_report_is_read_in_a_browser(trained: Finished, open_page, scheme: str, width: int) -> None:
    report = Path(trained.json["report"])
    assert report.stat().st_size < 5e6
    opened = open_page(report, scheme, width)
    assert opened.overflow() <= 0
    dot = opened.page.locator("[data-chart=chart-map] .mark-symbol.layer_2_marks path").first
    dot.hover()
    shown = opened.page.locator("#vg-tooltip-element")
    assert shown.locator("img").evaluate("image => image.naturalWidth") > 50
    assert "nearest" in shown.inner_text()
    for summary in opened.page.locator("summary").all():
        summary.press("Enter")
    assert opened.page.locator("details[open]").count() == opened.page.locator("details").count() == 3
    assert opened.serious_faults() == []
    assert opened.complaints == []
    assert opened.requests == [report.as_uri()]


def test_evaluation_of_a_model_alone_says_what_it_has_seen(trained: Finished, run) -> None:
    model = trained.json["models"]["functional"]["path"]
    finished = run("evaluate", model, "images", "--targets", "images/targets.csv", "--json")
    assert finished.json["images"] == 144
    assert set(finished.json["models"]) == {"functional"}
    assert f"were trained on {trained.json['train']} of these 144 images" in finished.err


def test_tables_fit_80_columns_with_the_report_under_them(trained: Finished, run) -> None:
    finished = run("evaluate", trained.json["run"], "--quiet")
    assert "functional" in finished.out
    assert "ridge" in finished.out
    *lines, last = finished.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert last == f"report: {trained.json['report']}"


def test_run_json_says_how_it_was_made(trained: Finished) -> None:
    saved = json.loads((Path(trained.json["run"]) / "run.json").read_text())
    assert saved["extractor"]["weights"] == "random-he-normal-0"
    assert saved["options"]["images"] == str(ROOT / "images")
    assert len(saved["split"]["validation"]) == trained.json["validation"]
    assert len(saved["curves"]["functional"]["loss"]) == trained.json["models"]["functional"]["epochs"]
    labels = [path.partition("/")[0] for path in saved["split"]["validation"]]
    assert {labels.count(label) for label in labels} <= {1, 2}
