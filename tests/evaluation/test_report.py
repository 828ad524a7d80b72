import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import picture

from pipeline.core.errors import PipelineError, RequestError
from pipeline.data.sources import find_images
from pipeline.evaluation import metrics as evaluation
from pipeline.evaluation.report import MAPPED, Report, check_report, render, write_report
from pipeline.evaluation.retrieval import Candidates

HOSTILE = ("<script>alert(1)</script>", "<img src=x onerror=alert(2)>", "'\"><b>bold</b>", "{{ 7 * 7 }}", "</script>")
RANDOM = np.random.default_rng(0)


def report_on(folder: Path, names: list[str], dim: int = 5, curves: dict | None = None) -> Report:
    """A report on made-up predictions of real pictures; each label is a folder."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(folder / name, "PNG")
    images = find_images(folder)
    kinds = sorted(set(images.labels))
    vectors = RANDOM.normal(size=(len(kinds), dim)).astype(np.float32)
    targets = vectors[[kinds.index(label) for label in images.labels]]
    truth = Truth(images.paths, images.labels, targets, Candidates(zip(kinds, vectors, strict=True)), targets.mean(0))
    predictions = {name: targets + RANDOM.normal(size=targets.shape) for name in ("functional", "sequential")}
    judged = evaluation.judge(predictions | {"mean": np.tile(targets.mean(0), (len(targets), 1))}, truth, {})
    document = {
        "models": {
            name: {**judged[name].summary, "ceiling": 1.0, "labels": evaluation.by_label(judged[name], truth),
                   **evaluation.extremes(judged[name], truth)}
            for name in predictions
        },
        "baselines": {"mean": judged["mean"].summary},
        "differences": evaluation.differences(judged, list(predictions)),
        "ceiling": 1.0, "images": len(images), "candidates": len(kinds), "zero_targets": 0,
        "conclusions": ["So it is."],
    }  # fmt: skip
    return Report(document, judged, truth, images, curves or {})


def test_names_from_outside_stay_text(tmp_path: Path, open_page) -> None:
    pictures = tmp_path / "pictures"
    kinds = [name.replace("/", "") for name in HOSTILE]
    report = report_on(pictures, [f"{kind}/{kind}{number}.png" for kind in kinds for number in range(2)])
    write_report(tmp_path / "report.html", report)
    opened = open_page(tmp_path / "report.html")
    opened.page.on("dialog", lambda dialog: opened.complaints.append(dialog.message))
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
    assert (opened.complaints, len(opened.requests)) == ([], 1)


@pytest.mark.parametrize(("scheme", "width"), [("light", 1000), ("dark", 375)])
def test_it_is_readable_everywhere(tmp_path: Path, open_page, scheme: str, width: int) -> None:
    curves = {"functional": {"loss": [3.0, None], "validation_loss": [3.0, 2.0], "validation_cosine": [0.1, 0.2]}}
    names = [f"{'long ' * 12}{kind}/{'x' * 150}{number}.png" for kind in "abc" for number in range(4)]
    write_report(tmp_path / "report.html", report_on(tmp_path / "pictures", names, curves=curves))
    opened = open_page(tmp_path / "report.html", scheme, width)
    assert opened.overflow() <= 0
    for summary in opened.page.locator("summary").all():
        summary.click()
    assert opened.serious_faults() == []
    assert opened.page.locator("table").count() >= 6
    assert opened.complaints == []


def test_no_script_but_its_own_may_run(tmp_path: Path, open_page) -> None:
    html = render(report_on(tmp_path / "pictures", [f"{kind}/{at}.png" for kind in "ab" for at in range(2)]))
    (tmp_path / "report.html").write_text(html.replace("</main>", "<script>document.title = 'run'</script></main>"))
    opened = open_page(tmp_path / "report.html")
    assert opened.page.title().startswith("Evaluation")
    assert "Content Security Policy" in "".join(opened.complaints)


def test_it_does_without_what_is_not_there(tmp_path: Path, open_page) -> None:
    """One dimension has no map, a single image no interval, and a picture may be gone since it was read."""
    report = report_on(tmp_path / "pictures", ["a/0.png"], dim=1)
    (tmp_path / "pictures" / "a" / "0.png").unlink()
    write_report(tmp_path / "report.html", report)
    opened = open_page(tmp_path / "report.html")
    assert opened.page.locator("[data-chart=chart-map]").count() == 0
    assert "no picture" in opened.page.locator("body").inner_text()
    assert opened.complaints == []


def test_its_size_is_bounded(tmp_path: Path) -> None:
    few = report_on(tmp_path / "pictures", [f"{kind}/{at}.png" for kind in "ab" for at in range(4)])
    rows = np.arange(MAPPED * 10) % 8
    truth = few.truth
    many = Truth([truth.paths[row] for row in rows], [truth.labels[row] for row in rows], truth.targets[rows],
                 truth.candidates, truth.centre)  # fmt: skip
    judged = evaluation.judge({name: each.predictions[rows] for name, each in few.judged.items()}, many, {})
    html = render(dataclasses.replace(few, truth=many, judged=judged, images=few.images.take(rows)))
    assert f"{MAPPED} of {MAPPED * 10} images, chosen at random" in html
    assert len(re.findall('"image": "data:', html)) == MAPPED
    assert len(html) < 5e6


def test_wrong_places_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"an \.html file"):
        check_report(tmp_path / "report.pdf")
    with pytest.raises(RequestError, match="does not exist"):
        check_report(tmp_path / "no" / "report.html")
    report = report_on(tmp_path / "pictures", ["a/0.png", "b/0.png"])
    with pytest.raises(PipelineError, match="cannot be written"):
        write_report(tmp_path / "gone" / "report.html", report)
