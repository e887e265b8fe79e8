"""The systemd unit: what systemd says of it, and whether it is true of the worker."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.manifests import UNIT, UNIT_ENVIRONMENT, in_systemd, unit
from worker.cli.terminal import ExitCode

EXPOSED_AT_MOST = 20  # of 100, as systemd counts; a unit without any lock has 96
SAID = unit()


@pytest.fixture
def systemd_analyze() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        pytest.skip("systemd-analyze is not installed")
    return found


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """The unit with the program at a place that exists on this machine."""
    program = SAID["ExecStart"][0].split()[0]
    installed = str(Path(sys.executable).parent / "worker")
    path = tmp_path / UNIT.name
    path.write_text(UNIT.read_text("utf-8").replace(program, installed))
    return path


def test_systemd_takes_the_unit(systemd_analyze: str, here: Path) -> None:
    done = subprocess.run(
        [systemd_analyze, "verify", "--recursive-errors=no", here],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_unit_is_locked_in(systemd_analyze: str, here: Path) -> None:
    command = [systemd_analyze, "security", "--offline=true", f"--threshold={EXPOSED_AT_MOST}"]
    done = subprocess.run([*command, here], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_environment_and_state_are_where_the_unit_says() -> None:
    assert SAID["EnvironmentFile"] == [f"/etc/sidecar-worker/{UNIT_ENVIRONMENT.name}"]
    assert SAID["StateDirectory"] == ["sidecar-worker"]
    environment = in_systemd().environment
    assert environment["WORKER_STATE_DIR"] == "%S/sidecar-worker"
    (credential,) = SAID["LoadCredential"]
    assert environment["WORKER_OPS_TOKEN_FILE"] == f"%d/{credential.partition(':')[0]}"


def test_it_is_not_started_again_when_that_cannot_help() -> None:
    given_up = {int(code) for code in SAID["RestartPreventExitStatus"][0].split()}
    assert given_up == {ExitCode.USAGE, ExitCode.CONFIGURATION}
    assert SAID["Restart"] == ["always"]
