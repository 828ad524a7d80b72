"""What comes in: images and their target embeddings."""
