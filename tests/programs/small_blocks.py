"""The command line, with a merge of caches in blocks of one row, so that a short one has many commits."""

from pipeline.cli import main
from pipeline.commands import cache_merge

cache_merge.BLOCK_BYTES = 1

if __name__ == "__main__":
    main()
