"""Raw ASGI, one concern a file: no request passes a body twice, and nothing is buffered on the way out."""
