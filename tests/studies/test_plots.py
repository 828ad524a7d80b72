from pathlib import Path

import pytest

from pipeline.core.errors import PipelineError
from pipeline.studies.plots import plot_study
from pipeline.studies.shared_optimizer import Study
from pipeline.studies.verdicts import study_ceiling


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("a.svg", b"<svg"), ("a.pdf", b"%PDF")])
def test_a_plot_is_written_in_each_format(study: Study, tmp_path: Path, name: str, start: bytes) -> None:
    plot_study(study, study_ceiling(study), tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(start)
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_the_svg_names_the_scenarios(study: Study, tmp_path: Path) -> None:
    plot_study(study, study_ceiling(study), tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    assert all(name in text for name in study.scenarios)


def test_a_plot_that_cannot_be_written_is_an_error(study: Study, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"gone/a\.png cannot be written"):
        plot_study(study, study_ceiling(study), tmp_path / "gone" / "a.png")
