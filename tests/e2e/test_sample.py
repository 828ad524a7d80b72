"""A newcomer's first steps: the sample, with an empty home."""

import functools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, Finished, are_equal


@pytest.fixture(scope="module")
def home_of_newcomer(real_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with only a link to the networks shared by the test processes."""
    home = tmp_path_factory.mktemp("newcomer")
    cache = home / ".cache" / "image-vectors"
    cache.mkdir(parents=True)
    (real_cache / "networks").mkdir(parents=True, exist_ok=True)
    (cache / "networks").symlink_to(real_cache / "networks")
    return home


@pytest.fixture(scope="module")
def command(run, home_of_newcomer: Path) -> Callable[..., Finished]:
    return functools.partial(run, HOME=str(home_of_newcomer))


@pytest.fixture(scope="module")
def trained(run_process, home_of_newcomer: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    models = tmp_path_factory.mktemp("models")
    return run_process("train", "--json", "--quiet", "--models", models, HOME=str(home_of_newcomer))


def test_both_decoders_beat_the_baselines(trained: Finished) -> None:
    result = trained.json
    assert trained.err == ""
    assert {name for name, value in result.items() if value is not None} == {
        *("run", "images", "train", "validation", "target_dim", "models", "baselines", "ceiling", "shares"),
        *("headline", "above_mean", "report"),
    }  # the others are null without their options
    assert (result["images"], result["target_dim"], result["ceiling"], result["folds"]) == (144, 50, 1, None)
    assert result["train"] + result["validation"] == 144
    assert sum(result["shares"].values()) == pytest.approx(1, abs=0.2)
    baselines = {name: baseline["validation_cosine"] for name, baseline in result["baselines"].items()}
    assert set(baselines) == {"mean", "ridge", "conse"}
    for model in result["models"].values():
        assert set(model) == {"path", "epochs", "seconds", "train_cosine", "validation_cosine"}
        assert Path(model["path"]).is_file()
        assert model["validation_cosine"] >= 0.75
        assert model["validation_cosine"] > max(baselines.values()) > baselines["mean"]
    best = max(baselines, key=baselines.__getitem__)
    assert f"the {best} baseline of {baselines[best]:.3f}" in result["headline"]
    assert result["above_mean"] is True


def test_api_styles_are_saved_bit_identical(trained: Finished) -> None:
    import keras

    ours, theirs = (keras.models.load_model(model["path"]) for model in trained.json["models"].values())
    assert isinstance(theirs, keras.Sequential)
    assert are_equal(ours.get_weights(), theirs.get_weights())


def test_a_second_extraction_computes_nothing(trained: Finished, command) -> None:
    result = command("extract", "images", "--weights", "random:0", "--json", "--quiet").json
    assert set(result) == {
        *("images", "computed", "cached", "failed", "passed_over", "dim", "engine", "device"),
        *("seconds", "seconds_starting", "images_per_second"),
        *("extractor", "layers", "store", "out", "shard", "nodes", "actors"),
    }
    assert (result["images"], result["computed"], result["cached"], result["failed"]) == (144, 0, 144, [])
    assert (result["dim"], result["engine"]) == (4096, None)


@pytest.fixture(scope="module")
def evaluated(trained: Finished, command: Callable[..., Finished]) -> Finished:
    return command("evaluate", trained.json["run"], "--json", "--quiet")


def test_evaluating_the_run_gives_the_same_cosine(trained: Finished, evaluated: Finished) -> None:
    result = evaluated.json
    assert set(result) == {
        *("models", "baselines", "differences", "ceiling", "noise_ceiling", "images", "clusters", "candidates"),
        *("target_rank", "zero_targets", "headline", "conclusions", "report", "noise_ceiling_ci95"),
        *("target_dim", "large_dimensions", "above_mean", "scores", "permutations"),
    }
    assert (result["images"], result["candidates"]) == (trained.json["validation"], 16)
    assert result["clusters"] == {"kind": "label", "count": 16, "trained_on": True, "over_folds": False}
    assert result["report"] == str(Path(trained.json["run"]) / "evaluation.html")
    assert "What the decoder consists of" in Path(result["report"]).read_text()
    for name, model in trained.json["models"].items():
        scores = result["models"][name]
        assert scores["cosine"]["mean"] == pytest.approx(model["validation_cosine"], abs=1e-6)
        assert set(scores["cosine"]) == {"mean", "median", "p05", "p95", "ci95", "ci95_same_labels"}
        assert set(scores["retrieval"]) == {
            *("top1", "top5", "mrr", "median_rank", "hits", "top1_ci95", "top1_ci95_same_labels"),
        }
        assert scores["retrieval_of_unseen"] is None
        assert scores["retrieval"]["top1"] > 0.5  # chance is 1 of 16
        assert 0.3 < scores["progress"] < 1
        assert scores["centred_cosine"]["mean"] < scores["cosine"]["mean"]
        assert sum(label["images"] for label in scores["labels"]) == result["images"]
    for name, baseline in trained.json["baselines"].items():
        assert result["baselines"][name]["cosine"]["mean"] == pytest.approx(baseline["validation_cosine"], abs=1e-6)
    styles = result["differences"][0]
    assert (styles["of"], styles["minus"], styles["mean"], styles["is_zero"]) == ("functional", "sequential", 0, True)
    said = " ".join(result["conclusions"])
    for expected in ("that are also trained on", "API style changes nothing", "On its training images it reaches"):
        assert expected in said
    assert "untrained weights" in said


def test_shuffled_targets_are_no_better_than_the_mean(trained: Finished, command, tmp_path: Path) -> None:
    report = tmp_path / "elsewhere.html"
    result = command("evaluate", trained.json["run"], "--shuffled", "--report", report, "--json", "--quiet").json
    assert result["report"] == str(report)
    assert report.stat().st_size > 100_000
    baselines = result["baselines"]
    assert baselines["shuffled"]["cosine"]["mean"] < baselines["mean"]["cosine"]["mean"]
    assert baselines["shuffled"]["retrieval"]["top1"] < 0.3


def test_predictions_are_compared_with_a_vocabulary(
    trained: Finished, evaluated: Finished, command: Callable[..., Finished], tmp_path: Path
) -> None:
    words = tmp_path / "words.txt"
    targets = [line.split(",") for line in (ROOT / "images" / "targets.csv").read_text().splitlines()[1:]]
    random = np.random.default_rng(0)
    lines = [" ".join(row) for row in targets]
    lines += [f"word{number} " + " ".join(map(str, random.normal(size=50).round(3))) for number in range(500)]
    words.write_text("\n".join(lines) + "\n")
    plain = evaluated.json
    found = command("evaluate", trained.json["run"], "--vocabulary", words, "--json", "--quiet").json
    assert (found["candidates"], plain["candidates"]) == (516, 16)
    assert found["models"]["functional"]["retrieval"]["mrr"] <= plain["models"]["functional"]["retrieval"]["mrr"]
    words.write_text("word 1 2 3\n")
    refused = command("evaluate", trained.json["run"], "--vocabulary", words, code=2)
    assert "has vectors of dimension 3; the targets have 50" in refused.err


@pytest.mark.parametrize(("scheme", "width"), [("light", 1000), ("dark", 1000), ("light", 375)])
def test_the_report_works_in_a_browser(trained: Finished, open_page, scheme: str, width: int) -> None:
    report = Path(trained.json["report"])
    assert report.stat().st_size < 5e6
    opened = open_page(report, scheme, width)
    assert opened.overflow() <= 0
    shares = opened.page.locator("[aria-label='What the decoder consists of'] tbody tr")
    assert shares.count() == len(trained.json["shares"]) > 1
    dot = opened.page.locator("[data-chart=chart-map] .predictions_marks path").first
    dot.hover()
    shown = opened.page.locator("#vg-tooltip-element")
    assert shown.locator("img").evaluate("image => image.naturalWidth") > 50
    assert "nearest" in shown.inner_text()
    for summary in opened.page.locator("summary").all():
        summary.press("Enter")
    assert opened.page.locator("details[open]").count() == opened.page.locator("details").count() >= 2
    assert opened.accessibility_violations() == []
    assert opened.messages == []
    assert opened.requests == [report.as_uri()]


def test_evaluating_a_model_file_reports_its_training_images(trained: Finished, command) -> None:
    model = trained.json["models"]["functional"]["path"]
    finished = command("evaluate", model, "--images", "images", "--targets", "images/targets.csv", "--json")
    assert finished.json["images"] == 144
    assert set(finished.json["models"]) == {"functional"}
    assert f"were trained on {trained.json['train']} of 144 images" in finished.err


def test_tables_fit_into_80_columns_above_the_report_path(trained: Finished, command) -> None:
    finished = command("evaluate", trained.json["run"], "--quiet")
    assert "functional" in finished.out
    assert "ridge" in finished.out
    *lines, last = finished.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert last == f"report: {Path(trained.json['run']) / 'evaluation.html'}"


def test_run_json_says_how_it_was_made(trained: Finished) -> None:
    saved = json.loads((Path(trained.json["run"]) / "run.json").read_text())
    assert saved["extractor"]["weights"] == "random-he-normal-0"
    assert saved["options"]["images"] == str(ROOT / "images")
    assert len(saved["split"]["validation"]) == trained.json["validation"]
    assert saved["result"]["headline"] == trained.json["headline"]
    labels = [path.partition("/")[0] for path in saved["split"]["validation"]]
    assert {labels.count(label) for label in labels} <= {1, 2}


def test_a_word_finds_held_out_tiles(trained: Finished, command, tmp_path: Path) -> None:
    run = json.loads((Path(trained.json["run"]) / "run.json").read_text())
    for path in run["split"]["validation"]:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes((ROOT / "images" / path).read_bytes())
    found = command("search", tmp_path, "--query", "cat", "--model", trained.json["run"], "--json", "--quiet").json
    assert (found["images"], found["computed"]) == (trained.json["validation"], 0)
    assert sum(hit["path"].startswith("cat/") for hit in found["found"]) == len(list((tmp_path / "cat").iterdir())) > 0
