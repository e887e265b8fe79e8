"""Every setting, from `worker.settings.Settings`: a page, and ``.env.example``."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from tools.reference.table import table
from worker.durations import format_duration
from worker.settings import SECRETS, Settings, variable

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["example", "page"]

INTRODUCTION = """\
# Settings

Everything comes from the environment or from a file `.env`; the environment wins. Durations are
`90` (seconds), `90s`, `5m`, `1h30m`, `2d` or ISO 8601. A wrong value or a `WORKER_…` name that
does not exist is refused at start, all of them at once. An empty value counts as none. An interval
of `0` or `off` turns a task off; it can still be run by hand. `worker check` says what is wrong
without starting anything.

"""
EXAMPLE = """\
# Copy to .env and change what you need: lines that begin with # show the defaults.
# Durations: 90, 90s, 5m, 1h30m, 2d, PT5M.
"""
REQUIRED = {"data_api_url": "http://localhost:8000"}


def rows() -> Iterator[tuple[str, str | None, str]]:
    """The variable, the default as one would write it (None: it is required), what it is."""
    for name, field in Settings.model_fields.items():
        if not field.description:
            raise ValueError(f"{name} in worker/settings.py needs a description")
        default = None if field.is_required() else written(field.default)
        yield variable(name), default, field.description
        if name in SECRETS:
            kind = f"A file that holds `{variable(name)}`, such as a mounted secret."
            yield f"{variable(name)}_FILE", "", kind


def written(default: object) -> str:
    if default is None or default == ():
        return ""
    if isinstance(default, timedelta):
        return format_duration(default)
    if isinstance(default, bool):
        return str(default).lower()
    return ",".join(default) if isinstance(default, tuple) else str(default)


def page() -> str:
    return INTRODUCTION + table(
        ("variable", "default", "what it is"),
        (
            (
                f"`{name}`",
                "required" if default is None else f"`{default}`" * bool(default) or "none",
                what,
            )
            for name, default, what in rows()
        ),
    )


def example() -> str:
    parts = [EXAMPLE]
    for name, default, what in rows():
        line = (
            f"{name}={REQUIRED[name.removeprefix('WORKER_').lower()]}"
            if default is None
            else f"#{name}={default}"
        )
        parts.append(f"# {what.replace('`', '')}\n{line}\n")
    return "\n".join(parts)
