"""Functions of tests that run in a process of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import clean_environment

if TYPE_CHECKING:
    from collections.abc import Callable

DEADLINE_S = 30.0


def command(function: Callable[..., None], *arguments: object) -> list[str]:
    """The command that runs a function of a test in a process of its own."""
    module, name = function.__module__, function.__name__
    code = f"import sys; from {module} import {name}; {name}(*sys.argv[1:])"
    return [sys.executable, "-c", code, *map(str, arguments)]


def outcome_of(arguments: list[str]) -> str:
    done = subprocess.run(
        arguments,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def with_mounts(script: str, *arguments: object) -> list[str]:
    """The command that runs a shell script which may mount; a skip where nobody may."""
    unshare = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]
    if not shutil.which("unshare") or subprocess.run([*unshare, "true"], check=False).returncode:
        pytest.skip("needs the right to mount (root, or user namespaces)")
    return [*unshare, "sh", "-euc", script, "sh", *map(str, arguments)]
