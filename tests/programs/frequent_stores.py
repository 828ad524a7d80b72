"""The command line, with each batch stored at once, so that a short extraction has many commits."""

from pipeline.__main__ import main
from pipeline.features import saving

saving.STORE_SECONDS = 0.0

if __name__ == "__main__":
    main()
