"""The contract as an OpenAPI 3.1 description: the file `openapi.json` beside this one.

A test compares it with the routes, with the bounds in `contract`, and with real answers.
"""

from __future__ import annotations

from importlib.resources import files


def description() -> bytes:
    """The document, as it is served at `/openapi.json`."""
    return files(__package__ or "").joinpath("openapi.json").read_bytes()
