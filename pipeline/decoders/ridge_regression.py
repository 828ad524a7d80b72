"""Ridge regression on any number of images: sums from a stream, all penalties from one eigendecomposition.

The method is by Hoerl and Kennard 1970; the path of solutions is in Hastie, Tibshirani and Friedman 2009, section
3.4.1: with the centred Gram matrix X'X = V diag(s) V', the coefficients for a penalty p are V diag(1 / (s + p)) V' X'Y.
"""

from dataclasses import dataclass, replace

import numpy as np

from pipeline.core.vectors import Vectors, in_blocks

# Relative to the mean squared length of a centred row. The least is interpolation, the largest the mean target.
PENALTIES = 10.0 ** np.arange(-7, 5.1, 0.5)
READ_AT_ONCE = 1024
FLAT = 1e-7  # of the largest eigenvalue: a direction in which the training images do not differ


@dataclass(frozen=True)
class Moments:
    """The sums over some rows that ridge regression needs, in float64.

    Attributes:
        count: How many rows there are.
        x: Sum of the features, shape (F,).
        y: Sum of the targets, shape (D,).
        xx: Sum of the outer products of each feature with itself, shape (F, F).
        xy: Sum of the outer products of each feature with its target, shape (F, D).
    """

    count: int
    x: np.ndarray
    y: np.ndarray
    xx: np.ndarray
    xy: np.ndarray

    @classmethod
    def of(cls, x: Vectors, y: np.ndarray, rows: np.ndarray) -> "Moments":
        """Sum over some rows of features (N, F) and targets (N, D); reads READ_AT_ONCE rows at a time."""
        features, dim = x.shape[1], y.shape[1]
        sums = [np.zeros(features), np.zeros(dim), np.zeros((features, features)), np.zeros((features, dim))]
        for start in range(0, len(rows), READ_AT_ONCE):
            some = rows[start : start + READ_AT_ONCE]
            block, targets = x[some].astype(np.float64), y[some].astype(np.float64)
            sums[0] += block.sum(axis=0)
            sums[1] += targets.sum(axis=0)
            sums[2] += block.T @ block
            sums[3] += block.T @ targets
        return cls(len(rows), *sums)

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(
            self.count + other.count, self.x + other.x, self.y + other.y, self.xx + other.xx, self.xy + other.xy
        )

    def __sub__(self, other: "Moments") -> "Moments":
        return Moments(
            self.count - other.count, self.x - other.x, self.y - other.y, self.xx - other.xx, self.xy - other.xy
        )


class RidgePath:
    """The solutions for all PENALTIES, from one eigendecomposition.

    Args:
        moments: The training rows.

    Attributes:
        mean_x: Mean feature, shape (F,).
        mean_y: Mean target, shape (D,).
        penalties: PENALTIES times the mean squared length of a centred training row, shape (P,).
    """

    def __init__(self, moments: Moments) -> None:
        from scipy.linalg import eigh

        self.mean_x, self.mean_y = moments.x / moments.count, moments.y / moments.count
        values, self._vectors = eigh(moments.xx - np.outer(moments.x, self.mean_x), check_finite=False, driver="evd")
        self._values = np.maximum(values, 0)
        self._projected = self._vectors.T @ (moments.xy - np.outer(moments.x, self.mean_y))
        # If all features are equal, only the intercept is left for any penalty.
        self.penalties = PENALTIES * max(self._values.sum() / moments.count, np.finfo(np.float64).tiny)

    def predictions(self, x: np.ndarray) -> np.ndarray:
        """Predictions for features of shape (M, F) with each penalty, shape (P, M, D), float64."""
        turned = (x - self.mean_x) @ self._vectors
        solutions = (self._projected / (self._values + penalty)[:, None] for penalty in self.penalties)
        return np.stack([turned @ solution + self.mean_y for solution in solutions])

    def coefficients(self, choice: np.ndarray) -> np.ndarray:
        """Coefficients with a penalty for each target.

        Args:
            choice: Which of PENALTIES each target takes, shape (D,), int.

        Returns:
            Shape (F, D), float64.
        """
        return self._vectors @ (self._projected / (self._values[:, None] + self.penalties[choice]))


@dataclass(frozen=True)
class Ridge:
    """A fitted ridge regression.

    Attributes:
        coefficients: Shape (F, D), float32.
        intercept: Shape (D,), float32.
        penalties: The penalty of each target, shape (D,), float64.
    """

    coefficients: np.ndarray
    intercept: np.ndarray
    penalties: np.ndarray

    def predict(self, x: Vectors) -> np.ndarray:
        """Predictions for features of shape (N, F), shape (N, D), float32."""
        return np.concatenate([block @ self.coefficients + self.intercept for block in in_blocks(x)])


@dataclass(frozen=True)
class CrossValidatedRidge:
    """Ridge regression with penalties that cross-validation chose.

    Attributes:
        ridge: Fitted to all rows.
        out_of_fold: Predictions for each row, fitted to the other folds, shape (N, D), float32.
        error: Their mean squared error.
    """

    ridge: Ridge
    out_of_fold: np.ndarray
    error: float

    def on_features(self, mean: np.ndarray, basis: np.ndarray) -> "CrossValidatedRidge":
        """The same on features x, where this was fitted to (x - mean) @ basis; mean (F,), basis (F, R)."""
        coefficients = basis @ self.ridge.coefficients
        intercept = (self.ridge.intercept - mean @ coefficients).astype(np.float32)
        return replace(self, ridge=Ridge(coefficients.astype(np.float32), intercept, self.ridge.penalties))


def fit_ridge(x: Vectors, y: np.ndarray, folds: np.ndarray) -> tuple[CrossValidatedRidge, CrossValidatedRidge]:
    """Fit ridge regression with one penalty for all targets, and with a penalty for each.

    Both minimize the squared error out of fold. With more images than features, the features are read twice, a block at
    a time; otherwise they are held in memory, and the regression is done in the space that they span.

    Args:
        x: Features, shape (N, F).
        y: Targets, shape (N, D).
        folds: The fold of each row, shape (N,), int; at least two different ones.

    Returns:
        The one with one penalty, and the one with a penalty for each target.
    """
    if len(x) <= x.shape[1]:
        mean = x[:].mean(axis=0, dtype=np.float64)
        basis = spanning(x[:] - mean)
        choices = _fit((x[:] - mean) @ basis, y, folds)
        return choices[0].on_features(mean, basis), choices[1].on_features(mean, basis)
    return _fit(x, y, folds)


def spanning(centred: np.ndarray) -> np.ndarray:
    """Orthonormal vectors that span the rows of a matrix (N, F) with N <= F: shape (F, R), float64, R >= 1.

    From the eigendecomposition of the N x N matrix of dot products, which is cheaper than the matrix's own.
    """
    from scipy.linalg import eigh

    values, vectors = eigh(centred @ centred.T, check_finite=False, driver="evd")
    kept = values > FLAT * max(values[-1], np.finfo(np.float64).tiny)
    kept[-1] = True  # if all rows are zero, any direction will do
    return centred.T @ (vectors[:, kept] / np.sqrt(np.maximum(values[kept], np.finfo(np.float64).tiny)))


def _fit(x: Vectors, y: np.ndarray, folds: np.ndarray) -> tuple[CrossValidatedRidge, CrossValidatedRidge]:
    """See `fit_ridge`."""
    parts = [np.flatnonzero(folds == fold) for fold in np.unique(folds)]
    total = Moments.of(x, y, np.arange(len(y)))
    errors, found = np.zeros((len(PENALTIES), y.shape[1])), []
    for part in parts:
        predicted = RidgePath(total - Moments.of(x, y, part)).predictions(x[part])
        errors += ((predicted - y[part]) ** 2).sum(axis=1)
        found.append(predicted.astype(np.float32))
    path = RidgePath(total)

    def chosen(choice: np.ndarray) -> CrossValidatedRidge:
        targets, out_of_fold = np.arange(y.shape[1]), np.empty(y.shape, np.float32)
        for part, predicted in zip(parts, found, strict=True):
            out_of_fold[part] = predicted[choice, :, targets].T
        coefficients = path.coefficients(choice)
        intercept = path.mean_y - path.mean_x @ coefficients
        ridge = Ridge(coefficients.astype(np.float32), intercept.astype(np.float32), path.penalties[choice])
        return CrossValidatedRidge(ridge, out_of_fold, float(errors[choice, targets].sum() / y.size))

    return chosen(np.full(y.shape[1], errors.sum(axis=1).argmin())), chosen(errors.argmin(axis=0))
