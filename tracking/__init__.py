"""The trace of every request, shared by all router replicas through Redis.

A *trace* is one JSON object per request: which worker served it, why that one, how it went
(`trace.py`). Its *status* moves along one table (`lifecycle.py`). A *writer* gathers changed
traces and commits them in groups, off the request path (`writer.py`); the *store* is the Redis
side of it (`store.py`, `keys.py`, `scripts/`). A *view* answers questions from store and writer
together (`view.py`). This package knows neither the router nor HTTP.
"""
