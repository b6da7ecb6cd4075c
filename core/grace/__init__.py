"""GRACE: text embeddings with the rationale they were made from."""
