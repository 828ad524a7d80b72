"""Equivalence of two treatments by two one-sided t tests (Schuirmann 1987)."""

from dataclasses import dataclass

import numpy as np

LEVEL = 0.05


@dataclass(frozen=True)
class Equivalence:
    """The result of the two tests.

    Attributes:
        difference: The mean difference.
        margin: The equivalence margin; smaller differences are irrelevant.
        ci90: The 90 % interval of the difference, inside the margin if and only if both tests reject at 5 %.
        p: The larger of the two p values.
        equivalent: Whether both tests reject. `ci90`, `p` and `equivalent` are None for fewer than two differences.
    """

    difference: float
    margin: float
    ci90: tuple[float, float] | None = None
    p: float | None = None
    equivalent: bool | None = None


def equivalence_test(differences: np.ndarray, margin: float) -> Equivalence:
    """Test whether paired differences are within a margin of zero.

    Args:
        differences: Shape (N,).
        margin: The equivalence margin.

    Returns:
        The result.
    """
    from scipy.stats import ttest_1samp

    mean = float(differences.mean())
    if len(differences) < 2:
        return Equivalence(mean, margin)
    if np.ptp(differences) == 0:  # no spread, so no t statistic
        return Equivalence(mean, margin, (mean, mean), float(abs(mean) >= margin), abs(mean) < margin)
    above = ttest_1samp(differences, -margin, alternative="greater").pvalue
    below = ttest_1samp(differences, margin, alternative="less").pvalue
    interval = ttest_1samp(differences, 0).confidence_interval(1 - 2 * LEVEL)
    p = float(max(above, below))
    return Equivalence(mean, margin, (float(interval.low), float(interval.high)), p, p < LEVEL)
