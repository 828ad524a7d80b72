"""`python -m pipeline ...` that waits for Ray for 20 seconds only."""

from pipeline.cli import main
from pipeline.features import ray_extraction

if __name__ == "__main__":
    ray_extraction.PATIENCE = 20
    main()
