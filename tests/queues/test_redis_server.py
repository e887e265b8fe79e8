"""Which Redis is refused, which rights are needed, and what a script leaves that cannot finish."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from contextlib import ExitStack, asynccontextmanager, closing
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from tests.support.jobs import (
    LONG,
    QUEUE,
    SECOND,
    back,
    dead,
    ended,
    get,
    lease_now,
    lease_one,
    new,
)
from tests.support.processes import worker_command
from tests.support.redis_server import BINARY, MISSING, RedisServer, redis_server
from tests.support.servers import refused_port
from tests.support.waiting import wait_until
from worker.backends.redis import RedisStore
from worker.errors import ConfigurationError, StoreSchemaError, StoreUnavailable
from worker.jobs.job import Enqueued, Requeued
from worker.model import State
from worker.queues.redis import RedisJobs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

CLI = shutil.which("redis-cli")
USER = ("on", ">secret", "~worker:*", "+@all", "resetchannels")
"""What a new user of Redis has: no channels."""
WAIT = 10 * SECOND
TASKS = """
from worker import task

@task(name="greet", queue="default")
async def greet(name: str = "you") -> str:
    return f"hello {name}"
"""

pytestmark = pytest.mark.skipif(BINARY is None, reason=MISSING)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path, appendonly="yes") as server:
        yield server


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[RedisJobs]:
    jobs = RedisJobs(url)
    try:
        await jobs.open()
        yield jobs
    finally:
        await jobs.close()


def as_user(server: RedisServer, *rules: str) -> str:
    """The URL for a user with these rules."""
    server.ask("ACL", "SETUSER", "app", "reset", *(rules or USER))
    return server.url.replace("//", "//app:secret@")


async def opened_or_refused(url: str) -> None:
    async with opened(url):
        pass


async def open_one(url: str, key: str) -> None:
    """The part of the worker whose key it is."""
    if key.startswith("jobs:"):
        await opened_or_refused(url)
    else:
        RedisStore(url).close()


def environment(url: str, tmp_path: Path) -> dict[str, str]:
    (tmp_path / "greeting.py").write_text(TASKS)
    return {
        "WORKER_STORE_URL": url,
        "WORKER_TASK_MODULES": "greeting",
        "WORKER_DATA_API_URL": "http://127.0.0.1:9",
    }


# Rights


async def test_without_channel_rights_a_job_is_enqueued_once_and_run(server: RedisServer) -> None:
    url = as_user(server)
    async with opened(server.url) as root, opened(url) as jobs:
        (warning,) = [text for text in jobs.warnings if "may not" in text]
        assert "PUBLISH and SUBSCRIBE on the channels worker:jobs:wake:*" in warning
        waits = root.lease(QUEUE, limit=5, ttl=LONG, wait=WAIT, worker="w")
        waiting = asyncio.create_task(waits)  # so that there is a worker to wake
        await wait_until(
            lambda: server.ask("ZCARD", f"worker:jobs:waiters:{QUEUE}") == 1, "one waits"
        )
        job = new()
        with capture_logs() as logs:
            assert await jobs.enqueue([job]) == [Enqueued(job.id, created=True)]
            assert await jobs.enqueue([job]) == [Enqueued(job.id, created=False)]
            await jobs.enqueue([new(delay=LONG), new(delay=SECOND / 10)])
        assert [log["event"] for log in logs].count("queue.not_woken") == 1
        lease, *_ = await waiting
        assert lease.id == job.id


async def test_without_channel_rights_workers_and_clients_look_by_themselves(
    server: RedisServer,
) -> None:
    async with opened(as_user(server)) as jobs:
        with capture_logs() as logs:
            await jobs.enqueue([new(), new(), new()])
            one, two, three = await lease_now(jobs)
            end = asyncio.create_task(jobs.wait(one.id, WAIT))
            await wait_until(lambda: server.ask("HLEN", "worker:jobs:watched") == 1, "one watches")
            assert await jobs.settle([ended(one), back(two), dead(three)]) == [True] * 3
            job = await end
            assert job is not None
            assert job.state is State.SUCCESS
            assert await jobs.retry([three.id]) == [Requeued.DONE]
            assert await jobs.cancel([three.id]) == [Requeued.DONE]
            (again,) = await jobs.lease(QUEUE, limit=5, ttl=LONG, wait=WAIT, worker="w")
            assert again.id == two.id
            assert await jobs.lease(QUEUE, limit=5, ttl=LONG, wait=SECOND / 5, worker="w") == []
        assert len([log for log in logs if log["event"] == "queue.not_woken"]) == 1


async def test_rights_that_are_taken_away_later_fail_no_step_after_the_effect(
    server: RedisServer,
) -> None:
    async with opened(as_user(server, *USER, "&worker:*")) as jobs, opened(server.url) as root:
        assert not jobs.warnings
        waiting = asyncio.create_task(root.lease(QUEUE, limit=1, ttl=LONG, wait=WAIT, worker="w"))
        await wait_until(
            lambda: server.ask("ZCARD", f"worker:jobs:waiters:{QUEUE}") == 1, "one waits"
        )
        as_user(server, *USER, "-zpopmin")
        job = new()
        assert await jobs.enqueue([job]) == [Enqueued(job.id, created=True)]
        (lease,) = await waiting
        assert lease.id == job.id


@pytest.mark.parametrize("key", ["waiters:default", "alarms", "watched"])
async def test_keys_that_only_wake_others_fail_nothing(server: RedisServer, key: str) -> None:
    async with opened(server.url) as jobs:
        server.ask("SET", f"worker:jobs:{key}", "nonsense")
        job = new()
        assert all(told.created for told in await jobs.enqueue([job, new(delay=SECOND / 2)]))
        (lease,) = await jobs.lease(QUEUE, limit=5, ttl=LONG, wait=WAIT, worker="w")
        assert lease.id == job.id
        assert await jobs.settle([ended(lease)]) == [True]
        assert (await get(jobs, job.id)).state is State.SUCCESS
        (later,) = await jobs.lease(QUEUE, limit=5, ttl=LONG, wait=WAIT, worker="w")
        assert await jobs.settle([ended(later)]) == [True]


@pytest.mark.parametrize("key", ["ready:default", "later:default", "waiting:PENDING default ping"])
async def test_a_key_of_another_type_is_found_before_the_first_write(
    server: RedisServer, key: str
) -> None:
    async with opened(server.url) as jobs:
        server.ask("SET", f"worker:jobs:{key}", "nonsense")
        with pytest.raises(StoreUnavailable, match=f"{key} is a string, expected a zset"):
            await jobs.enqueue([new(), new(delay=LONG)])
        assert set(server.ask("KEYS", "*")) == {"worker:jobs:schema", f"worker:jobs:{key}"}


@pytest.mark.parametrize(
    "key", ["jobs:created", "jobs:counts", "active", "slots:ran", "last_session"]
)
async def test_keys_of_another_program_are_refused_at_opening(
    server: RedisServer, key: str
) -> None:
    server.ask("RPUSH", f"worker:{key}", "nonsense")
    with pytest.raises(StoreSchemaError, match=f"the key worker:{key} is a list, expected a"):
        await open_one(server.url, key)
    assert server.ask("KEYS", "*") == [f"worker:{key}"]


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        (("-zpopmin",), "ZPOPMIN on worker:jobs:*"),
        (("-@scripting",), "EVAL"),
        (("-evalsha",), "EVALSHA"),
        (("-time", "-ping"), "PING; TIME"),
        (("resetkeys", "~other:*"), "on worker:jobs:*"),
        (("resetkeys", "%R~worker:*"), "HSET"),
        (("resetkeys", "~worker:jobs:job:*", "~worker:jobs:schema"), "on worker:jobs:order"),
    ],
)
async def test_rights_that_jobs_need_are_named_before_anything_is_written(
    server: RedisServer, rules: tuple[str, ...], told: str
) -> None:
    url = as_user(server, *USER, "&*", *rules)
    with pytest.raises(StoreSchemaError, match="the user app lacks rights in") as caught:
        await opened_or_refused(url)
    assert told in str(caught.value)
    assert "ACL SETUSER app ~worker:jobs:* &worker:jobs:* +@read" in str(caught.value)
    assert server.ask("KEYS", "*") == []


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        (("-hset",), "HSET on worker:*"),
        (("resetkeys", "~worker:jobs:*"), "on worker:*"),
        (("resetkeys", "~worker:schema", "~worker:book:*"), "on worker:active"),
        (("-eval",), "EVAL"),
    ],
)
def test_rights_that_the_ledger_needs_are_named_before_anything_is_written(
    server: RedisServer, rules: tuple[str, ...], told: str
) -> None:
    with pytest.raises(StoreSchemaError, match="the user app lacks rights in") as caught:
        RedisStore(as_user(server, *USER, *rules))
    assert told in str(caught.value)
    assert server.ask("KEYS", "*") == []


async def test_the_rights_that_are_documented_are_enough(server: RedisServer) -> None:
    common = ("on", ">secret", "resetchannels", "+@read", "+@write", "+@scripting", "+@connection")
    rights = ("+time", "-@dangerous")
    with closing(RedisStore(as_user(server, *common, *rights, "~worker:*"))) as store:
        assert store.warnings == ()
    jobs_only = ("~worker:jobs:*", "&worker:jobs:*", "+@pubsub")
    async with opened(as_user(server, *common, *jobs_only, *rights)) as jobs:
        assert jobs.warnings == ()


def test_each_command_of_a_script_takes_one_key_or_is_known() -> None:
    """Redis 7.0 crashes when it is asked for the rights to a command without all its words."""
    known = {"DEL", "EXISTS", "PUBLISH", "TIME"}
    one_key = re.compile(r"[HZS](?!DIFF|INTER|UNION|MPOP|MOVE)[A-Z]+|GET|SET|INCRBY|PEXPIRE|TYPE")
    for package in ("worker.queues", "worker.backends"):
        for path in Path(str(files(package) / "redis_scripts")).rglob("*.lua"):
            for word in re.findall(r"\b(?:p?call|try|send)\(\s*'([A-Z]+)'", path.read_text()):
                assert word in known or one_key.fullmatch(word), (path.name, word)


def test_no_script_calls_redis_in_a_way_that_its_rights_are_not_read_from() -> None:
    for package in ("worker.queues", "worker.backends"):
        for path in Path(str(files(package) / "redis_scripts")).rglob("*.lua"):
            for call in re.findall(r"redis\.p?call\(\s*([^,)]+)", path.read_text()):
                assert call.startswith("'") or call in ("command", "..."), (path.name, call)


async def test_worker_check_and_start_name_the_rights_that_are_missing(
    server: RedisServer, tmp_path: Path
) -> None:
    said = environment(as_user(server), tmp_path)
    code, out, log = await worker_command("check", environment=said, cwd=tmp_path)
    assert "warn  the queue: " in out
    assert "may not PUBLISH and SUBSCRIBE on the channels worker:jobs:wake:*" in out
    code, out, log = await worker_command("enqueue", "greet", environment=said, cwd=tmp_path)
    assert (code, server.ask("ZCARD", "worker:jobs:ready:default")) == (0, 1), log
    code, _, log = await worker_command("start", "--burst", environment=said, cwd=tmp_path)
    assert code == 0, log
    assert "queue.warning" in log
    assert server.ask("ZCARD", "worker:jobs:finished") == 1

    said = environment(as_user(server, *USER, "-zpopmin"), tmp_path)
    code, out, log = await worker_command("check", environment=said, cwd=tmp_path)
    assert code != 0
    assert "FAIL  the queue: the user app lacks rights in" in out
    assert "ZPOPMIN on worker:jobs:*" in out
    code, _, log = await worker_command("start", "--burst", environment=said, cwd=tmp_path)
    assert code == 78, log
    assert "ZPOPMIN on worker:jobs:*" in log


# Other kinds of servers


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RedisServer]]:
    """Three nodes, each with a third of the slots."""
    if CLI is None:
        pytest.skip("no redis-cli is installed")
    with ExitStack() as stack:
        nodes = []
        for _ in range(3):
            folder = tmp_path_factory.mktemp("node")
            options = {"cluster-enabled": "yes", "cluster-port": str(refused_port())}
            nodes.append(stack.enter_context(redis_server(folder, **options)))
        first, *others = nodes
        for number, node in enumerate(nodes):
            slots = ((0, 5460), (5461, 10922), (10923, 16383))[number]
            node.ask("CLUSTER", "ADDSLOTSRANGE", *map(str, slots))
        for node in others:
            node.ask("CLUSTER", "MEET", "127.0.0.1", str(first.port), node.options["cluster-port"])
            bus = first.options["cluster-port"]
            node.ask("CLUSTER", "MEET", "127.0.0.1", str(first.port), bus)
        for node in nodes:
            node.wait_for("Cluster state changed: ok")
        yield nodes


@pytest.mark.parametrize("node", [0, 1, 2])
async def test_every_node_of_a_cluster_is_refused_and_left_as_it_was(
    cluster: list[RedisServer], node: int, tmp_path: Path
) -> None:
    server = cluster[node]
    for prefix in ("worker", "a", "b", "c"):  # each of another slot
        url = f"{server.url}?prefix={prefix}"
        with pytest.raises(ConfigurationError, match="is a Redis Cluster; expected one Redis"):
            await opened_or_refused(url)
        with pytest.raises(ConfigurationError, match="is a Redis Cluster; expected one Redis"):
            RedisStore(url)
    said = environment(server.url, tmp_path)
    for command in (("start", "--burst"), ("check",), ("enqueue", "greet"), ("jobs", "list")):
        code, _, log = await worker_command(*command, environment=said, cwd=tmp_path)
        assert code == 78, (command, log)
        assert "is a Redis Cluster" in log
    split = {"WORKER_STORE_URL": "sqlite:///w.db", "WORKER_QUEUE_URL": server.url}
    for command in (("start", "--burst"), ("enqueue", "greet")):
        code, _, log = await worker_command(*command, environment=said | split, cwd=tmp_path)
        assert code == 78, (command, log)
        assert "WORKER_QUEUE_URL: " in log
    assert [one.ask("DBSIZE") for one in cluster] == [0, 0, 0]


async def test_a_cluster_without_slots_and_one_that_says_nothing_are_refused(
    tmp_path: Path,
) -> None:
    options = {"cluster-enabled": "yes", "cluster-port": str(refused_port())}
    with redis_server(tmp_path, **options) as server:
        with pytest.raises(ConfigurationError, match="is a Redis Cluster"):
            await opened_or_refused(server.url)
        url = as_user(server, *USER, "&*", "-hello", "-info", "-cluster")
        with pytest.raises(ConfigurationError, match="is a Redis Cluster"):
            await opened_or_refused(url)
        with pytest.raises(ConfigurationError, match="is a Redis Cluster"):
            RedisStore(url)


@pytest.fixture
def sentinel(server: RedisServer, tmp_path: Path) -> Iterator[str]:
    """The URL of a Sentinel that watches ``server``."""
    config = tmp_path / "sentinel.conf"
    config.write_text(f"sentinel monitor main 127.0.0.1 {server.port} 1\n")
    port = refused_port()
    assert BINARY is not None
    process = subprocess.Popen(
        [BINARY, str(config), "--sentinel", "--port", str(port), "--bind", "127.0.0.1"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert any("+monitor" in line for line in process.stdout)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.kill()
        process.communicate()


async def test_a_sentinel_is_refused(sentinel: str) -> None:
    with pytest.raises(ConfigurationError, match="is a Redis Sentinel, which keeps no data"):
        await opened_or_refused(sentinel)
    with pytest.raises(ConfigurationError, match="is a Redis Sentinel, which keeps no data"):
        RedisStore(sentinel)


async def test_a_replica_takes_no_job_and_says_why(server: RedisServer, tmp_path: Path) -> None:
    async with opened(server.url) as jobs:
        await jobs.enqueue([new()])
    server.ask("CONFIG", "SET", "repl-diskless-sync-delay", "0")
    folder = tmp_path / "replica"
    folder.mkdir()
    with redis_server(folder, replicaof=f"127.0.0.1 {server.port}") as replica:
        replica.wait_for("Finished with success", "Successful partial resynchronization")
        async with opened(replica.url) as jobs:
            assert any("is a replica" in warning for warning in jobs.warnings)
            for call in (jobs.enqueue([new()]), lease_now(jobs)):
                with pytest.raises(StoreUnavailable, match="is a replica and takes no writes"):
                    await call
            replica.ask("REPLICAOF", "NO", "ONE")
            assert (await lease_one(jobs)).task == "ping"
