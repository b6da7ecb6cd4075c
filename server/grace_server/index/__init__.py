"""Search: collections of documents that are never lost, over a vector index that can always be rebuilt."""
