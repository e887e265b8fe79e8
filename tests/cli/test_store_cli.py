"""What the commands say of the store: one for several machines, a wrong one, one that is down."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.support.postgres import connect, empty_schema
from tests.support.servers import refused_port
from tests.support.sites import HOURLY, NIGHTLY, Site
from tests.support.stores import SHARED_KINDS, fresh_url

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "s3cr3t-pw"


@pytest.mark.parametrize("kind", SHARED_KINDS)
async def test_the_commands_do_their_work_over_a_store_for_several_machines(
    tmp_path: Path, kind: str
) -> None:
    with fresh_url(kind, tmp_path) as url:
        site = Site(tmp_path, NIGHTLY, url)
        assert "up to date" in await site.told("migrate")
        async with site.worker() as worker:
            await worker.logged("worker.ready")
            await site.told("schedule pause nightly -m", "moving house")
            assert (await site.told("explain nightly")).startswith("nightly is paused since 20")
            assert "is resumed" in await site.told("schedule resume nightly")
            await site.told("schedule run nightly")
            await worker.logged("run.finished", trigger="manual")
            backfill = "schedule backfill nightly --from 2025-10-25 --to 2025-10-27"
            assert "2 slots of nightly were asked for; 1 worker" in await site.told(backfill)
            await worker.logged("run.finished", trigger="backfill", count=2)
            assert "nothing was asked for" in await site.told(backfill)
            rows = [row for row in await site.table("schedule list") if row["task"] == "nightly"]
            assert [(row["state"], row["ran"]) for row in rows] == [("ok", "3")]
            entries = await site.json("schedule history nightly --from 0001-01-01 --outcome ran")
            asked = [entry["trigger"] for entry in entries]
            assert asked == ["manual", "backfill", "backfill"]
            assert "worker_replicas 1.0" in await site.told("schedule metrics")
            code, out, _ = await site.types("run nightly --overlap skip")
            assert (code, json.loads(out)["state"]) == (0, "SUCCESS")
            code, out, _ = await site.types("check")
            assert code == 69, "nobody is at the Data API's address"
            assert "can be used" in out


async def test_migrate_makes_the_tables_once_however_many_ask(tmp_path: Path) -> None:
    with empty_schema() as url:
        site = Site(tmp_path, HOURLY, url)
        for line in ("start", "explain report"):
            code, out, err = await site.types(line)
            assert (code, out) == (78, "")
            assert "`worker migrate`" in err
            assert err.count("\n") == 1
        code, out, _ = await site.types("check")
        assert "FAIL  the ledger: " in out
        assert "`worker migrate`" in out
        told = await asyncio.gather(*[site.told("migrate") for _ in range(3)])
        place = "postgresql://" + url.partition("@")[2].partition("?")[0]
        assert sorted(told) == [
            f"{place} is up to date, at 0006\n",
            f"{place} is up to date, at 0006\n",
            f"{place} was migrated from nothing to 0006\n",
        ]
        async with site.worker() as worker:
            await worker.logged("run.finished", task="report")
        with connect(url) as admin:
            admin.execute("UPDATE worker_alembic_version SET version_num = '9999'")
        for line in ("start", "migrate"):
            code, out, err = await site.types(line)
            assert (code, out) == (78, "")
            assert "schema 9999, which is newer; this worker needs schema 0006" in err


async def test_sqlite_needs_no_migration_and_a_newer_file_is_refused(tmp_path: Path) -> None:
    site = Site(tmp_path, HOURLY)
    assert await site.told("migrate") == (
        f"{site.store_url} is up to date: this kind of store needs no migration by hand\n"
    )
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as connection:
        connection.execute("PRAGMA user_version = 99")
    for line in ("start", "schedule list"):
        code, out, err = await site.types(line)
        assert (code, out) == (78, "")
        assert "was written by a newer worker" in err
        assert "install that version of sidecar-worker" in err
    code, out, _ = await site.types("check")
    assert code == 69, "the Data API is not there either"
    assert "FAIL  the ledger: " in out


@pytest.mark.parametrize("line", ["start", "migrate", "check", "schedule list"])
async def test_a_store_of_an_unknown_kind_is_refused(tmp_path: Path, line: str) -> None:
    site = Site(tmp_path, HOURLY)
    code, out, err = await site.types(line, WORKER_STORE_URL=f"mysql://me:{SECRET}@db/x")
    assert (code, out) == (78, "")
    assert err == (
        "worker: the configuration has a problem:\n"
        "  - WORKER_STORE_URL: expected memory://, sqlite:///path/to/file, postgresql://… or "
        "redis://…, got mysql://…\n"
    )


@pytest.mark.parametrize("line", ["start", "migrate", "run report"])
@pytest.mark.parametrize(
    ("url", "library", "extra"),
    [("postgresql://db/x", "psycopg", "postgres"), ("redis://db/0", "redis", "redis")],
)
async def test_a_store_whose_library_is_missing_says_what_to_install(
    tmp_path: Path, line: str, url: str, library: str, extra: str
) -> None:
    (tmp_path / f"{library}.py").write_text(
        f"raise ModuleNotFoundError('No module named {library}', name={library!r})"
    )
    code, out, err = await Site(tmp_path, HOURLY).types(line, WORKER_STORE_URL=url)
    assert (code, out) == (78, "")
    assert err == (
        "worker: the configuration has a problem:\n"
        f"  - WORKER_STORE_URL names {extra}, but {library} is not installed; "
        f"expected: pip install 'sidecar-worker[{extra}]', or '.[{extra}]' in a checkout\n"
    )


@pytest.mark.parametrize("line", ["explain report", "schedule pause report"])
async def test_a_store_in_memory_is_not_for_commands_beside_the_worker(
    tmp_path: Path, line: str
) -> None:
    code, out, err = await Site(tmp_path, HOURLY, "memory://").types(line)
    assert (code, out) == (78, "")
    assert "WORKER_STORE_URL is memory://, which nobody but the worker itself can look into" in err


STORES_THAT_ARE_DOWN = [
    "postgresql://me:{secret}@127.0.0.1:{port}/x",
    "postgresql://me@127.0.0.1:{port}/x?password=a@{secret}",
    "redis://me:{secret}@127.0.0.1:{port}/0?prefix=mine",
]


@pytest.mark.parametrize("url", STORES_THAT_ARE_DOWN)
async def test_a_store_that_is_down_exits_69_and_its_password_is_never_shown(
    tmp_path: Path, url: str
) -> None:
    site = Site(tmp_path, HOURLY, url.format(secret=SECRET, port=refused_port()))
    site.environment["WORKER_LOG_LEVEL"] = "debug"
    told = ""
    for line in ("explain report", "migrate"):
        code, out, err = await site.types(line)
        assert (code, out) == (69, ""), err
        assert "worker: the store cannot be used: " in err
        assert "127.0.0.1" in err
        assert "Traceback" not in err
        told += err
    code, out, err = await site.types("check")
    assert code == 69
    assert "FAIL  the ledger: " in out
    told += out + err
    async with site.worker() as worker:
        await worker.logged("worker.ready")
        await worker.logged("store.unavailable")
        worker.signal(signal.SIGTERM)
        assert await worker.ended() == 0
        told += json.dumps(worker.events) + "".join(worker.other_lines)
    assert SECRET not in told


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:{secret}%zz@db/x",
        "postgresql://me:{secret}/@db/x",
        "postgresql://db/x?no_such_option={secret}",
        "redis://me:{secret}@db/none",
        "redis://db/0?no_such_option={secret}",
        "sqlite://{secret}",
    ],
)
async def test_a_store_whose_url_is_malformed_is_refused_without_quoting_it(
    tmp_path: Path, url: str
) -> None:
    site = Site(tmp_path, HOURLY, url.format(secret=SECRET))
    code, out, err = await site.types("start")
    assert (code, out) == (78, "")
    assert "  - WORKER_STORE_URL: expected " in err
    assert SECRET not in err
    assert "Traceback" not in err


@pytest.mark.parametrize("line", ["start", "check"])
async def test_a_state_folder_that_cannot_be_written_is_refused_with_the_remedies(
    tmp_path: Path, line: str
) -> None:
    site = Site(tmp_path, HOURLY)
    del site.environment["WORKER_STORE_URL"]
    site.touch("in_the_way")
    code, out, err = await site.types(line, WORKER_STATE_DIR=str(tmp_path / "in_the_way"))
    assert (code, out) == (78, "")
    for words in (f"{tmp_path}/in_the_way", "WORKER_STATE_DIR", "memory://", "postgresql://"):
        assert words in err
    assert "Traceback" not in err
