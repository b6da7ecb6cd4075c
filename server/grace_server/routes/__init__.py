"""One file per endpoint: its wire models and its handler. Everything else is done by the stops around it."""
