"""Signed records of what embeddings were made from, and their replay."""
