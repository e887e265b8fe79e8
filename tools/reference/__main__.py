"""Write the reference pages: ``python -m tools.reference``."""

from __future__ import annotations

import sys
from pathlib import Path

from tools.reference import pages

ROOT = Path(__file__).parent.parent.parent


def main() -> None:
    for name, text in pages().items():
        path = ROOT / name
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")
            sys.stdout.write(f"{name}\n")


main()
