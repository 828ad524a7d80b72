"""stub"""

import numpy as np


def find_copies(features):
    return np.unique(features.digests, return_inverse=True)[1]
