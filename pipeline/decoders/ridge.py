"""Ridge regression on any number of images, and on random ramps, which approximate a smooth kernel.

The method is Hoerl and Kennard's (1970). For the path of solutions see Hastie, Tibshirani and Friedman (2009), section
3.4.1: with the centred Gram matrix X'X = V diag(s) V', the coefficients for a penalty p are V diag(1 / (s + p)) V' X'Y.
So one read for the sums and one eigendecomposition serve all penalties. Squared errors follow from the sums of the
held-out rows alone, so predictions are not stored.
"""

import copy
from dataclasses import dataclass
from functools import reduce

import numpy as np

from pipeline.core.vectors import ROUNDING, Vectors, slices
from pipeline.decoders.hidden_layer import FLAT, HiddenLayer, orthogonal_directions, spanning_basis

# Relative to the mean squared length of a centred row. The smallest interpolates, the largest predicts the mean target.
PENALTIES = 10.0 ** np.arange(-7, 5.1, 0.5)
READ_AT_ONCE = 1024
COMPARED = 2048  # dimensions of the targets to choose a penalty by
VALUES = 2**22  # numbers in the arrays of a block of wide targets


@dataclass(frozen=True)
class Moments:
    """The sums over centred rows that ridge regression needs, in float64.

    The centred sums of parts are added by Chan, Golub and LeVeque's rule (1979); plain sums lose precision if features
    or targets are far from zero.

    Attributes:
        count: The number of rows.
        x: Mean feature, shape (F,).
        y: Mean target, shape (D,).
        xx: Sum of the outer products of each centred feature with itself, shape (F, F).
        xy: Sum of the outer products of each centred feature with its centred target, shape (F, D).
        yy: Sum of the squares of the centred targets.
    """

    count: int
    x: np.ndarray
    y: np.ndarray
    xx: np.ndarray
    xy: np.ndarray
    yy: float

    @classmethod
    def of(cls, x: "Vectors | Span", y: np.ndarray, rows: np.ndarray) -> "Moments":
        """Sum at least one of the rows of features (N, F) and targets (N, D), reading READ_AT_ONCE rows at a time."""
        blocks = (rows[start : start + READ_AT_ONCE] for start in range(0, len(rows), READ_AT_ONCE))
        return reduce(cls.__add__, (cls._of_block(x[block], y[block]) for block in blocks))

    @classmethod
    def _of_block(cls, x: np.ndarray, y: np.ndarray) -> "Moments":
        x, y = x.astype(np.float64), y.astype(np.float64)
        mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
        x, y = x - mean_x, y - mean_y
        return cls(len(x), mean_x, mean_y, x.T @ x, x.T @ y, float((y**2).sum()))

    def __add__(self, other: "Moments") -> "Moments":
        count = self.count + other.count
        dx, dy = other.x - self.x, other.y - self.y
        weight, share = self.count * other.count / count, other.count / count
        return Moments(
            count,
            self.x + share * dx,
            self.y + share * dy,
            self.xx + other.xx + np.outer(weight * dx, dx),
            self.xy + other.xy + np.outer(weight * dx, dy),
            self.yy + other.yy + weight * float(dy @ dy),
        )


class RidgePath:
    """The solutions for all penalties, from one eigendecomposition.

    Directions in which the rows differ by less than the precision of float32 are left out; if no direction is left, the
    solution for every penalty is the mean target. Penalties, shape (P,), are relative to the mean squared length of a
    centred row.

    Args:
        moments: The training rows.

    Attributes:
        mean_x: Mean feature, shape (F,).
        mean_y: Mean target, shape (D,).
    """

    def __init__(self, moments: Moments) -> None:
        from scipy.linalg import eigh

        self.mean_x, self.mean_y = moments.x, moments.y
        values, vectors = eigh(moments.xx, check_finite=False, driver="evd")
        kept = values > max(FLAT * FLAT * values[-1], ROUNDING * (values.sum() + moments.count * moments.x @ moments.x))
        self._values, self._vectors = values[kept], vectors[:, kept]
        self._projected = self._vectors.T @ moments.xy
        self._length = self._values.sum() / moments.count

    def of_targets(self, x: "Vectors | Span", y: np.ndarray) -> "RidgePath":
        """The solutions for other targets of the same rows.

        Args:
            x: The features of the training rows, shape (N, F).
            y: The targets, shape (N, D).
        """
        path = copy.copy(self)
        path.mean_y = y.mean(axis=0, dtype=np.float64)
        xy = np.zeros((len(self.mean_x), y.shape[1]))
        for start in range(0, len(y), READ_AT_ONCE):
            rows = slice(start, start + READ_AT_ONCE)
            xy += (x[rows] - self.mean_x).T @ (y[rows] - path.mean_y)
        path._projected = self._vectors.T @ xy
        return path

    def rotated(self, x: np.ndarray) -> np.ndarray:
        """Features of shape (M, F) minus the mean feature, along the R directions, shape (M, R)."""
        rotated: np.ndarray = (x - self.mean_x) @ self._vectors
        return rotated

    def filters(self, penalties: np.ndarray) -> np.ndarray:
        """The factor of each direction for each penalty, shape (P, R)."""
        return 1 / (self._values + penalties[:, None] * self._length)

    def predictions(self, x: np.ndarray, penalties: np.ndarray) -> np.ndarray:
        """Predictions for features of shape (M, F) with each penalty, shape (P, M, D), float32."""
        rotated = self.rotated(x)
        return np.stack(
            [
                ((rotated * factors) @ self._projected + self.mean_y).astype(np.float32)
                for factors in self.filters(penalties)
            ]
        )

    def squared_errors(self, held_out: Moments, penalties: np.ndarray) -> np.ndarray:
        """The squared errors on held-out rows, summed over rows and dimensions, for each penalty, shape (P,)."""
        filters = self.filters(penalties)
        xx = self._vectors.T @ held_out.xx @ self._vectors
        xy = self._vectors.T @ held_out.xy
        # |X S|^2 for a solution S = diag(filter) P is filter' (X'X * P P') filter, so one P P' serves all penalties.
        squares = np.einsum("pr,pr->p", filters @ (xx * (self._projected @ self._projected.T)), filters)
        about_means = held_out.yy - 2 * filters @ np.einsum("rd,rd->r", xy, self._projected) + squares
        dx, dy = (held_out.x - self.mean_x) @ self._vectors, held_out.y - self.mean_y
        errors: np.ndarray = about_means + held_out.count * np.square(dy - filters * dx @ self._projected).sum(axis=1)
        return errors

    def coefficients(self, penalties: np.ndarray, shares: np.ndarray) -> np.ndarray:
        """The coefficients for all penalties, weighted by shares (P,) and summed: shape (F, D), float64."""
        return self._vectors @ ((shares @ self.filters(penalties))[:, None] * self._projected)


@dataclass(frozen=True)
class Ridge:
    """A fitted ridge regression.

    Attributes:
        coefficients: Shape (F, D), float32.
        intercept: Shape (D,), float32.
    """

    coefficients: np.ndarray
    intercept: np.ndarray


class RidgeFolds:
    """Ridge regressions on all rows and without each fold, with any penalty.

    With more rows than features, the features are read once, a block at a time; otherwise they are loaded into memory,
    and the regressions are fitted in the space that they span. `sums_memory` says how much memory that needs.

    Args:
        x: Features, shape (N, F).
        y: Targets, shape (N, D).
        folds: The fold of each row, shape (N,), int.
        penalties: The penalties that `best` chooses from, shape (P,); empty if nothing calls it, and the sums
            are released by `out_of_fold`.
    """

    def __init__(self, x: Vectors, y: np.ndarray, folds: np.ndarray, penalties: np.ndarray = PENALTIES) -> None:
        self._span, self._folds, self._penalties = Span.of(x), folds, penalties
        self._features, self._dim = x.shape[1], y.shape[1]
        self._parts = {
            fold: Moments.of(self._span, y, np.flatnonzero(folds == fold)) for fold in np.unique(folds).tolist()
        }
        self._path = RidgePath(reduce(Moments.__add__, self._parts.values()))
        self._errors: dict[int, np.ndarray] = {}  # fold -> its squared errors; filled with the path without it

    def _without(self, fold: int) -> RidgePath:
        path = RidgePath(reduce(Moments.__add__, (part for other, part in self._parts.items() if other != fold)))
        if len(self._penalties):
            self._errors[fold] = path.squared_errors(self._parts[fold], self._penalties)
        return path

    def out_of_fold(self, rows: np.ndarray, penalties: np.ndarray) -> list[np.ndarray]:
        """Predict rows by regressions without their fold.

        Args:
            rows: The rows, shape (M,), int.
            penalties: Shape (P,).

        Returns:
            Predictions for each penalty, shape (M, D), float32.
        """
        predicted = np.empty((len(penalties), len(rows), self._dim), np.float32)
        for fold in np.unique(self._folds[rows]).tolist():
            held_out = self._folds[rows] == fold
            predicted[:, held_out] = self._without(fold).predictions(self._span[rows[held_out]], penalties)
        if not len(self._penalties):
            self._parts.clear()  # only `best` would need these sums again
        return list(predicted)

    def blend(self, penalties: np.ndarray, shares: np.ndarray) -> Ridge:
        """The mean target plus the deviations from it of the regressions on all rows, weighted by shares (P,)."""
        return self._span.on_features(self._path, penalties, shares)

    def best(self) -> Ridge:
        """The regression on all rows with the lowest out-of-fold squared error; for a single fold, the mean target."""
        return self.blend(*self._best())

    def best_for(self, y: np.ndarray) -> Ridge:
        """The regression of other targets for the same rows, shape (N, D), with the penalty of `best`.

        It is fitted in blocks of targets, so only the coefficients take more memory for wider targets.
        """
        best, dim = self._best(), y.shape[1]
        self._parts.clear()
        ridge = Ridge(np.empty((self._features, dim), np.float32), np.empty(dim, np.float32))
        for block in slices(dim, max(self._features, READ_AT_ONCE), VALUES):
            part = self._span.on_features(self._path.of_targets(self._span, y[:, block]), *best)
            ridge.coefficients[:, block], ridge.intercept[block] = part.coefficients, part.intercept
        return ridge

    def _best(self) -> tuple[np.ndarray, np.ndarray]:
        """The penalty with the lowest out-of-fold squared error, and its share, shape (1,) each."""
        if len(self._parts) == 1:
            return self._penalties[:1], np.zeros(1)
        for fold in self._parts:
            if fold not in self._errors:
                self._without(fold)
        errors = np.sum(list(self._errors.values()), axis=0)
        choice = len(errors) - 1 - int(errors[::-1].argmin())  # the largest of equally good penalties
        return self._penalties[[choice]], np.ones(1)


def fit_ridge(x: Vectors, y: np.ndarray, folds: np.ndarray) -> Ridge:
    """Fit ridge regression with the penalty that has the lowest out-of-fold squared error.

    For targets of more than COMPARED dimensions, the penalty is chosen by that many of them, drawn at random.

    Args:
        x: Features, shape (N, F).
        y: Targets, shape (N, D).
        folds: The fold of each row, shape (N,), int.
    """
    dim = y.shape[1]
    if dim <= COMPARED:
        return RidgeFolds(x, y, folds).best()
    compared = np.sort(np.random.default_rng(0).choice(dim, COMPARED, replace=False))
    return RidgeFolds(x, y[:, compared], folds).best_for(y)


@dataclass(frozen=True)
class Span:
    """Features as coordinates of the space that their rows span; unchanged if there are more rows than features.

    Attributes:
        x: The features, shape (N, F), or with a basis their coordinates, (N, R), float64.
        mean: Mean feature, shape (F,); None without a basis.
        basis: Orthonormal vectors, shape (F, R), or None.
    """

    x: Vectors
    mean: np.ndarray | None = None
    basis: np.ndarray | None = None

    @classmethod
    def of(cls, x: Vectors) -> "Span":
        """The span of features of shape (N, F)."""
        if len(x) > x.shape[1]:
            return cls(x)
        mean = x[:].mean(axis=0, dtype=np.float64)
        centred = x[:] - mean
        basis = spanning_basis(centred)
        return cls(centred @ basis, mean, basis)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        return self.x[rows]

    def coordinates(self, x: np.ndarray) -> np.ndarray:
        """Other features, shape (M, F), in the same coordinates."""
        return x if self.basis is None or self.mean is None else (x - self.mean) @ self.basis

    def on_features(self, path: RidgePath, penalties: np.ndarray, shares: np.ndarray) -> Ridge:
        """The solutions of a path, weighted by shares, as one regression on features; see `RidgePath.coefficients`."""
        coefficients, mean = path.coefficients(penalties, shares), path.mean_x
        if self.basis is not None and self.mean is not None:
            coefficients, mean = self.basis @ coefficients, self.mean + self.basis @ path.mean_x
        intercept = path.mean_y - mean @ coefficients
        return Ridge(coefficients.astype(np.float32), intercept.astype(np.float32))


def sums_memory(rows: int, features: int, dim: int, folds: int) -> int:
    """Bytes needed for the sums of all folds and one fold's regression, in addition to features and targets."""
    size = min(rows, features)
    return 8 * ((folds + 4) * size * size + (folds + 3) * size * dim + (3 * rows * features if rows <= features else 0))


@dataclass(frozen=True)
class Ramps:
    """Ramps in random directions, as wide as the training images' standard deviation, computed on access.

    A ramp rises from 0 to 1 and stays there. Ramps in all directions and at all offsets have the kernel -|x - x'|,
    which has no bandwidth to choose (Rahimi and Recht 2007 for random features; Székely and Rizzo 2013 for this
    kernel).

    Attributes:
        z: Coordinates of the training images, shape (N, R), float32.
        kernel: The direction of each ramp, in units of its width, shape (R, H), float32.
        middle: The position along each ramp's direction where it is 0.5, shape (H,), float32.
    """

    z: np.ndarray
    kernel: np.ndarray
    middle: np.ndarray

    @classmethod
    def draw(cls, z: np.ndarray, count: int, seed: int) -> "Ramps":
        """Draw `count` ramps, each centred on one of the training images."""
        random = np.random.default_rng([seed, 2])
        kernel = orthogonal_directions(z.shape[1], count, random).astype(np.float32)
        ranks = random.permutation(count) * len(z) // count
        middle = np.empty(count, np.float32)
        for start in range(0, count, 256):
            block = slice(start, start + 256)
            along = z @ kernel[:, block]
            deviation = along.std(axis=0)
            deviation[deviation == 0] = 1
            kernel[:, block] /= deviation
            middle[block] = np.take_along_axis(np.sort(along, axis=0), ranks[None, block], 0)[0] / deviation
        return cls(z, kernel, middle)

    @property
    def shape(self) -> tuple[int, int]:
        """(N, H)."""
        return len(self.z), len(self.middle)

    @property
    def dtype(self) -> np.dtype:
        """float32."""
        return np.dtype(np.float32)

    def __len__(self) -> int:
        return len(self.z)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        along = self.z[rows] @ self.kernel - self.middle + np.float32(0.5)
        return np.clip(along, 0, 1, out=along)

    def network(self, ridge: Ridge) -> HiddenLayer:
        """Rewrite a regression on ramps as a network on coordinates: a ramp is the difference of two ReLU units."""
        return HiddenLayer(
            np.hstack([self.kernel, self.kernel]),
            np.concatenate([0.5 - self.middle, -0.5 - self.middle]),
            np.vstack([ridge.coefficients, -ridge.coefficients]),
            ridge.intercept,
        )
