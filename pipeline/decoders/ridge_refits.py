"""Ridge regression refitted to many sets of targets for the same images, such as permuted targets.

The result is that of `pipeline.decoders.ridge.RidgeFolds.best`. The sums of the features and their eigendecompositions
do not depend on the targets, so they are computed once; each set of targets then takes a few matrix products.
"""

from dataclasses import dataclass

import numpy as np

from pipeline.core.vectors import Vectors
from pipeline.decoders.ridge import PENALTIES, Moments, RidgePath, Span


@dataclass(frozen=True)
class _Fold:
    """A regression without a fold, along the R directions of its training rows.

    Attributes:
        trained: The training rows, shape (n,), int.
        held_out: The rows of the fold, shape (m,), int.
        x: The training rows' features, shape (n, R), centred.
        new: The held-out rows' features, shape (m, R).
        gram: new' new, shape (R, R).
        filters: The factor of each direction for each penalty, shape (P, R).
    """

    trained: np.ndarray
    held_out: np.ndarray
    x: np.ndarray
    new: np.ndarray
    gram: np.ndarray
    filters: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray, trained: np.ndarray, held_out: np.ndarray, penalties: np.ndarray) -> "_Fold":
        """The regression on some rows of the features, shape (N, F)."""
        path = _path(x, trained)
        new = path.rotated(x[held_out])
        return cls(trained, held_out, path.rotated(x[trained]), new, new.T @ new, path.filters(penalties))

    def squared_errors(self, y: np.ndarray) -> np.ndarray:
        """The squared errors on the held-out rows for each penalty, shape (P,); see `RidgePath.squared_errors`."""
        projected = self.x.T @ y[self.trained]
        targets = y[self.held_out] - y[self.trained].mean(axis=0)
        products = np.einsum("rd,rd->r", self.new.T @ targets, projected)
        squares = np.einsum("pr,pr->p", self.filters @ (self.gram * (projected @ projected.T)), self.filters)
        errors: np.ndarray = np.square(targets).sum() - 2 * self.filters @ products + squares
        return errors


class RidgeRefits:
    """Ridge regressions of any targets on the same features, which are loaded into memory.

    Args:
        x: Training features, shape (N, F).
        folds: The fold of each row, shape (N,), int, for choosing the penalty.
        new: Features to predict from, shape (M, F).
        penalties: The penalties to choose from, shape (P,).
    """

    def __init__(self, x: Vectors, folds: np.ndarray, new: Vectors, penalties: np.ndarray = PENALTIES) -> None:
        span = Span.of(x)
        z, every = span.x[:].astype(np.float64), np.arange(len(x))
        rows = [(np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)) for fold in np.unique(folds)]
        self._folds = [_Fold.of(z, *sides, penalties) for sides in rows if len(sides[0])]
        path = _path(z, every)
        self._x, self._new, self._filters = (
            path.rotated(z),
            path.rotated(span.coordinates(new[:])),
            path.filters(penalties),
        )

    def deviations(self, y: np.ndarray) -> np.ndarray:
        """Fit targets, with the penalty of the lowest out-of-fold error, and predict from the new features.

        Args:
            y: Training targets, shape (N, D).

        Returns:
            Predictions minus the mean target, shape (M, D), float64; zero if there is a single fold.
        """
        if not self._folds:
            return np.zeros((len(self._new), y.shape[1]))
        errors = np.sum([fold.squared_errors(y) for fold in self._folds], axis=0)
        choice = len(errors) - 1 - int(errors[::-1].argmin())  # the largest of equally good penalties
        return (self._new * self._filters[choice]) @ (self._x.T @ y)


def _path(x: np.ndarray, rows: np.ndarray) -> RidgePath:
    """The directions of some rows, without targets."""
    return RidgePath(Moments.of(x, np.empty((len(x), 0)), rows))


def refits_memory(rows: int, features: int) -> int:
    """Bytes that `RidgeRefits` needs for five folds of some rows, including the features."""
    size = min(rows, features)
    return 8 * (7 * rows * size + 7 * size * size) + (28 if rows <= features else 4) * rows * features
