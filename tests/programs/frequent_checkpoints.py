"""The command line, with checkpoints so frequent that a short training writes many."""

from pipeline.__main__ import main
from pipeline.decoders import callbacks, training

callbacks.CHECKPOINT_EVERY = training.CALL_SECONDS = 0.05

if __name__ == "__main__":
    main()
