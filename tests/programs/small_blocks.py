"""The command line, merging caches in blocks of one row, so that a short merge has many commits."""

from pipeline.__main__ import main
from pipeline.commands import cache_merge

cache_merge.BLOCK_BYTES = 1

if __name__ == "__main__":
    main()
