"""How many cores this process may really use."""

import os


def usable_cores() -> int:
    """Cores by affinity and cgroup limits (joblib's count), or fewer where OMP_NUM_THREADS says so.

    Returns:
        At least 1.
    """
    import joblib

    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    cores = joblib.cpu_count()
    return min(cores, int(asked)) if asked.isdigit() and int(asked) else cores
