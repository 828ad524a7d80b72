"""Centred kernel alignment: how similar two sets of vectors of the same conditions are, whatever their dimensions.

Linear CKA (Kornblith, Norouzi, Lee and Hinton 2019, "Similarity of neural network representations revisited", ICML)
grows with the number of dimensions if conditions are few. This is its unbiased form, with the estimator of the
Hilbert-Schmidt independence criterion by Song, Smola, Gretton, Bedo and Borgwardt (2012, JMLR 13), as Nguyen, Raghu and
Kornblith (2021, ICLR) use it. It is near 0 for unrelated vectors, and may be negative.
"""

import math

import numpy as np

FEWEST = 4  # conditions, below which the estimator is undefined


def unbiased_cka(first: np.ndarray, second: np.ndarray) -> float | None:
    """Linear CKA with the unbiased estimator.

    Args:
        first: Vectors of C conditions, shape (C, F), C >= FEWEST.
        second: Other vectors of the same conditions, shape (C, D).

    Returns:
        At most 1; None if the vectors of one set are (nearly) all the same.
    """
    x, y = (_centred_kernel(vectors) for vectors in (first, second))
    own_x, own_y = (x * x).sum(), (y * y).sum()
    if own_x <= 0 or own_y <= 0:
        return None
    return float((x * y).sum() / math.sqrt(own_x * own_y))


def _centred_kernel(vectors: np.ndarray) -> np.ndarray:
    """The U-centred linear kernel (Székely and Rizzo 2014): rows and columns sum to 0, with a diagonal of 0.

    The mean product of the entries of two of them is Song et al.'s estimator.
    """
    vectors = np.asarray(vectors, np.float64)
    vectors = vectors - vectors.mean(axis=0)
    size = np.sqrt(np.square(vectors).mean())
    kernel = (vectors / size) @ (vectors / size).T if size > 0 else np.zeros((len(vectors),) * 2)
    count = len(kernel)
    np.fill_diagonal(kernel, 0)
    rows = kernel.sum(axis=1)
    kernel += rows.sum() / ((count - 1) * (count - 2)) - (rows[:, None] + rows) / (count - 2)
    np.fill_diagonal(kernel, 0)
    return kernel
