"""The command line, with a limit of 3 s per image."""

from pipeline.__main__ import main
from pipeline.features.backends import worker_pool

worker_pool.TIME_LIMIT = 3.0

if __name__ == "__main__":
    main()
