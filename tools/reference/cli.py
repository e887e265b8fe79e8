"""Every command, as ``worker --help`` would tell it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import typer.main

import worker.cli.terminal
from tools.reference.table import as_code, table
from worker.cli.main import app

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["page"]

INTRODUCTION = """\
# Commands

Results go to standard output, logs to standard error. Every command has `--help`.
`worker --install-completion` sets up your shell.

"""
EXIT_CODE = re.compile(r"^(\d+(?: \+ n)?) +(.*(?:\n {10}.*)*)$", re.MULTILINE)


def page() -> str:
    root = typer.main.get_command(app)  # of click, or of typer's own copy of it: hence Any
    parts = [INTRODUCTION, "## Exit codes\n\n", table(("exit code", "meaning"), exit_codes())]
    parts += [section(path, command) for path, command in commands(root, "worker")]
    return "".join(parts)


def exit_codes() -> list[tuple[str, str]]:
    """From the table that `worker.cli.terminal` begins with."""
    return [
        (code, as_code(meaning))
        for code, meaning in EXIT_CODE.findall(worker.cli.terminal.__doc__ or "")
    ]


def commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The commands below this one, in their order."""
    children = getattr(command, "commands", None)
    if children is None:
        yield path, command
        return
    for name, child in children.items():
        if not child.hidden:
            yield from commands(child, f"{path} {name}")


def section(path: str, command: Any) -> str:
    arguments = [shown for one in command.params if (shown := argument(one)) is not None]
    rows = [row for one in command.params if (row := described(one)) is not None]
    title = " ".join([path, *arguments])
    text = f"\n## {path}\n\n`{title}`\n\n{as_code(' '.join((command.help or '').split()))}\n"
    return text + ("\n" + table(("", "what it is", "default"), rows) if rows else "")


def argument(parameter: Any) -> str | None:
    if parameter.param_type_name != "argument":
        return None
    name = str(parameter.metavar or parameter.name).upper().strip("[]")
    name += "…" if parameter.nargs == -1 else ""
    return name if parameter.required else f"[{name}]"


def described(parameter: Any) -> tuple[str, str, str] | None:
    """A row about it; None for what every command has."""
    if parameter.name == "help":
        return None
    told = as_code(getattr(parameter, "help", None) or "")
    if parameter.param_type_name == "argument":
        return f"`{(argument(parameter) or '').strip('[]')}`", told, ""
    names = ", ".join(f"`{name}`" for name in parameter.opts)
    default = parameter.default
    shown = "" if default in (None, False, (), "") or callable(default) else f"`{default}`"
    return names, told, shown
