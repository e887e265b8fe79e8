"""The project keeps its own word: documents, public names, layers of imports."""

from __future__ import annotations

import ast
import asyncio
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import worker
from tests.support.documents import DOCUMENTS, README, ROOT, marked
from tests.support.processes import clean_environment, demo_api, worker_command
from worker.settings import SECRETS, Settings, variable

MODULES = sorted((ROOT / "worker").rglob("*.py"))


async def test_the_task_in_the_readme_runs(tmp_path: Path) -> None:
    example = marked("example", "shop_tasks.py")
    assert len([line for line in example.splitlines() if line.strip()]) <= 10
    (tmp_path / "shop_tasks.py").write_text(example)
    async with demo_api("--orders", "12") as api:
        code, out, _ = await worker_command(
            "run",
            "count_pending",
            environment={"WORKER_DATA_API_URL": api.url, "WORKER_TASK_MODULES": "shop_tasks"},
            cwd=tmp_path,
        )
    assert code == 0
    assert json.loads(out)["result"] == 12


async def test_the_larger_examples_of_tasks_run_too(tmp_path: Path) -> None:
    for name in ("more_tasks.py", "test_more_tasks.py"):
        (tmp_path / name).write_text(marked("example", name))
    code, out, _ = await worker_command(
        "list",
        environment={"WORKER_DATA_API_URL": "http://api", "WORKER_TASK_MODULES": "more_tasks"},
        cwd=tmp_path,
    )
    assert code == 0
    assert "report                  every 6h" in out
    assert "ping                    every 30s" in out
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "-q", "-o", "asyncio_mode=auto"),
        cwd=tmp_path,
        env=clean_environment(PYTHONPATH=str(tmp_path), PYTHONWARNINGS="default"),
        stdout=asyncio.subprocess.PIPE,
    )
    told, _ = await process.communicate()
    assert process.returncode == 0, told.decode()


async def test_the_schedules_in_the_chapter_on_them_are_taken(tmp_path: Path) -> None:
    for name in ("schedules.py", "schedules.toml"):
        (tmp_path / name).write_text(marked("example", name))
    environment = {
        "WORKER_DATA_API_URL": "http://api",
        "WORKER_TASK_MODULES": "schedules",
        "WORKER_SCHEDULES_FILE": "schedules.toml",
    }
    code, out, _ = await worker_command("list", "--json", environment=environment, cwd=tmp_path)
    assert code == 0
    schedules = {task["name"]: task["schedule"] for task in json.loads(out)}
    assert schedules == {
        "cleanup_old_orders": "0 3 * * * Europe/Berlin",
        "send_reminders": "every 2m",
        "sync_external_data": "off",
        "process_pending_orders": "every 5m",
        "invoices": "30 2 * * MON-FRI Europe/Berlin",
        "export": "every 10m until 2027-01-01T00:00:00Z",
        "rollout": "once at 2026-12-24T18:00:00Z",
    }
    for command in re.findall(
        r"^worker (schedule preview .*)$", DOCUMENTS["docs/schedules.md"], re.MULTILINE
    ):
        code, out, err = await worker_command(
            *shlex.split(command), environment=environment, cwd=tmp_path
        )
        assert (code, "ran" in out) == (0, True), err


def test_the_readmes_two_commands_do_all_the_set_up() -> None:
    for name, ending in (("demo", ".venv/bin/worker demo"), ("test", ".venv/bin/pytest -n 3")):
        command = marked("command", name).strip()
        assert command in README, ".ci/run takes it from there"
        assert "\n" not in command
        assert command.startswith("python3 -m venv .venv && ")
        assert command.endswith(ending)


def test_the_documents_name_no_setting_that_does_not_exist() -> None:
    known = {variable(name) for name in Settings.model_fields}
    known |= {f"{variable(name)}_FILE" for name in SECRETS}
    others = {name: (ROOT / name).read_text("utf-8") for name in (".env.example", "Dockerfile")}
    for name, text in (DOCUMENTS | others).items():
        assert set(re.findall(r"WORKER_[A-Z_]+\b", text)) <= known, name


def test_public_names_exist_and_are_documented() -> None:  # ruff keeps their order (RUF022)
    for name in worker.__all__:
        assert getattr(worker, name).__doc__, f"{name} has no docstring"


def test_nothing_in_the_package_silences_the_type_checker() -> None:
    for path in MODULES:
        assert "type: ignore" not in path.read_text(), path


FORBIDDEN_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}


def forbidden(tree: ast.AST) -> set[str]:
    """What in a module could turn data that came from outside into code."""
    found = set()
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                found |= {name.name.partition(".")[0] for name in names} & FORBIDDEN_MODULES
            case ast.ImportFrom(module=str(module)):
                found |= {module.partition(".")[0]} & FORBIDDEN_MODULES
            case ast.Call(func=ast.Name(id=name)) if name in FORBIDDEN_CALLS:
                found.add(name)
            case ast.Attribute(value=ast.Name(id="yaml"), attr=attribute):
                if attribute not in ("safe_load", "YAMLError"):
                    found.add(f"yaml.{attribute}")
            case ast.keyword(arg="shell", value=ast.Constant(value=True)):
                found.add("shell=True")
    return found


def test_nothing_in_the_package_turns_data_into_code() -> None:
    for path in MODULES:
        assert forbidden(ast.parse(path.read_text())) == set(), path


def test_the_search_for_such_things_finds_them() -> None:
    for code in (
        *("import pickle", "from marshal import loads", "import yaml; yaml.load(x)"),
        *("eval(x)", "exec(x)", "compile(x, '', 'exec')", "__import__(x)"),
        *("import yaml; yaml.unsafe_load(x)", "run(x, shell=True)"),
    ):
        assert forbidden(ast.parse(code)), code
    assert forbidden(ast.parse("import re; re.compile(x); import yaml; yaml.safe_load(x)")) == set()


def test_the_worker_alone_imports_neither_the_demo_nor_a_database() -> None:
    code = (
        "import sys, worker.cli.main, worker.app\n"
        "heavy = {'starlette', 'uvicorn', 'prometheus_client', 'worker.ops', 'worker.demo',\n"
        "'sqlite3', 'sqlalchemy', 'alembic',\n"
        "'psycopg', 'redis', 'yaml', 'aiobotocore', 'botocore', 'boto3', 'asyncpg'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_lower_layers_do_not_import_the_higher_ones() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
