import re
import shlex
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import make_image

from pipeline.core.errors import PipelineError
from pipeline.data.sources import find_images
from pipeline.evaluation.charts import histogram
from pipeline.evaluation.dimensions import distribution
from pipeline.evaluation.embedding_map import embedding_map
from pipeline.evaluation.metrics import EvaluationSet, NoiseCeiling, score_predictions
from pipeline.evaluation.noise_ceiling import CosineCeiling
from pipeline.evaluation.report import MAPPED, MOST_LABELS, Report, render, write_report
from pipeline.evaluation.report_tables import (
    LISTED,
    confusion_cells,
    difference_rows,
    informative_hits,
    listed_labels,
    repeat_command,
    score_rows,
)
from pipeline.evaluation.results import Clusters, EvaluationResult, LabelScores
from pipeline.evaluation.retrieval import Candidates
from pipeline.evaluation.scoreboard import scoreboard
from pipeline.evaluation.sections import Chart, Section, Table

HOSTILE = ("<script>alert(1)</script>", "<img src=x onerror=alert(2)>", "'\"><b>bold</b>", "{{ 7 * 7 }}", "</script>")
MODELS = ("functional", "sequential")


def report_on(folder: Path, names: list[str], dim: int = 5, known: dict | None = None, **more: Any) -> Report:
    """A report on made-up predictions for real images; each label is a folder.

    Args:
        folder: The folder for the images.
        names: The images.
        dim: The dimension of the targets.
        known: Additional attributes of the evaluation set.
        more: Additional attributes of the report.
    """
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        make_image(number).save(folder / name, "PNG")
    images = find_images(folder)
    labels = sorted(set(images.labels))
    random = np.random.default_rng(0)
    vectors = random.normal(size=(len(labels), dim)).astype(np.float32)
    targets = vectors[[labels.index(label) for label in images.labels]]
    evaluated = EvaluationSet(
        paths=images.paths,
        labels=images.labels,
        targets=targets,
        candidates=Candidates(zip(labels, vectors, strict=True)),
        **{
            "centre": targets.mean(axis=0),
            "deviation": targets.std(axis=0),
            "clusters": images.labels,
            **(known or {}),
        },
    )
    predictions = {name: targets + random.normal(size=targets.shape) for name in MODELS}
    scored = score_predictions(predictions | {"mean": np.tile(targets.mean(0), (len(targets), 1))}, evaluated, {})
    kind = "label" if evaluated.clusters == images.labels else "image"
    clusters = Clusters(kind, len(set(evaluated.clusters)), trained_on=True)
    result = EvaluationResult(
        **vars(scoreboard(scored, dict(zip(MODELS, MODELS, strict=True)), evaluated, clusters)),
        headline="Mean cosine 0.300: below the mean baseline of 0.400",
        conclusions=["A conclusion."],
        report=None,
    )
    return Report(result, scored, evaluated, images, **{"curves": {}, **more})


def images_of(labels: Iterable[str], count: int = 2) -> list[str]:
    return [f"{label}/{number}.png" for label in labels for number in range(count)]


def table(page: Any, name: str) -> dict[str, list[str]]:
    """The rows of a table by their first cell, without partial rows; "" is the head."""
    rows = page.locator(f"[role=region][aria-label='{name}'] tr").all()
    cells = [row.locator("th:not(.part), td").all_inner_texts() for row in rows]
    return {first if row else "": others for row, (first, *others) in enumerate(cells)}


def test_untrusted_names_stay_text(tmp_path: Path, open_page) -> None:
    images = tmp_path / "images"
    kinds = [name.replace("/", "") for name in HOSTILE]
    report = report_on(images, [f"{kind}/{kind}{number}.png" for kind in kinds for number in range(2)])
    write_report(tmp_path / "report.html", report)
    opened = open_page(tmp_path / "report.html")
    opened.page.on("dialog", lambda dialog: opened.messages.append(dialog.message))
    opened.page.locator("summary").first.click()
    dots = opened.page.locator("[data-chart=chart-map] .predictions_marks path")
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


def test_sections_without_data_are_omitted(tmp_path: Path, open_page) -> None:
    """One dimension has no map, a single image has no interval, and an image may have been deleted."""
    report = report_on(tmp_path / "images", ["a/0.png"], dim=1)
    (tmp_path / "images" / "a" / "0.png").unlink()
    write_report(tmp_path / "report.html", report)
    opened = open_page(tmp_path / "report.html")
    assert opened.page.locator("[data-chart=chart-map]").count() == 0
    assert "no preview" in opened.page.locator("body").inner_text()
    assert opened.messages == []


def test_a_section_has_its_text_charts_and_tables(tmp_path: Path, open_page) -> None:
    drawn = histogram(distribution(np.linspace(-1, 1, 30)), "r", "layers")
    section = Section(
        "layers",
        "Layers & <pools>",
        ["One <b>sentence</b>."],
        [Chart("layers", "Score by layer", drawn)],
        [Table("Layers", ["layer", "cosine"], [["fc2", "0.5"], ["<i>fc1</i>", "0.4"]])],
    )
    single_candidate = images_of("a")  # without retrieval
    page = opened_report(report_on(tmp_path / "images", single_candidate, sections=[section]), tmp_path, open_page)
    assert "One <b>sentence</b>." in page.locator("section[aria-labelledby=layers]").inner_text()
    assert page.locator("nav").get_by_text("Layers & <pools>").count() == 1
    assert page.locator("[data-chart=chart-layers] path").count() > 0
    assert table(page, "Layers") == {"": ["cosine"], "fc2": ["0.5"], "<i>fc1</i>": ["0.4"]}


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
    predictions = {name: scores.predictions[rows] for name, scores in few.scored.items()}
    scored = score_predictions(predictions, evaluated, {})
    html = render(replace(few, evaluated=evaluated, scored=scored, images=few.images.subset(rows)))
    assert f"{MAPPED} of {MAPPED * 10} images, chosen at random" in html
    assert len(re.findall('"image": "data:', html)) == MAPPED
    assert len(html) < 5e6


def test_a_report_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    report = report_on(tmp_path / "images", ["a/0.png", "b/0.png"])
    with pytest.raises(PipelineError, match="cannot be written"):
        write_report(tmp_path / "gone" / "report.html", report)


def opened_report(report: Report, tmp_path: Path, open_page, **view: Any) -> Any:
    write_report(tmp_path / "report.html", report)
    opened = open_page(tmp_path / "report.html", **view)
    assert opened.messages == []
    return opened.page


def test_the_headline_is_the_verdict(tmp_path: Path, open_page) -> None:
    page = opened_report(report_on(tmp_path / "images", images_of("ab")), tmp_path, open_page)
    assert page.locator("h1").inner_text() == "Mean cosine 0.300: below the mean baseline of 0.400"
    assert page.title() == "Evaluation: Mean cosine 0.300: below the mean baseline of 0.400"


def test_intervals_state_the_question_they_answer(tmp_path: Path, open_page) -> None:
    report = report_on(tmp_path / "images", images_of("abcdefghijkl", count=4))
    page = opened_report(report, tmp_path, open_page)
    rows = table(page, "Cosines")
    assert rows[""][1:3] == [
        "95 % interval for other labels that are also trained on",
        "for new images of these labels",
    ]
    cosine = report.result.models["functional"].scores.cosine
    intervals = [f"{low:.3f} to {high:.3f}" for low, high in (cosine.ci95, cosine.ci95_same_labels)]
    assert rows["functional"][1:3] == intervals
    assert intervals[0] != intervals[1]
    scores = report.result.models["functional"].scores
    others = page.locator("[role=region][aria-label='Other scores'] tbody tr").all()
    cells = [row.locator("th, td").all_inner_texts() for row in others]
    assert [row[:2] for row in cells[:3]] == [["functional", name] for name in ("hits@1", "identification", "mean r")]
    low, high = scores.patterns.identification_ci95
    assert cells[1][2:4] == [f"{scores.patterns.identification:.3f}", f"{low:.3f} to {high:.3f}"]
    assert cells[1][4] != cells[1][3]


def test_images_without_shared_labels_have_one_interval(tmp_path: Path, open_page) -> None:
    names = images_of([f"label {number}" for number in range(30)], count=1)
    page = opened_report(report_on(tmp_path / "images", names, known={"clusters": names}), tmp_path, open_page)
    assert table(page, "Cosines")[""][1:3] == ["95 % interval for new images", "median"]
    assert "answers a question" in page.locator("main").inner_text()


def test_hits_reached_by_chance_are_hidden() -> None:
    assert informative_hits(1000) == [1, 2, 5, 10, 20]
    assert informative_hits(20) == [1, 2, 5]
    assert informative_hits(2) == [1]


def test_retrieval_dimensions_and_patterns_are_in_tables(tmp_path: Path, open_page) -> None:
    report = report_on(tmp_path / "images", images_of("abcdefgh"))
    page = opened_report(report, tmp_path, open_page)
    scores, name = report.result.models["functional"].scores, "functional"
    hits = [f"{100 * scores.retrieval.hits[k]:.0f} %" for k in "12"]
    assert table(page, "Retrieval")[""][:3] == ["hits@1", "hits@2", "mean reciprocal rank"]
    assert table(page, "Retrieval")[name][:2] == hits
    assert table(page, "Retrieval")["chance"][:2] == ["12 %", "25 %"]
    csls = page.locator("[aria-label=Retrieval] tbody tr").nth(1).locator("th, td").all_inner_texts()
    assert csls[:3] == ["… by CSLS", *(f"{100 * scores.retrieval_csls.hits[k]:.0f} %" for k in "12")]
    assert table(page, "Hubs")[name][:2] == [scores.hub.candidate, f"{100 * scores.hub.share:.0f} %"]
    patterns = scores.patterns
    assert table(page, "Dimensions")[name] == [
        f"{patterns.pearson.median:.3f}",
        f"{patterns.pearson.lower_quartile:.3f} to {patterns.pearson.upper_quartile:.3f}",
        f"{patterns.r2.median:.3f}",
        f"{patterns.r2.lower_quartile:.3f} to {patterns.r2.upper_quartile:.3f}",
    ]
    assert table(page, "Dimensions")["mean baseline"][:2] == ["\N{EN DASH}"] * 2
    assert table(page, "Patterns")[name][2:] == [
        f"{100 * patterns.identification:.0f} %",
        f"{patterns.effective_rank:.1f}",
    ]
    assert table(page, "Patterns")["chance"][2] == "50 %"
    assert table(page, "Patterns")["targets"][3] == f"{report.result.target_rank:.1f}"


def test_models_with_equal_weights_share_a_row(tmp_path: Path) -> None:
    report = report_on(tmp_path / "images", images_of("ab"))
    scored = {name: scores for name, scores in report.scored.items() if name != "sequential"}
    equal = scoreboard(scored, dict.fromkeys(MODELS, "functional"), report.evaluated, report.result.clusters)
    assert equal.models["sequential"] == equal.models["functional"]
    assert equal.difference("functional", "sequential").is_zero
    assert [row.title for row in score_rows(equal)] == ["functional = sequential", "mean baseline"]
    assert [(row.of, row.minus) for row in difference_rows(equal)] == [("functional", "mean")]
    assert [row.title for row in score_rows(report.result)] == [*MODELS, "mean baseline"]
    assert len(difference_rows(report.result)) == 3


def test_the_contents_link_to_the_sections(tmp_path: Path, open_page) -> None:
    opened = opened_report(report_on(tmp_path / "images", images_of("abc")), tmp_path, open_page)
    titles = opened.locator("nav a").all_inner_texts()
    assert titles == opened.locator("main h2").all_inner_texts()
    opened.get_by_role("navigation").get_by_text("Best and worst images").click()
    assert opened.evaluate("document.querySelector(':target').textContent") == "Best and worst images"


def test_the_confusion_shows_its_numbers_and_the_map_joins_predictions_to_targets(tmp_path: Path, open_page) -> None:
    report = report_on(tmp_path / "images", images_of("abc", 3))
    opened = opened_report(report, tmp_path, open_page)
    cells = confusion_cells(report.scored[report.result.best_model], report.evaluated)
    numbers = opened.locator("[data-chart=chart-confusion] .mark-text.role-mark text").all_text_contents()
    assert sorted(map(int, numbers)) == sorted(cell["images"] for cell in cells)
    places = embedding_map(report.scored[report.result.best_model], report.evaluated, np.arange(9))
    assert places
    assert {(dot.true_x, dot.true_y) for dot in places.dots} == {(mark.x, mark.y) for mark in places.landmarks}
    lines = opened.locator("[data-chart=chart-map] .joins_marks line")
    assert lines.count() == 9


def test_histograms_are_drawn_to_scale(tmp_path: Path, open_page) -> None:
    report = report_on(tmp_path / "images", images_of("abcd"), dim=40)
    page = opened_report(report, tmp_path, open_page)
    patterns = report.result.models[report.result.best_model].scores.patterns
    for chart, values in (("pearson", patterns.pearson), ("r2", patterns.r2), ("pattern", patterns.pattern)):
        bars = page.locator(f"[data-chart=chart-{chart}] .mark-rect path").evaluate_all(
            "bars => bars.map(bar => [bar.getBBox().height, bar.getBBox().width])"
        )
        heights, widths = np.transpose(bars)
        assert np.allclose(heights / heights.max(), np.array(values.counts) / max(values.counts), atol=0.02)
        assert widths.min() > 5


def test_noise_ceiling(tmp_path: Path, open_page) -> None:
    names = images_of("abcd")
    known = {"noise": NoiseCeiling(CosineCeiling(0.9, 0.85, 0.95), np.array([0.25, 0.5, 1, 1, 1]))}
    report = report_on(tmp_path / "images", names, known=known)
    page = opened_report(report, tmp_path, open_page)
    scores = report.result.models["functional"].scores
    assert table(page, "Cosines")[""][-1] == "to the noise ceiling"
    assert table(page, "Cosines")["functional"][-1] == f"{100 * scores.progress_to_noise_ceiling:.0f} %"
    assert table(page, "Cosines")["noise ceiling"][0] == "0.9000"
    assert table(page, "Dimensions")["functional"][4] == f"{scores.patterns.pearson_of_ceiling.median:.3f}"
    assert page.locator("[data-chart=chart-pearson-of-ceiling] svg").count() == 1
    assert "noise ceiling dashed" in page.locator("figcaption").first.inner_text()
    page = opened_report(report_on(tmp_path / "images", names), tmp_path, open_page)
    assert page.locator("text=noise ceiling").count() == 0


def test_zero_shot_scores_and_labels_of_imagenet(tmp_path: Path, open_page) -> None:
    names = images_of(["a", "goldfish", "tench", "z"])
    known = {"seen": np.repeat([True, False, False, False], 2), "imagenet_weights": True}
    report = report_on(tmp_path / "images", names, known=known)
    page = opened_report(report, tmp_path, open_page)
    scores = report.result.models["functional"].scores.zero_shot
    shown = (scores.unseen_among_unseen, scores.unseen_among_all, scores.seen_among_all, scores.harmonic_mean)
    assert table(page, "Zero-shot accuracy")["functional"] == [f"{100 * value:.0f} %" for value in shown]
    parts = page.locator("[aria-label=Retrieval] th.part").all_inner_texts()[:4]
    assert parts == [
        "… by CSLS",
        "… labels that training saw",
        "… labels that it did not",
        "… of these, classes of ImageNet",
    ]
    page = opened_report(report_on(tmp_path / "images", names), tmp_path, open_page)
    assert page.locator("text=Zero-shot").count() == 0
    assert set(page.locator("th.part").all_inner_texts()) == {"… by CSLS"}


def test_many_labels_are_collapsed_sortable_and_filterable(tmp_path: Path, open_page) -> None:
    labels = [f"label {number}" for number in range(MOST_LABELS + 5)]
    report = report_on(tmp_path / "images", images_of(labels, count=1))
    page = opened_report(report, tmp_path, open_page)
    rows = page.locator("#labels-table tbody tr")
    assert not rows.first.is_visible()
    page.locator("summary", has_text="All 45 labels").press("Enter")
    assert rows.first.is_visible()
    heads = page.locator("#labels-table thead th")
    for key, order in (("Enter", 1), ("Space", -1)):
        heads.nth(2).locator("button").press(key)
        cosines = [float(text) for text in page.locator("#labels-table tbody td:nth-child(3)").all_inner_texts()]
        assert cosines == sorted(cosines, reverse=order < 0)
        assert heads.nth(2).get_attribute("aria-sort") == ("ascending" if order > 0 else "descending")
    heads.nth(0).locator("button").click()
    assert page.locator("#labels-table tbody th").all_inner_texts() == labels  # by number, not by letter
    assert [head.get_attribute("aria-sort") for head in heads.all()] == ["ascending"] + ["none"] * 4
    confused = page.locator("#labels-table tbody td:nth-child(5)").all_inner_texts()
    page.get_by_label("Filter").fill("LABEL 44")
    matches = sum("label 44" in f"{label} {other}" for label, other in zip(labels, confused, strict=True))
    assert page.locator("#labels-table tbody tr:visible").count() == matches < len(labels)
    assert page.get_by_role("status").inner_text() == f"{matches} of 45 shown"


def test_few_labels_are_not_collapsed(tmp_path: Path, open_page) -> None:
    page = opened_report(report_on(tmp_path / "images", images_of("ab")), tmp_path, open_page)
    assert page.locator("#labels-table").is_visible()
    assert page.get_by_label("Filter").count() == 0


def test_only_the_worst_of_very_many_labels_are_listed() -> None:
    labels = [LabelScores(f"{number:05}", 1, number / 1e4, 0, []) for number in range(LISTED + 9)][::-1]
    assert [label.label for label in listed_labels(labels)] == [f"{number:05}" for number in range(LISTED)]


@pytest.mark.parametrize("width", [375, 1200])
def test_labels_of_the_map_do_not_overlap(tmp_path: Path, open_page, width: int) -> None:
    labels = [f"{'long ' * (number % 4)}label {number}" for number in range(30)]
    report = report_on(tmp_path / "images", images_of(labels, count=1), dim=2)
    page = opened_report(report, tmp_path, open_page, width=width)
    boxes = page.locator("[data-chart=chart-map] .mark-text.role-mark text").evaluate_all(
        "texts => texts.filter(text => text.getAttribute('opacity') !== '0').map(text => text.getBoundingClientRect())"
    )
    assert len(boxes) >= 5
    crosses = page.locator("[data-chart=chart-map] .truths_marks path").evaluate_all(
        "crosses => crosses.map(cross => cross.getBoundingClientRect())"
    )
    for number, box in enumerate(boxes):
        for other in boxes[:number] + crosses:
            apart_x = max(box["left"] - other["right"], other["left"] - box["right"])
            # The line height of the font is larger than its letters.
            apart_y = max(box["top"] - other["bottom"], other["top"] - box["bottom"])
            assert max(apart_x, apart_y + 2) >= 0


def test_the_caption_of_the_map_matches_the_drawing(tmp_path: Path, open_page) -> None:
    words, crosses = "main section:has(#map) > p", "[data-chart=chart-map] .truths_marks path"
    page = opened_report(report_on(tmp_path / "few", images_of("abc")), tmp_path, open_page)
    assert "a grey cross is a true embedding" in page.locator(words).inner_text()
    assert page.locator(crosses).count() == 3
    labels = [str(number) for number in range(MOST_LABELS + 1)]
    page = opened_report(report_on(tmp_path / "many", images_of(labels, count=1)), tmp_path, open_page)
    assert "cross" not in page.locator(words).inner_text()
    assert page.locator("[data-chart=chart-map] .mark-text.role-mark").count() == 0


def test_the_parts_of_a_blend_are_listed(tmp_path: Path, open_page) -> None:
    report = report_on(tmp_path / "images", images_of("ab"), shares={"ridge": 0.25, "ramps": 0.5})
    page = opened_report(report, tmp_path, open_page)
    assert table(page, "What the decoder consists of") == {"": ["share"], "ridge": ["25 %"], "ramps": ["50 %"]}
    assert "consists of" not in render(replace(report, shares={}))


def test_nothing_is_cut_off_on_a_desktop(tmp_path: Path, open_page) -> None:
    names = images_of([f"{'long ' * 8}{label}{'x' * 40}" for label in "abcdefghijkl"])
    known = {
        "noise": NoiseCeiling(CosineCeiling(0.9, 0.85, 0.95), np.full(5, 0.5)),
        "seen": np.arange(24) >= 4,
        "imagenet_weights": True,
    }
    page = opened_report(report_on(tmp_path / "images", names, known=known), tmp_path, open_page, width=1200)
    for summary in page.locator("summary").all():
        summary.click()
    cut = page.locator(".scroll").evaluate_all(
        "boxes => boxes.filter(box => box.scrollWidth > box.clientWidth).map(box => box.getAttribute('aria-label'))"
    )
    assert cut == []


def test_titles_of_curves_name_their_images(tmp_path: Path, open_page) -> None:
    curves = {"functional": {"loss": [3.0, 2.0], "validation_loss": [3.0, 2.0], "validation_cosine": [0.1, 0.2]}}
    for of in ("held-out", "selection", "training"):
        report = report_on(tmp_path / of, images_of("ab"), curves=curves, validation_of={"functional": of})
        page = opened_report(report, tmp_path, open_page)
        heads = page.locator("[aria-label='Learning curves'] th[scope=col]").all_text_contents()
        assert heads[3:] == [f"loss on the {of} images, after the epoch", f"cosine on the {of} images, after the epoch"]


def test_the_command_that_repeats_a_run_is_quoted_for_a_shell() -> None:
    folder = Path("/tmp/my runs/$HOME; echo it's")
    command = ["python", "-m", "pipeline", "train", "--config", f"{folder}/run.json"]
    assert shlex.split(repeat_command(folder)) == command


def test_a_blend_without_shares_ignores_the_image(tmp_path: Path) -> None:
    html = render(report_on(tmp_path / "images", images_of("ab"), shares={"ridge": 0.0, "ramps": 0.0}))
    assert "The decoder ignores the image" in html
    assert "less than 100 %" not in html


def test_equal_embeddings_have_no_map(tmp_path: Path) -> None:
    """Principal components would warn about equal points."""
    report = report_on(tmp_path / "images", images_of("a", count=6), dim=5)
    targets = report.evaluated.targets
    scored = score_predictions(dict.fromkeys(report.scored, targets), report.evaluated, {})
    assert embedding_map(scored["functional"], report.evaluated, np.arange(6)) is None


def test_the_report_explains_how_r_is_averaged_over_folds(tmp_path: Path) -> None:
    known = {"folds": np.arange(8) % 2, "centre": np.zeros((2, 5)), "deviation": np.ones((2, 5))}
    html = render(report_on(tmp_path / "images", images_of("abcdefgh", count=1), known=known))
    assert "within each fold of three images or more, averaged over folds" in html
    alone = {"folds": np.arange(8), "centre": np.zeros((8, 5)), "deviation": np.ones((8, 5))}
    html = render(report_on(tmp_path / "alone", images_of("abcdefgh", count=1), known=alone))
    assert "5 dimensions have no r" in html
    assert "folds hold out fewer than three images" in html
