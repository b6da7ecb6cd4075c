"""The synchronous client: made from `_async`, but for `primitives.py`."""
