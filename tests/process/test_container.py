"""The image, as far as it can be tested without an engine: its recipe, and what it would run.

The wheel is built and installed as the recipe does, and the worker is started with the recipe's
own environment, as a user who owns nothing.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.support.processes import LoggingProcess
from worker.settings import Settings, variable

ROOT = Path(__file__).parents[2]
NOBODY = "65534"

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the image is for Linux"),
    pytest.mark.timeout(180),  # the first test that asks for it builds and installs the wheel
]


@dataclass(frozen=True)
class Instruction:
    name: str
    value: str

    @property
    def words(self) -> list[str]:
        """What exec form, or the shell's own splitting, makes of the value."""
        if self.value.startswith("["):
            words: list[str] = json.loads(self.value)
            return words
        return shlex.split(self.value)


def parse(text: str) -> list[Instruction]:
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [
        Instruction(name.upper(), value.strip())
        for name, _, value in (line.partition(" ") for line in joined.splitlines())
    ]


RECIPE = parse((ROOT / "Dockerfile").read_text("utf-8"))
LAST_STAGE = max(n for n, instruction in enumerate(RECIPE) if instruction.name == "FROM")


def every(name: str, *, in_image: bool = False) -> list[Instruction]:
    stage = RECIPE[LAST_STAGE:] if in_image else RECIPE
    return [instruction for instruction in stage if instruction.name == name]


def image_environment() -> dict[str, str]:
    pairs = [word for env in every("ENV", in_image=True) for word in env.words]
    return dict(pair.split("=", 1) for pair in pairs)


def health_command() -> list[str]:
    (check,) = every("HEALTHCHECK", in_image=True)
    return Instruction("CMD", check.value.partition("CMD ")[2]).words


class TestRecipe:
    def test_hadolint_finds_nothing(self) -> None:
        hadolint = shutil.which("hadolint")
        if hadolint is None:
            pytest.skip("hadolint is not installed")
        done = subprocess.run(
            [hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def test_image_receives_only_what_another_stage_built(self) -> None:
        assert len(every("FROM")) == 2
        assert every("ADD") == []
        copies = every("COPY", in_image=True)
        assert copies
        assert all(copy.words[0] == "--from=build" for copy in copies)

    def test_image_keeps_no_installer(self) -> None:
        assert any("pip uninstall" in run.value for run in every("RUN", in_image=True))

    def test_versions_are_pinned_by_the_constraints(self) -> None:
        installs = [
            run.value for run in every("RUN") if "pip" in run.value and " install" in run.value
        ]
        assert installs
        assert all("--constraint constraints.txt" in install for install in installs)

    def test_everything_copied_is_in_the_build_context(self) -> None:
        sources = [word for copy in every("COPY")[:-1] for word in copy.words[:-1]]
        ignore = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
        assert ignore[1] == "*", "only what is named may enter the context"
        for source in sources:
            assert (ROOT / source).exists(), source
            assert f"!{source}" in ignore

    def test_no_secrets_and_no_local_files_enter_the_build_context(self) -> None:
        ignore = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
        assert {"**/.env", "**/__pycache__"} <= set(ignore)
        allowed = [line[1:] for line in ignore if line.startswith("!")]
        for name in (".env", ".git", "tests", "benchmarks", ".venv"):
            assert not any(fnmatch(name, pattern) for pattern in allowed), name

    def test_no_secrets_are_baked_in(self) -> None:
        named = [word for kind in ("ENV", "ARG") for one in every(kind) for word in one.words]
        assert not [word for word in named if re.search("(?i)token|secret|password|key", word)]

    def test_worker_variables_are_settings(self) -> None:
        known = {variable(name) for name in Settings.model_fields}
        ours = {name for name in image_environment() if name.startswith("WORKER_")}
        assert ours <= known

    def test_user_is_numeric_and_not_root(self) -> None:
        """A number, because Kubernetes' runAsNonRoot cannot judge a name."""
        user, group = every("USER", in_image=True)[-1].value.split(":")
        assert int(user) > 0
        assert int(group) > 0

    def test_worker_is_process_1_and_gets_the_signal(self) -> None:
        """A shell between would keep SIGTERM for itself."""
        (entrypoint,), (command,) = every("ENTRYPOINT"), every("CMD")
        assert entrypoint.value.startswith("[")
        assert command.value.startswith("[")
        assert [*entrypoint.words, *command.words] == ["worker", "start"]
        assert [stop.value for stop in every("STOPSIGNAL")] == ["SIGTERM"]

    def test_nothing_is_written_at_run_time_but_the_sign_of_life_and_the_ledger(self) -> None:
        environment = image_environment()
        assert environment["PYTHONDONTWRITEBYTECODE"] == "1"
        assert Path(environment["WORKER_HEARTBEAT_FILE"]).parent == Path("/tmp")
        assert [volume.value for volume in every("VOLUME")] == [environment["WORKER_STATE_DIR"]]


class TestHealthCheck:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        return tmp_path / "worker alive"

    def test_needs_no_shell(self) -> None:
        assert health_command() == ["worker", "health"]

    def test_fresh_file_is_healthy(self, file: Path) -> None:
        file.touch()
        assert is_healthy(file)

    def test_old_file_is_not(self, file: Path) -> None:
        file.touch()
        long_ago = time.time() - 61
        os.utime(file, (long_ago, long_ago))
        assert not is_healthy(file)

    def test_missing_file_is_not(self, file: Path) -> None:
        assert not is_healthy(file)


def is_healthy(file: Path) -> bool:
    code = subprocess.run(
        health_command(),
        env={"PATH": str(Path(sys.executable).parent), "WORKER_HEARTBEAT_FILE": str(file)},
        cwd=file.parent,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    ).returncode
    assert code in (0, 1), "an engine knows no other exit code"
    return code == 0


@dataclass(frozen=True)
class Installed:
    """What the recipe leaves, in another place."""

    root: Path
    as_somebody_else: tuple[str, ...]

    @property
    def cwd(self) -> Path:
        return self.root / "app"

    def files(self) -> set[Path]:
        return set(self.root.rglob("*"))

    def environment(self, heartbeat: Path) -> dict[str, str]:
        return {
            **image_environment(),
            "PATH": f"{self.root}/worker/bin:/usr/bin:/bin",
            "WORKER_HEARTBEAT_FILE": str(heartbeat),
            "WORKER_STATE_DIR": str(heartbeat.parent / "state"),
        }


@pytest.fixture(scope="session")
def installed() -> Iterator[Installed]:
    """The recipe's own commands, run below a temporary directory that nobody may write to."""
    root = Path(tempfile.mkdtemp(prefix="worker-image-"))
    try:
        build = root / "build"
        build.mkdir()
        for copy in every("COPY")[:-1]:
            for source in copy.words[:-1]:
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, build / source)
                else:
                    shutil.copy(ROOT / source, build / source)
        for run in RECIPE[:LAST_STAGE]:
            if run.name == "RUN":
                follow(run.value, root=root, cwd=build)
        # The rest of this command takes the installer away from the image; here it is the tests'.
        (load_once,) = every("RUN", in_image=True)
        follow(load_once.value.split(" && ")[0], root=root, cwd=build)
        shutil.rmtree(build)
        (root / "app").mkdir()
        protect(root, writable=False)
        yield Installed(root, as_somebody_else(root / "worker/bin/python"))
    finally:
        protect(root, writable=True)
        shutil.rmtree(root)


def follow(command: str, *, root: Path, cwd: Path) -> None:
    """Run one of the recipe's commands, with this test's Python and below ``root``."""
    here = {name: value for name, value in os.environ.items() if not name.startswith("WORKER_")}
    path = f"{root}/worker/bin:{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-c", command.replace("/opt/worker", f"{root}/worker")],
        cwd=cwd,
        env={**here, "PATH": path, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def protect(root: Path, *, writable: bool) -> None:
    for directory, _, _ in os.walk(root):
        os.chmod(directory, 0o755 if writable else 0o555)


def as_somebody_else(python: Path) -> tuple[str, ...]:
    """What to put before a command so that it does not run as root; nothing if this is not root.

    Where only root can reach the interpreter, the command may read all files, but write none.
    """
    if os.geteuid() != 0:
        return ()
    nobody = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    may_read = tuple(
        f"--{kind}=-all,+dac_read_search" for kind in ("bounding-set", "inh-caps", "ambient-caps")
    )
    for prefix in (nobody, nobody + may_read):
        if succeeds(*prefix, str(python), "-c", "pass"):
            return prefix
    pytest.skip("setpriv is not installed, or nobody but root can run this interpreter")


def succeeds(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def only_child(pid: int) -> int:
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
    return int(child)


@pytest.fixture
def heartbeat() -> Iterator[Path]:
    """A file in a directory that anybody may write to, as ``/tmp`` in the image."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o777)
        yield Path(directory) / "worker-alive"


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that is taken, so that nobody else listens on it either."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@asynccontextmanager
async def container(
    installed: Installed,
    environment: Mapping[str, str],
    *,
    around: Sequence[str] = (),
) -> AsyncIterator[LoggingProcess]:
    """The image's command, until the block is left."""
    process = await asyncio.create_subprocess_exec(
        *around,
        *installed.as_somebody_else,
        *every("ENTRYPOINT")[0].words,
        *every("CMD")[0].words,
        cwd=installed.cwd,
        env=environment,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    log = LoggingProcess(process)
    try:
        yield log
    finally:
        if process.returncode is None:
            process.kill()
        await log.ended()


class TestRun:
    async def test_runs_as_nobody_on_read_only_files_and_stops_at_sigterm(
        self, installed: Installed, heartbeat: Path, closed_port: int
    ) -> None:
        before = installed.files()
        environment = {
            **installed.environment(heartbeat),
            "WORKER_DATA_API_URL": f"http://127.0.0.1:{closed_port}",
            "WORKER_FIRST_RUN_DELAY": "off",
            "WORKER_FIRST_RUN_SPREAD": "off",
            "WORKER_RETRY_ATTEMPTS": "1",
        }
        async with container(installed, environment) as worker:
            await worker.logged("worker.ready")
            assert is_healthy(heartbeat)
            await worker.logged("run.failed", error_type="DataApiUnreachable")
            worker.signal(signal.SIGTERM)
            assert await worker.ended() == 0, worker.report()
        assert worker.told("worker.stopped")
        assert worker.other_lines == []
        assert installed.files() == before, "something was written beside the code"

    async def test_stops_at_sigterm_as_process_1(
        self, installed: Installed, heartbeat: Path, closed_port: int
    ) -> None:
        """The kernel ignores a signal to process 1 that has no handler."""
        around = ("unshare", "--pid", "--fork", "--kill-child")
        if not succeeds(*around, "true"):
            pytest.skip("unshare --pid needs root and the right to make namespaces")
        environment = {
            **installed.environment(heartbeat),
            "WORKER_DATA_API_URL": f"http://127.0.0.1:{closed_port}",
        }
        async with container(installed, environment, around=around) as worker:
            ready = await worker.logged("worker.ready")
            assert ready["pid"] == 1
            os.kill(only_child(worker.process.pid), signal.SIGTERM)
            assert await worker.ended() == 0, worker.report()

    def test_bytecode_is_complete(self, installed: Installed) -> None:
        """What is not compiled now is compiled at every start."""
        sources = [
            path for path in (installed.root / "worker/lib").rglob("*.py") if path.stat().st_size
        ]
        tag = sys.implementation.cache_tag
        missing = [
            path
            for path in sources
            if not (path.parent / "__pycache__" / f"{path.stem}.{tag}.pyc").exists()
        ]
        assert sources
        assert missing == []

    def test_image_holds_no_installer(self, installed: Installed) -> None:
        commands = {path.name for path in (installed.root / "worker/bin").iterdir()}
        assert "worker" in commands
        assert not [name for name in commands if name.startswith(("pip", "wheel", "hatch"))]
