from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import PipelineError
from pipeline.decoders.presets import ORIGINAL
from pipeline.decoders.training import History
from pipeline.studies.equivalence import Equivalence
from pipeline.studies.plots import plot_study
from pipeline.studies.shared_optimizer import SCENARIOS, FirstSteps, ModelPair, Study, original_data


@pytest.fixture(scope="module")
def study() -> Study:
    """A study with made-up learning curves of two seeds."""
    curve = {"validation_cosine": np.linspace(0, 0.6, 1000).tolist()}
    histories = {style: History(curve) for style in ("functional", "sequential")}
    pairs = [ModelPair(seed, {}, histories, original_data(seed)) for seed in (0, 1)]
    steps = FirstSteps(1000, {"fresh": 0.01, "inherited": 0.03}, {"fresh": 0.0, "inherited": 0.5})
    return Study(ORIGINAL, dict.fromkeys(SCENARIOS, pairs), steps, Equivalence(0.0, 0.01), {}, seconds=1.0)


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("a.svg", b"<svg"), ("a.pdf", b"%PDF")])
def test_a_plot_is_written_in_each_format(study: Study, tmp_path: Path, name: str, start: bytes) -> None:
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
