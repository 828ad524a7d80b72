"""Representational similarity: whether conditions that are alike in one space are alike in another, by rsatoolbox.

A representational dissimilarity matrix (RDM) has the dissimilarity of each pair of conditions (Kriegeskorte, Mur and
Bandettini 2008, "Representational similarity analysis", Frontiers in Systems Neuroscience 2). RDMs of features are
compared with that of the targets; intervals are by a bootstrap over conditions (Schütt, Kipnis, Diedrichsen and
Kriegeskorte 2023, "Statistical inference on representational geometries", eLife 12).
"""

import contextlib
import importlib.util
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from scipy.spatial.distance import pdist

from pipeline.core.errors import Parameter, RequestError
from pipeline.core.wording import counted
from pipeline.evaluation import charts
from pipeline.evaluation.cka import unbiased_cka
from pipeline.evaluation.results import Bounds
from pipeline.evaluation.sections import Chart, Section, Table

FEWEST_FOR_INTERVALS = 10  # conditions
DRAWN = 60  # conditions in the picture of an RDM
LEVELS = (2.5, 97.5)  # percentiles
PREDICTIONS = "predictions"  # the name of a decoder's


@dataclass(frozen=True)
class RsaScore:
    """How similar the vectors of a layer, or the predictions of a decoder, are to the targets.

    Attributes:
        name: The layer, "vectors" of a table, or "predictions".
        similarity: Of its RDM to that of the targets.
        ci95: Its 95 % interval over conditions, or None.
        cka: Unbiased linear CKA with the targets; None if it is undefined.
        difference: The difference in similarity from the best other one.
        difference_ci95: Its 95 % interval over conditions, or None.
    """

    name: str
    similarity: float
    ci95: Bounds | None
    cka: float | None
    difference: float | None = None
    difference_ci95: Bounds | None = None


@dataclass(frozen=True)
class RsaResult:
    """Representational similarities to the targets.

    Attributes:
        conditions: The number of conditions.
        images: The number of images, averaged within conditions.
        dissimilarity: How two conditions are compared: "correlation", "cosine", "euclidean" or "crossnobis".
        method: How two RDMs are compared, by rsatoolbox's name.
        scores: In the order of the layers, then the predictions.
        noise_ceiling: The lower and the upper bound of the similarity that a perfect model could reach, or None. The
            data RDMs are then those of single repeats.
        bootstraps: The number of bootstrap samples.
        rdms: Name -> RDM, shape (C, C); "targets" is the first.
        trained_on: The number of images that the decoder of the predictions was trained on.
        report: The report's file, or None.
    """

    conditions: int
    images: int
    dissimilarity: str
    method: str
    scores: Sequence[RsaScore]
    noise_ceiling: Bounds | None
    bootstraps: int
    rdms: Mapping[str, np.ndarray] = field(repr=False)
    trained_on: int = 0
    report: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The JSON document of `rsa`."""
        document = asdict(self)
        del document["rdms"]
        return document

    @property
    def features(self) -> list[RsaScore]:
        """The scores of the layers, without the predictions."""
        return [score for score in self.scores if score.name != PREDICTIONS]

    def tables(self) -> list[Table]:
        """The scores, and their differences if there are several."""
        rows = [
            (
                score.name,
                f"{score.similarity:.3f}",
                _text(score.ci95, ".3f"),
                "-" if score.cka is None else f"{score.cka:.3f}",
            )
            for score in self.scores
        ]
        scores = Table(
            "Representational similarity to the targets", ("vectors", "similarity", "95 % interval", "CKA"), rows
        )
        differences = [
            (score.name, f"{score.difference:+.3f}", _text(score.difference_ci95, "+.3f"))
            for score in self.scores
            if score.difference is not None
        ]
        if not differences:
            return [scores]
        return [
            scores,
            Table("Difference from the best other", ("vectors", "difference", "95 % interval"), differences),
        ]

    def section(self, names: Sequence[str]) -> Section:
        """The section of a report.

        Args:
            names: The names of the conditions, in the order of the RDMs.
        """
        marks = {score.name: (score.similarity, score.ci95) for score in self.scores}
        rows = np.linspace(0, self.conditions - 1, min(self.conditions, DRAWN)).round().astype(int)
        drawn = [
            Chart(
                f"rdm-{number}",
                f"Dissimilarities by {name}",
                charts.matrix(rdm[np.ix_(rows, rows)], [names[row] for row in rows]),
                "Dark pairs are alike. The similarity to the targets is in the table.",
            )
            for number, (name, rdm) in enumerate(self.rdms.items())
        ]
        return Section(
            id="similarity",
            title="Representational similarity",
            paragraphs=self.paragraphs(),
            charts=[Chart("similarity", "Similarity to the targets", charts.points(marks, self.method))],
            small_charts=drawn,
            tables=self.tables(),
        )

    def _intervals(self) -> str:
        """What intervals are for, or why there are none."""
        if self.conditions < FEWEST_FOR_INTERVALS:
            return f"Intervals need {FEWEST_FOR_INTERVALS} conditions."
        return f"Intervals are for other conditions ({self.bootstraps:,} bootstrap samples)."

    def paragraphs(self) -> list[str]:
        """What the numbers are."""
        text = [
            f"{self.conditions} conditions from {self.images} images, compared by {self.dissimilarity}; their "
            f"dissimilarity matrices are compared with that of the targets by {self.method} (rsatoolbox). "
            f"{self._intervals()} CKA is unbiased linear centred kernel alignment with the targets.",
        ]
        if len(self.scores) > 2:
            text.append(
                "The best other is chosen by these conditions, and each interval is for one comparison: of many "
                "equally similar ones, some seem to differ by chance."
            )
        if len(self.features) < len(self.scores):
            text.append(
                "A decoder has learned the targets of its training images: the interval of its predictions is for "
                "other conditions, as many of which are trained on."
            )
        if self.trained_on:
            text.append(
                f"The decoder was trained on {self.trained_on} of {counted(self.images, 'image')}: the similarity of "
                "its predictions is not an estimate for new images."
            )
        if self.noise_ceiling:
            low, high = self.noise_ceiling
            text.append(
                f"The noise ceiling, the similarity that a perfect model could reach with single repeats, is between "
                f"{low:.3f} and {high:.3f}. Similarities are means over the repeats."
            )
        return text


def require_rsatoolbox() -> None:
    """Check that rsatoolbox is installed.

    Raises:
        RequestError: It is not installed.
    """
    if importlib.util.find_spec("rsatoolbox") is None:
        raise RequestError(
            "Representational similarity needs rsatoolbox; install it with pip install 'image-vectors[lab]'."
        )


def representational_similarity(
    vectors: Mapping[str, np.ndarray],
    targets: np.ndarray,
    repeats: np.ndarray | None,
    dissimilarity: str,
    method: str,
    images: int,
    bootstraps: int = 1000,
    seed: int = 0,
) -> RsaResult:
    """Compare the RDMs of vectors with that of targets.

    Args:
        vectors: Name -> vectors of the C conditions, shape (C, F).
        targets: Target embeddings, shape (C, D).
        repeats: Repeated targets, shape (R, C, D); None without. The targets' RDMs are then those of each repeat, or
            with "crossnobis" one RDM, cross-validated over repeats.
        dissimilarity: "correlation", "cosine", "euclidean" (squared) or, with repeats, "crossnobis"; vectors are then
            compared by "euclidean".
        method: rsatoolbox's name of the comparison of RDMs.
        images: The number of images that the conditions come from.
        bootstraps: Bootstrap samples of conditions.
        seed: Random seed.

    Raises:
        RequestError: A vector has no direction.
    """
    from rsatoolbox.inference import eval_bootstrap_pattern
    from rsatoolbox.inference.noise_ceiling import boot_noise_ceiling
    from rsatoolbox.model import ModelFixed
    from rsatoolbox.rdm import compare, concat

    plain = "euclidean" if dissimilarity == "crossnobis" else dissimilarity
    rdms = {name: _rdm(values, plain, name) for name, values in vectors.items()}
    if dissimilarity == "crossnobis":
        assert repeats is not None
        data = _crossnobis(repeats)
    elif repeats is not None:
        data = concat([_rdm(values, plain, "targets") for values in repeats])
    else:
        data = _rdm(targets, plain, "targets")
    with _quiet(seed):
        similarities = {name: float(np.mean(compare(rdm, data, method))) for name, rdm in rdms.items()}
        ceiling = boot_noise_ceiling(data, method) if data.n_rdm > 1 else None
        samples = np.empty((0, len(rdms)))
        if len(targets) >= FEWEST_FOR_INTERVALS:
            models = [ModelFixed(name, rdm) for name, rdm in rdms.items()]
            result = eval_bootstrap_pattern(models, data, method=method, N=bootstraps, boot_noise_ceil=False)
            samples = result.evaluations.reshape(bootstraps, -1)
            samples = samples[np.isfinite(samples).all(axis=1)]
    by_name = dict(zip(rdms, samples.T, strict=True))
    shown = {"targets": data.get_matrices().mean(axis=0)} | {name: rdm.get_matrices()[0] for name, rdm in rdms.items()}
    return RsaResult(
        conditions=len(targets),
        images=images,
        dissimilarity=dissimilarity,
        method=method,
        scores=[_score(name, similarities, by_name, unbiased_cka(vectors[name], targets)) for name in rdms],
        noise_ceiling=(float(ceiling[0]), float(ceiling[1])) if ceiling else None,
        bootstraps=bootstraps,
        rdms=shown,
    )


def _score(
    name: str, similarities: Mapping[str, float], samples: Mapping[str, np.ndarray], cka: float | None
) -> RsaScore:
    others = {other: value for other, value in similarities.items() if other != name}
    if not others:
        return RsaScore(name, similarities[name], _interval(samples[name]), cka)
    best = max(others, key=lambda other: others[other])
    return RsaScore(
        name,
        similarities[name],
        _interval(samples[name]),
        cka,
        similarities[name] - similarities[best],
        _interval(samples[name] - samples[best]),
    )


def _interval(samples: np.ndarray) -> Bounds | None:
    """The percentile interval of bootstrap samples; None if there are none."""
    if not len(samples):
        return None
    low, high = np.percentile(samples, LEVELS)
    return float(low), float(high)


def _rdm(vectors: np.ndarray, dissimilarity: str, name: str) -> Any:
    """The RDM of vectors (C, F)."""
    from rsatoolbox.data import Dataset
    from rsatoolbox.rdm import RDMs, calc_rdm

    vectors = np.asarray(vectors, np.float64)
    blind = np.ptp(vectors, axis=1) == 0 if dissimilarity == "correlation" else ~vectors.any(axis=1)
    if dissimilarity != "euclidean" and blind.any():
        raise RequestError(
            f"{blind.sum()} of the {len(vectors)} vectors of the {name} have no direction, so their {dissimilarity} is "
            "undefined. Choose ",
            Parameter("dissimilarity", "euclidean"),
            ".",
        )
    if dissimilarity == "cosine":  # rsatoolbox has none
        return RDMs(pdist(vectors, "cosine")[None], "cosine")
    return RDMs(calc_rdm(Dataset(vectors), method=dissimilarity).get_vectors(), dissimilarity)


def _crossnobis(repeats: np.ndarray) -> Any:
    """The cross-validated squared Mahalanobis distances of repeated targets (R, C, D), with dimensions uncorrelated."""
    from rsatoolbox.data import Dataset
    from rsatoolbox.rdm import RDMs, calc_rdm

    count, conditions, dim = repeats.shape
    descriptors = {
        "condition": [f"{number:06}" for _ in range(count) for number in range(conditions)],
        "repeat": [f"{number:06}" for number in range(count) for _ in range(conditions)],
    }
    residuals = repeats - repeats.mean(axis=0)
    variance = np.square(residuals).sum(axis=(0, 1)) / max(1, (count - 1) * conditions)
    precision = np.diag(1 / np.where(variance > 0, variance, 1.0))
    dataset = Dataset(repeats.reshape(-1, dim).astype(np.float64), obs_descriptors=descriptors)
    rdm = calc_rdm(dataset, "crossnobis", descriptor="condition", noise=precision, cv_descriptor="repeat")
    return RDMs(rdm.get_vectors(), "crossnobis")  # without descriptors, which other RDMs do not have


@contextlib.contextmanager
def _quiet(seed: int) -> Iterator[None]:
    """Without rsatoolbox's progress bar, and with its random numbers, which are NumPy's global ones, seeded."""
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        np.random.set_state(state)


def _text(interval: Bounds | None, form: str) -> str:
    return "-" if interval is None else f"{interval[0]:{form}} to {interval[1]:{form}}"
