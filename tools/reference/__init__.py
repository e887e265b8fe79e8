"""The reference pages under ``docs/reference``, and ``.env.example``: made from the code.

`pages` makes them, ``python -m tools.reference`` writes them, and
``tests/project/test_reference.py`` says whether the ones in the repository are current.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tools.reference import api, cli, log, metrics, settings

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["pages"]

MADE = "<!-- Made by `python -m tools.reference`: change the code, not this page. -->\n\n"


def pages() -> Mapping[str, str]:
    """The text of each page, by its path from the root of the project."""
    return {
        ".env.example": settings.example(),
        "docs/reference/settings.md": MADE + settings.page(),
        "docs/reference/cli.md": MADE + cli.page(),
        "docs/reference/metrics.md": MADE + metrics.page(),
        "docs/reference/api.md": MADE + api.page(),
        "docs/reference/openapi.json": json.dumps(api.description(), indent=1) + "\n",
        "docs/reference/log.md": MADE + log.page(),
    }
