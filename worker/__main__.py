"""``python -m worker`` starts the worker; with arguments it is the same as ``worker``."""

from __future__ import annotations

import sys

from worker.cli import main

if __name__ == "__main__":
    main(sys.argv[1:] or ["start"])
