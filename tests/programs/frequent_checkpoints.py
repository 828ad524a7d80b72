"""The command line, with checkpoints so often that a short training has many."""

from pipeline.cli import main
from pipeline.decoders import callbacks, training

callbacks.CHECKPOINT_EVERY = training.CALL_SECONDS = 0.05

if __name__ == "__main__":
    main()
