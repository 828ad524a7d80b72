"""Code that all stages share: errors, atomic writes, the `Vectors` protocol, Keras, and runs on disk."""
