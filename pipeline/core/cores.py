"""The number of cores this process may use."""

import os


def usable_cores() -> int:
    """Number of cores by affinity and cgroup limits (joblib's count), or OMP_NUM_THREADS if that is lower.

    Returns:
        At least 1.
    """
    import joblib

    limit = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    cores = joblib.cpu_count()
    return min(cores, int(limit)) if limit.isdigit() and int(limit) else cores
