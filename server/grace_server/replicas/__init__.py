"""More engines than one: the service on Ray Serve, a corpus through Ray Data. Needs the extra `ray`.

    proxy -> ingress (the application of `app.py`, one process) -> a replica (one engine), and as many more as it takes

The ingress keeps admission, cache, in-flight sharing and the indexes; only the last stop of a text's way is elsewhere.
"""
