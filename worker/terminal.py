"""How the commands speak: exit codes, results on standard output, complaints on standard error.

========  ============================================================
exit      meaning
========  ============================================================
0         success; also a worker that was asked to stop
1         the task failed, or `check` found the Data API unfit
2         wrong usage, or no such task
69        the Data API, or the store, could not be reached
75        another run of the task is in the way; try again later
78        the configuration is wrong; nothing was started
128 + n   ended by signal n (130: Ctrl-C, 143: SIGTERM, 141: broken pipe)
========  ============================================================
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import contextmanager
from enum import IntEnum
from typing import TYPE_CHECKING

import typer

from worker.errors import (
    ConfigurationError,
    StoreError,
    StoreSchemaError,
    TaskBusy,
    TaskDefinitionError,
    UnknownTaskError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from worker.logs import LogStream
    from worker.settings import Settings

__all__ = ["ExitCode", "as_text", "complaints", "print_table", "ready_settings", "remark", "say"]


class ExitCode(IntEnum):
    """The exit codes, from ``sysexits.h`` where it has one."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 69
    BUSY = 75
    CONFIGURATION = 78
    BROKEN_PIPE = 141


def ready_settings() -> tuple[Settings, LogStream]:
    """The settings, and where the log goes that was set up as they say."""
    from worker.app import set_up_logging
    from worker.settings import load_settings

    settings = load_settings()
    return settings, set_up_logging(settings)


@contextmanager
def complaints() -> Iterator[None]:
    """Turn what is the caller's to mend into a message and an exit code."""
    try:
        yield
    except (ConfigurationError, TaskDefinitionError) as exc:
        typer.echo(f"worker: {exc}", err=True)
        raise typer.Exit(ExitCode.CONFIGURATION) from exc
    except UnknownTaskError as exc:
        typer.echo(f"worker: {exc}", err=True)
        raise typer.Exit(ExitCode.USAGE) from exc
    except TaskBusy as exc:
        typer.echo(f"worker: {exc}", err=True)
        raise typer.Exit(ExitCode.BUSY) from exc
    except StoreSchemaError as exc:
        typer.echo(f"worker: {exc}", err=True)
        raise typer.Exit(ExitCode.CONFIGURATION) from exc
    except StoreError as exc:
        typer.echo(f"worker: the store cannot be used: {exc}", err=True)
        raise typer.Exit(ExitCode.UNREACHABLE) from exc


def as_text(value: object, *, indent: int | None) -> str:
    return json.dumps(value, indent=indent)


def say(text: str) -> None:
    """Print a result. Where it cannot be written the command ends, without a traceback."""
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError as exc:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(ExitCode.BROKEN_PIPE) from exc
    except OSError as exc:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        typer.echo(f"worker: the result cannot be written: {exc.strerror}", err=True)
        raise typer.Exit(ExitCode.FAILED) from exc


def remark(text: str) -> None:
    """Tell a person what is no part of the result."""
    typer.echo(text, err=True)


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table for a terminal; aligned columns, nothing cut, for a pipe. Nothing without rows."""
    if not rows:
        return
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(*head, box=None, header_style="bold", pad_edge=False)
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        Console().print(table)
        return
    lines = [head, *rows]
    widths = [max(len(line[n]) for line in lines) for n in range(len(head))]
    say("\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines))
