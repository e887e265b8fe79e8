"""The log of code that also runs in programs of users, such as a client in a web server.

The worker sets structlog up. Where nothing has, structlog would write to standard output, which is
the program's own. There the lines go to the standard logger ``worker``, and so, unless the program
sets logging up, to standard error.
"""

from __future__ import annotations

import logging

import structlog

__all__ = ["library_log"]


def library_log() -> structlog.stdlib.BoundLogger:
    """The logger ``worker``."""
    logger: structlog.stdlib.BoundLogger
    if structlog.is_configured():
        logger = structlog.get_logger("worker")
    else:
        logger = structlog.wrap_logger(
            logging.getLogger("worker"),
            processors=[structlog.processors.LogfmtRenderer(key_order=["event"])],
            wrapper_class=structlog.stdlib.BoundLogger,
        )
    return logger
