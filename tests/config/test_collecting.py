"""All tasks of an application are found by one entry point, and their names are unique."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from worker import ConfigurationError, Events, Runner, Scheduler, SystemClock
from worker.backends.memory import MemoryStore
from worker.config.collecting import register_modules
from worker.ledger.book import BY_HAND
from worker.ledger.thread import Lease, LedgerThread

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def scheduler() -> Scheduler:
    from datetime import timedelta

    clock = SystemClock()
    ledger = LedgerThread(
        lambda: MemoryStore(clock),
        replica=BY_HAND,
        keep=timedelta(days=1),
        lease=Lease(ttl=timedelta(seconds=30)),
        clock=clock,
    )
    runner = Runner(httpx.AsyncClient(), clock=clock, events=Events())
    return Scheduler(runner, clock=clock, events=Events(), ledger=ledger)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where modules are looked for; what was imported from there is forgotten."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(folder: Path, **modules: str) -> None:
    """Write modules into a folder."""
    for name, text in modules.items():
        (folder / f"{name}.py").write_text("from worker import *\n" + text)


def collected(scheduler: Scheduler, *modules: str) -> dict[str, Any]:
    """The tasks that were found, and whether they have a schedule."""
    register_modules(scheduler, modules)
    return {n: t.terms.schedule is not None for n, t in scheduler.tasks.items()}


PING = "@task()\nasync def ping(n: int): ...\n"
SEND = (
    "class Send(BaseTask):\n    name = 'send'\n    queue = 'mail'\n"
    "    async def execute(self): ...\n"
)
CLEAN = (
    "class Clean(BaseTask):\n    name = 'clean'\n    async def execute(self): ...\n"
    "def register(scheduler):\n    scheduler.register_task(Clean, interval='5m')\n"
)


def test_what_can_be_asked_for_is_found_without_being_registered(
    folder: Path, scheduler: Scheduler
) -> None:
    write(folder, shop=PING + SEND)
    assert collected(scheduler, "shop") == {"ping": False, "send": False}
    assert scheduler.tasks["send"].said_by == "on demand"


def test_what_the_module_registers_is_found_beside_it(folder: Path, scheduler: Scheduler) -> None:
    write(folder, shop=PING + CLEAN)
    assert collected(scheduler, "shop") == {"clean": True, "ping": False}


def test_a_task_that_is_registered_itself_is_found_once(folder: Path, scheduler: Scheduler) -> None:
    write(
        folder, shop=PING + "def register(s): s.register_task(ping, interval='5m', params={'n': 1})"
    )
    assert collected(scheduler, "shop") == {"ping": True}


def test_what_a_module_only_imports_is_left_to_its_own_module(
    folder: Path, scheduler: Scheduler
) -> None:
    write(folder, shop=SEND + "from others import ping\n", others=PING)
    assert collected(scheduler, "shop") == {"send": False}


def test_a_package_has_what_its_modules_define(folder: Path, scheduler: Scheduler) -> None:
    (folder / "tasks").mkdir()
    write(folder / "tasks", mail=SEND, pings=PING)
    write(
        folder / "tasks",
        __init__="from tasks.mail import Send\nfrom tasks.pings import ping\n",
    )
    assert collected(scheduler, "tasks") == {"send": False, "ping": False}


def test_abstract_classes_and_bases_without_a_name_are_no_tasks(
    folder: Path, scheduler: Scheduler
) -> None:
    write(
        folder,
        shop="class Base(BaseTask):\n    queue = 'mail'\n    async def execute(self): ...\n"
        "class Named(Base):\n    name = 'named'\n"
        "class Abstract(BulkTask):\n    name = 'abstract'\n",
    )
    assert collected(scheduler, "shop") == {"named": False}


def test_many_modules_are_one_application(folder: Path, scheduler: Scheduler) -> None:
    write(folder, shop=PING, mail=SEND, upkeep=CLEAN)
    assert collected(scheduler, "shop", "mail", "upkeep").keys() == {"ping", "send", "clean"}


def test_names_are_unique_in_the_application(folder: Path, scheduler: Scheduler) -> None:
    write(folder, shop=PING, mail="@task(name='ping')\ndef other(): ...\n")
    with pytest.raises(ConfigurationError, match="two tasks are named 'ping': shop:ping and mail"):
        collected(scheduler, "shop", "mail")


def test_a_class_and_a_function_cannot_share_a_name(folder: Path, scheduler: Scheduler) -> None:
    write(folder, shop=PING + SEND.replace("'send'", "'ping'"))
    with pytest.raises(ConfigurationError, match="two tasks are named 'ping'"):
        collected(scheduler, "shop")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected a function register"),
        ("raise ValueError('broken')\n", "cannot be imported: ValueError: broken"),
        ("import no_such_library\n", "cannot be imported: ModuleNotFoundError"),
        ("raise SystemExit(3)\n", "cannot be imported: SystemExit"),
        ("def register(: ...\n", "cannot be imported: SyntaxError"),
        ("async def register(scheduler): ...\n", "must be `def`, not `async def`"),
        ("def register(scheduler): raise KeyError('x')\n", r"register failed: KeyError"),
        ("@task(max_retries=-1)\nasync def ping(): ...\n", "max_retries: expected a whole number"),
        ("@task(retries=1)\nasync def ping(): ...\n", "unknown option retries"),
        ("@task()\nasync def ping(n): ...\n", "n has no type"),
    ],
)
def test_a_module_that_cannot_be_used_is_named(
    folder: Path, scheduler: Scheduler, text: str, words: str
) -> None:
    write(folder, broken_module=text)
    with pytest.raises(ConfigurationError, match=words) as refused:
        collected(scheduler, "broken_module")
    assert "WORKER_TASK_MODULES: broken_module" in str(refused.value)


def test_a_module_that_fails_says_where_in_ones_own_code(
    folder: Path, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = folder / "lib" / "site-packages"
    library.mkdir(parents=True)
    monkeypatch.syspath_prepend(str(library))
    (library / "far_away.py").write_text("import json\ndef loads(text): return json.loads(text)\n")
    (folder / "deep.py").write_text(
        "import far_away\ndef helper():\n    return far_away.loads('{')\n"
    )
    write(folder, shop="import deep\ndeep.helper()\n")
    write(folder, late="import deep\ndef register(scheduler): deep.helper()\n")
    monkeypatch.chdir(folder)
    for name in ("shop", "late"):
        with pytest.raises(ConfigurationError, match=r"JSONDecodeError: .*deep\.py:3 in helper\)"):
            collected(scheduler, name)
    monkeypatch.chdir(library)
    (library / "packed.py").write_text("1 / 0\n")
    with pytest.raises(ConfigurationError, match=r"by zero \(packed\.py:1\)"):
        collected(scheduler, "packed")


@pytest.mark.parametrize("name", ["shop_tasks.py", "./shop_tasks.py"])
def test_the_name_of_a_file_is_answered_with_that_of_its_module(
    scheduler: Scheduler, name: str
) -> None:
    with pytest.raises(ConfigurationError, match=r"expected a module's name: shop_tasks$"):
        collected(scheduler, name)


def test_a_task_that_nothing_runs_is_named(folder: Path, scheduler: Scheduler) -> None:
    never = "class B(BaseTask):\n    name = 'never'\n    async def execute(self): ...\n"
    write(folder, shop=never)
    words = r"found the task 'never' \(B\), which nothing runs: .*register_task\(B, interval"
    with pytest.raises(ConfigurationError, match=words):
        collected(scheduler, "shop")


def test_a_task_that_is_registered_twice_is_not_two_tasks(
    folder: Path, scheduler: Scheduler
) -> None:
    write(folder, shop=CLEAN + "    scheduler.register_task(Clean, interval='9m')\n")
    words = r"'clean' \(shop:Clean\) is registered twice, .*name=… for the second"
    with pytest.raises(ConfigurationError, match=words):
        collected(scheduler, "shop")
    write(folder, more=CLEAN.replace("'5m'", "'5m', name='b'").replace("'clean'", "'a'"))
    assert collected(scheduler, "more") == {"clean": True, "b": True}


def test_all_problems_of_all_modules_are_named_with_their_places(
    folder: Path, scheduler: Scheduler
) -> None:
    write(
        folder,
        shop="@task()\nasync def one(n): ...\n@task()\nasync def two(n): ...\n",
        mail=(
            "class First(BaseTask):\n    name = 'first'\n    queue = 3\n"
            "    async def execute(self): ...\n"
            "class Second(BaseTask):\n    name = 'second'\n    max_retries = -1\n    queue = 'q'\n"
            "    async def execute(self): ...\n"
            "class Third(BaseTask):\n    name = 'third'\n"
            "    async def execute(self): ...\n"
            "def register(scheduler):\n"
            "    scheduler.register_task(First, interval='5m')\n"
            "    scheduler.register_task(Third, intervall='5m')\n"
            "    scheduler.register_task(Third, interval='5m', name='3')\n"
        ),
        slips="class Slip(BaseTask):\n    max_retires = 1\n    bind = True\n",
        news="class Fine(BaseTask):\n    name = 'fine'\n    async def execute(self): ...\n",
    )
    with pytest.raises(ConfigurationError) as failure:
        collected(scheduler, "shop", "mail", "slips", "gone", "news")
    problems = "\n".join(failure.value.problems)
    for words in (
        r"shop: .*shop:one: n has no type.*shop.py:[23]\)",
        r"mail: mail:First: queue: expected .*mail.py:2\)",
        r"mail: mail:Second: max_retries: expected .*mail.py:6\)",
        r"mail: 'third': unknown option intervall .*mail.py:16 in register\)",
        r"slips: .*max_retires: unknown option .*; bind: here .*slips.py:2\)",
        r"gone: cannot be imported",
        r"news: found the task 'fine'",
    ):
        assert re.search(words, problems), (words, problems)
    assert len(failure.value.problems) == 7, problems


def test_a_module_that_is_not_there_is_named(scheduler: Scheduler) -> None:
    with pytest.raises(ConfigurationError, match="no_such_module"):
        collected(scheduler, "no_such_module")


def test_a_module_beside_the_current_folder_is_found(
    tmp_path: Path, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / "shop.py").write_text("from worker import task\n" + PING)
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    assert collected(scheduler, "shop") == {"ping": False}
