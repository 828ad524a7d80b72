import math
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats
from sklearn.metrics import r2_score
from sklearn.metrics.pairwise import cosine_similarity

from pipeline.core.errors import PipelineError
from pipeline.evaluation.metrics import EvaluationSet, NoiseCeiling, score_predictions
from pipeline.evaluation.results import Scores
from pipeline.evaluation.retrieval import Candidates
from pipeline.evaluation.score_table import COLUMNS, write_scores

IMAGES, DIMENSIONS = 40, ("valence", "constant", "arousal, self-rated", "3")
RANDOM = np.random.default_rng(0)
TARGETS = RANDOM.normal(size=(IMAGES, 4)).astype(np.float32)
TARGETS[:, 1] = 2
PREDICTED = (TARGETS + RANDOM.normal(size=TARGETS.shape)).astype(np.float32)
FOLDS = np.arange(IMAGES) % 4


def image_set(**columns) -> EvaluationSet:
    labels = [f"label {number}" for number in range(IMAGES)]
    return EvaluationSet(
        paths=["caf\udce9, 0.png", *(f"{number}.png" for number in range(1, IMAGES))],
        labels=labels,
        targets=TARGETS,
        candidates=Candidates(zip(labels, TARGETS, strict=True)),
        clusters=labels,
        **{"centre": TARGETS.mean(axis=0), "deviation": TARGETS.std(axis=0), **columns},
    )


def written(file: Path, images: EvaluationSet) -> tuple[pd.DataFrame, dict[str, Scores]]:
    """The table of a model and the mean baseline, and their summaries."""
    predictions = {"model": PREDICTED, "mean": np.tile(TARGETS.mean(axis=0), (IMAGES, 1))}
    scored = score_predictions(predictions, images, {})
    write_scores(file, scored, images, DIMENSIONS)
    table = pd.read_parquet(file) if file.suffix == ".parquet" else pd.read_csv(file)
    return table, {name: scores.scores for name, scores in scored.items()}


def part(table: pd.DataFrame, model: str, unit: str) -> pd.DataFrame:
    return table[(table.model == model) & (table.unit == unit)].reset_index()


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_scores_are_those_of_other_libraries_and_of_the_summaries(tmp_path: Path, suffix: str) -> None:
    reliability = np.array([0.8, math.nan, 0.5, 0.9])
    table, summaries = written(tmp_path / f"scores{suffix}", image_set(noise=NoiseCeiling(None, reliability)))
    assert list(table) == list(COLUMNS)
    assert len(table) == 2 * (IMAGES + 4)
    assert table.model.unique().tolist() == ["model", "mean"]
    of_images, summary = part(table, "model", "image"), summaries["model"]
    centre = TARGETS.mean(axis=0)
    assert of_images.cosine.tolist() == pytest.approx(np.diag(cosine_similarity(PREDICTED, TARGETS)), abs=1e-6)
    centred = np.diag(cosine_similarity(PREDICTED - centre, TARGETS - centre))
    assert of_images.centred_cosine.tolist() == pytest.approx(centred, abs=1e-6)
    nearest = cosine_similarity(PREDICTED, TARGETS)
    assert of_images.nearest.tolist() == [f"label {row}" for row in nearest.argmax(axis=1)]
    assert of_images["rank"].tolist() == (1 + (nearest > np.diag(nearest)[:, None]).sum(axis=1)).tolist()
    varies = TARGETS.std(axis=0) > 0
    z_scores = [(each[:, varies] - centre[varies]) / TARGETS.std(axis=0)[varies] for each in (PREDICTED, TARGETS)]
    patterns = [stats.pearsonr(*rows).statistic for rows in zip(*z_scores, strict=True)]
    assert of_images.pattern.tolist() == pytest.approx(patterns, abs=1e-5)
    assert of_images.name.tolist()[:2] == ["caf\\udce9, 0.png", "1.png"]
    assert of_images[["n", "label"]].values.tolist()[7] == [1, "label 7"]
    means = of_images[["cosine", "centred_cosine", "identification"]].mean()
    summarized = [summary.cosine.mean, summary.centred_cosine.mean, summary.patterns.identification]
    assert means.tolist() == pytest.approx(summarized, abs=1e-12)
    assert (of_images["rank"] < 1.5).mean() == summary.retrieval.top1
    assert of_images.pattern.median() == pytest.approx(summary.patterns.pattern.median, abs=1e-12)

    of_dimensions = part(table, "model", "dimension")
    assert of_dimensions.name.tolist() == list(DIMENSIONS)
    assert of_dimensions.n.tolist() == [IMAGES] * 4
    for row in (0, 2, 3):
        r = stats.pearsonr(PREDICTED[:, row], TARGETS[:, row]).statistic
        assert of_dimensions.pearson[row] == pytest.approx(r, abs=1e-6)
        assert of_dimensions.r2[row] == pytest.approx(r2_score(TARGETS[:, row], PREDICTED[:, row]), abs=1e-6)
        assert of_dimensions.pearson_of_ceiling[row] == pytest.approx(r / reliability[row] ** 0.5, abs=1e-6)
    assert of_dimensions.reliability.tolist() == pytest.approx(reliability.tolist(), nan_ok=True)
    for name in ("pearson", "r2"):
        assert of_dimensions[name].median() == pytest.approx(getattr(summary.patterns, name).median, abs=1e-12)


def test_undefined_scores_are_null_and_empty_never_nan(tmp_path: Path) -> None:
    written(tmp_path / "scores.csv", image_set())
    written(tmp_path / "scores.parquet", image_set())
    text = (tmp_path / "scores.csv").read_text()
    assert "nan" not in text.lower().replace("identification", "")
    constant = next(line for line in text.splitlines() if '"constant"' in line)
    assert constant == '"model","dimension","constant",,,40,' + "," * (len(COLUMNS) - 7)
    table = pq.read_table(tmp_path / "scores.parquet")
    for name in table.column_names:
        values = table[name].drop_null().to_pylist()
        assert not any(isinstance(value, float) and math.isnan(value) for value in values)
    assert table["fold"].null_count == table["reliability"].null_count == len(table)
    assert table.schema.field("n").type == table.schema.field("fold").type == pa.int64()


def test_folds_are_numbered_from_one(tmp_path: Path) -> None:
    moments = {"centre": np.zeros((4, 4)), "deviation": np.ones((4, 4))}
    table, summaries = written(tmp_path / "scores.csv", image_set(folds=FOLDS, **moments))
    assert part(table, "model", "image").fold.tolist() == (FOLDS + 1).tolist()
    of_dimensions = part(table, "model", "dimension")
    assert of_dimensions.fold.isna().all()
    within = [stats.pearsonr(PREDICTED[fold == FOLDS, 0], TARGETS[fold == FOLDS, 0]).statistic for fold in range(4)]
    assert of_dimensions.pearson[0] == pytest.approx(np.mean(within), abs=1e-6)
    assert of_dimensions.pearson.median() == pytest.approx(summaries["model"].patterns.pearson.median)


def test_rows_of_a_model_do_not_depend_on_the_others(tmp_path: Path) -> None:
    images = image_set()
    alone = score_predictions({"model": PREDICTED}, images, {})
    write_scores(tmp_path / "alone.csv", alone, images, DIMENSIONS)
    written(tmp_path / "both.csv", images)
    assert (tmp_path / "both.csv").read_text().startswith((tmp_path / "alone.csv").read_text())


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "scores.csv").mkdir()
    with pytest.raises(PipelineError, match=r"scores\.csv cannot be written"):
        written(tmp_path / "scores.csv", image_set())
    assert list(tmp_path.iterdir()) == [tmp_path / "scores.csv"]
