import numpy as np
import pytest
from scipy.stats import t

from pipeline.studies.equivalence import equivalence_test

DIFFERENCES = np.array([0.001, -0.002, 0.0015, 0.0005])


def test_equivalence_is_two_one_sided_tests() -> None:
    result = equivalence_test(DIFFERENCES, 0.01)
    error = DIFFERENCES.std(ddof=1) / 2
    p = max(t.sf((DIFFERENCES.mean() + 0.01) / error, 3), t.cdf((DIFFERENCES.mean() - 0.01) / error, 3))
    assert result.p == pytest.approx(p)
    half = t.ppf(0.95, 3) * error
    assert result.ci90 == pytest.approx([DIFFERENCES.mean() - half, DIFFERENCES.mean() + half])
    assert result.equivalent


@pytest.mark.parametrize(
    ("differences", "equivalent"),
    [
        (DIFFERENCES + 0.01, False),
        (DIFFERENCES - 0.01, False),
        (np.array([0.0, 0.04]), False),  # too wide for a conclusion
        (np.zeros(3), True),
        (np.full(3, 0.02), False),
        (np.zeros(1), None),
    ],
)
def test_equivalence_must_be_shown(differences: np.ndarray, equivalent: bool | None) -> None:
    assert equivalence_test(differences, 0.01).equivalent is equivalent
