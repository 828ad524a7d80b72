import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import make_image

from pipeline.core.errors import PipelineError
from pipeline.data.sources import find_images
from pipeline.evaluation.metrics import EvaluationSet, differences, score_model, score_predictions
from pipeline.evaluation.report import MAPPED, Report, render, write_report
from pipeline.evaluation.results import Clusters, EvaluationResult
from pipeline.evaluation.retrieval import Candidates

HOSTILE = ("<script>alert(1)</script>", "<img src=x onerror=alert(2)>", "'\"><b>bold</b>", "{{ 7 * 7 }}", "</script>")
RANDOM = np.random.default_rng(0)
MODELS = ("functional", "sequential")


def report_on(folder: Path, names: list[str], dim: int = 5, curves: dict | None = None) -> Report:
    """A report on made-up predictions of real images; each label is a folder."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        make_image(number).save(folder / name, "PNG")
    images = find_images(folder)
    labels = sorted(set(images.labels))
    vectors = RANDOM.normal(size=(len(labels), dim)).astype(np.float32)
    targets = vectors[[labels.index(label) for label in images.labels]]
    evaluated = EvaluationSet(
        paths=images.paths,
        labels=images.labels,
        targets=targets,
        candidates=Candidates(zip(labels, vectors, strict=True)),
        centre=targets.mean(axis=0),
        deviation=targets.std(axis=0),
        clusters=images.labels,
    )
    predictions = {name: targets + RANDOM.normal(size=targets.shape) for name in MODELS}
    scored = score_predictions(predictions | {"mean": np.tile(targets.mean(0), (len(targets), 1))}, evaluated, {})
    result = EvaluationResult(
        models={name: score_model(scored[name], evaluated) for name in MODELS},
        baselines={"mean": scored["mean"].scores},
        differences=differences(scored, MODELS, evaluated),
        ceiling=1.0,
        noise_ceiling=None,
        images=len(images),
        clusters=Clusters("label", len(labels)),
        candidates=len(labels),
        target_rank=None,
        zero_targets=0,
        headline="a headline",
        conclusions=["A conclusion."],
    )
    return Report(result, scored, evaluated, images, curves or {})


def test_names_from_outside_stay_text(tmp_path: Path, open_page) -> None:
    images = tmp_path / "images"
    kinds = [name.replace("/", "") for name in HOSTILE]
    report = report_on(images, [f"{kind}/{kind}{number}.png" for kind in kinds for number in range(2)])
    write_report(tmp_path / "report.html", report)
    opened = open_page(tmp_path / "report.html")
    opened.page.on("dialog", lambda dialog: opened.messages.append(dialog.message))
    opened.page.locator("summary").first.click()
    dots = opened.page.locator("[data-chart=chart-map] .mark-symbol.layer_2_marks path")
    assert dots.count() == 10
    for at in range(10):
        dots.nth(at).hover(force=True)
        assert opened.page.locator("#vg-tooltip-element img").get_attribute("src").startswith("data:image/jpeg;base64,")
    assert opened.page.locator("b, img[src=x]").count() == 0
    text = opened.page.locator("body").inner_text()
    for kind in kinds:
        assert kind in text
    assert (opened.messages, len(opened.requests)) == ([], 1)


@pytest.mark.parametrize(("scheme", "width"), [("light", 1000), ("dark", 375)])
def test_the_report_is_readable_everywhere(tmp_path: Path, open_page, scheme: str, width: int) -> None:
    curves = {"functional": {"loss": [3.0, None], "validation_loss": [3.0, 2.0], "validation_cosine": [0.1, 0.2]}}
    names = [f"{'long ' * 12}{kind}/{'x' * 150}{number}.png" for kind in "abc" for number in range(4)]
    write_report(tmp_path / "report.html", report_on(tmp_path / "images", names, curves=curves))
    opened = open_page(tmp_path / "report.html", scheme, width)
    assert opened.overflow() <= 0
    for summary in opened.page.locator("summary").all():
        summary.click()
    assert opened.accessibility_violations() == []
    assert opened.page.locator("table").count() >= 6
    assert opened.messages == []


def test_no_other_script_can_run(tmp_path: Path, open_page) -> None:
    html = render(report_on(tmp_path / "images", [f"{kind}/{at}.png" for kind in "ab" for at in range(2)]))
    (tmp_path / "report.html").write_text(html.replace("</main>", "<script>document.title = 'run'</script></main>"))
    opened = open_page(tmp_path / "report.html")
    assert opened.page.title().startswith("Evaluation")
    assert "Content Security Policy" in "".join(opened.messages)


def test_parts_without_data_are_left_out(tmp_path: Path, open_page) -> None:
    """One dimension has no map, a single image no interval, and an image may be gone since it was read."""
    report = report_on(tmp_path / "images", ["a/0.png"], dim=1)
    (tmp_path / "images" / "a" / "0.png").unlink()
    write_report(tmp_path / "report.html", report)
    opened = open_page(tmp_path / "report.html")
    assert opened.page.locator("[data-chart=chart-map]").count() == 0
    assert "no preview" in opened.page.locator("body").inner_text()
    assert opened.messages == []


def test_the_size_of_a_report_is_bounded(tmp_path: Path) -> None:
    few = report_on(tmp_path / "images", [f"{label}/{at}.png" for label in "ab" for at in range(4)])
    rows = np.arange(MAPPED * 10) % 8
    evaluated = replace(
        few.evaluated,
        paths=[few.evaluated.paths[row] for row in rows],
        labels=[few.evaluated.labels[row] for row in rows],
        clusters=[few.evaluated.labels[row] for row in rows],
        targets=few.evaluated.targets[rows],
    )
    scored = score_predictions({name: each.predictions[rows] for name, each in few.scored.items()}, evaluated, {})
    html = render(replace(few, evaluated=evaluated, scored=scored, images=few.images.subset(rows)))
    assert f"{MAPPED} of {MAPPED * 10} images, chosen at random" in html
    assert len(re.findall('"image": "data:', html)) == MAPPED
    assert len(html) < 5e6


def test_a_report_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    report = report_on(tmp_path / "images", ["a/0.png", "b/0.png"])
    with pytest.raises(PipelineError, match="cannot be written"):
        write_report(tmp_path / "gone" / "report.html", report)
