"""The input: images and their target embeddings."""
