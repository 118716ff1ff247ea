"""Serving a model over HTTP: the OpenAI API with a prefix that is read once, and sessions of its own.

It needs the extra `serve` (FastAPI and others); nothing here is imported before it is asked for.
"""
