import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from pipeline.core.errors import PipelineError
from pipeline.decoders.network import ORIGINAL
from pipeline.decoders.training import History
from pipeline.studies.equivalence import Equivalence
from pipeline.studies.plots import COLOURS, plot_study
from pipeline.studies.shared_optimizer import SCENARIOS, FirstSteps, ModelPair, Study, original_data

SEEDS = (0, 1)
LAST = dict(zip(SCENARIOS, (0.1, 0.2, 0.3, 0.4), strict=True))  # the cosine at the end of all curves of a scenario


@pytest.fixture(scope="module")
def study() -> Study:
    """A study with made-up learning curves that differ between scenarios."""
    scenarios = {}
    for scenario, last in LAST.items():
        curve = {"validation_cosine": np.linspace(0, last, 1000).tolist()}
        histories = {style: History(curve) for style in ("functional", "sequential")}
        scenarios[scenario] = [ModelPair(seed, {}, histories, original_data(seed)) for seed in SEEDS]
    steps = FirstSteps(1000, {"fresh": 0.01, "inherited": 0.03}, {"fresh": 0.0, "inherited": 0.5})
    return Study(ORIGINAL, scenarios, steps, Equivalence(0.0, 0.01), {}, seconds=1.0)


def drawn_lines(svg: Path) -> list[list[tuple[str, float]]]:
    """The lines of each panel of a plot: their colours, and how many pixels they climb."""
    panels = []
    for panel in (
        ElementTree.parse(svg).getroot().iterfind(".//*[@class='mark-group role-scope child_layer_0_pathgroup']")
    ):
        lines = [path for path in panel.iter() if path.get("stroke") in COLOURS.values()]
        heights = [[float(y) for y in re.findall(r",(-?[\d.]+)", line.get("d") or "")] for line in lines]
        panels.append([(line.get("stroke") or "", y[0] - y[-1]) for line, y in zip(lines, heights, strict=True)])
    return panels


def test_each_panel_shows_the_curves_of_its_own_scenario(study: Study, tmp_path: Path) -> None:
    plot_study(study, 0.65, tmp_path / "a.svg")
    panels = drawn_lines(tmp_path / "a.svg")
    assert [len(lines) for lines in panels] == [len(SEEDS) * len(COLOURS)] * len(SCENARIOS)
    assert all({colour for colour, _ in lines} == set(COLOURS.values()) for lines in panels)
    climbs = np.array([[climb for _, climb in lines] for lines in panels])
    expected = np.array(list(LAST.values()))[:, None]
    assert climbs / climbs[0, 0] == pytest.approx(np.broadcast_to(expected / expected[0], climbs.shape), rel=0.02)


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("a.svg", b"<svg"), ("a.pdf", b"%PDF")])
def test_plots_are_written_in_each_format(study: Study, tmp_path: Path, name: str, start: bytes) -> None:
    plot_study(study, 0.65, tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(start)
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_the_svg_names_the_scenarios(study: Study, tmp_path: Path) -> None:
    plot_study(study, 0.65, tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    assert all(name in text for name in study.scenarios)


def test_a_plot_that_cannot_be_written_is_an_error(study: Study, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"gone/a\.png cannot be written"):
        plot_study(study, 0.65, tmp_path / "gone" / "a.png")
