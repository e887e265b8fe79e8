"""``python -m worker`` starts the worker; with arguments it is the same as ``worker``."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """What the command ``worker`` does.

    A probe asks for the health every few seconds, and does not wait for the rest to be imported.
    """
    arguments = sys.argv[1:]
    if arguments in (["health"], ["health", "--ready"]):
        from worker.cli.health import main as tell_health

        sys.exit(tell_health(ready=len(arguments) > 1))
    from worker.cli.main import main as command

    command(arguments)


if __name__ == "__main__":
    if len(sys.argv) == 1:
        sys.argv.append("start")
    main()
