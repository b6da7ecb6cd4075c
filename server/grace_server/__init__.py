"""The GRACE service: HTTP around `grace`."""
