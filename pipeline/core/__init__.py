"""What every stage uses: errors, atomic writes, vectors as a protocol, Keras, and runs on disk."""
