"""Features -> predicted embeddings: decoders, their training, and the baselines they have to beat."""
