"""``worker demo``: a Data API, a worker beside it, and what happens, told as it happens.

The service is given something to do all the time, and its bad moments: a few orders that can never
be processed, some that stay listed for a while, single failures, and an outage now and then. What
the dashboard has to show beyond that is in `tasks` and `traffic`.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import httpx
from pydantic import SecretStr
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource

from worker.app import Worker
from worker.demo.display import Display, LiveDisplay, PlainDisplay
from worker.demo.faults import Faults
from worker.demo.seed import SeedSpec
from worker.demo.server import DemoServer
from worker.demo.store import Store
from worker.demo.traffic import ask_for_jobs, pause_one
from worker.log_stream import LogStream
from worker.settings import Settings
from worker.starting import start_worker
from worker.telemetry.logs import configure_logging

if TYPE_CHECKING:
    from worker.supervisor import StopRequest

__all__ = ["show"]

WEATHER = Faults(latency_s=0.015, latency_jitter_s=0.02, error_rate=0.03, seed=7)
OUTAGE = WEATHER.model_copy(update={"error_rate": 1.0})
FIRST_FILL = SeedSpec(orders=240, poison=3, lingering=6, linger_s=4.0, old_orders=60, bookings=12)
REFILL = SeedSpec(orders=40, lingering=1, linger_s=4.0, bookings=1)
WHAT_TO_EXPECT = (
    f"{FIRST_FILL.poison} of the orders can never be processed, and each run tries them again"
)
REFILL_EVERY_S = 2.0
OUTAGE_EVERY_S = 45.0
OUTAGE_S = 4.0


class DemoSettings(Settings):
    """Short intervals, and nothing from the environment: a demo must not run anything real."""

    cleanup_interval: timedelta = timedelta(seconds=5)
    reminders_interval: timedelta = timedelta(seconds=3)
    sync_interval: timedelta = timedelta(seconds=4)
    orders_interval: timedelta = timedelta(seconds=2)
    retry_base: timedelta = timedelta(seconds=0.2)
    first_run_delay: timedelta = timedelta(seconds=0.5)
    first_run_spread: timedelta = timedelta(seconds=1)
    shutdown_grace: timedelta = timedelta(seconds=3)
    store_url: SecretStr | None = SecretStr("memory://")
    task_modules: Annotated[tuple[str, ...], NoDecode] = ("worker.demo.tasks",)
    jobs_keep: timedelta = timedelta(hours=1)
    replica: str | None = "demo"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


async def show(length: timedelta | None = None) -> int:
    """Run the demo until Ctrl-C or SIGTERM, or for ``length``; the exit code."""
    out = LogStream(sys.stdout)
    display: Display = LiveDisplay() if out.isatty() else PlainDisplay(out)
    with nowhere() as stream, Store() as store:
        configure_logging(stream=stream)  # the display tells what the log would
        store.seed(FIRST_FILL)
        with DemoServer(store, faults=WEATHER) as service:
            await accompany(service, display, length, out)
            display.end(store.summary())
    return 141 if out.reader_gone else 0


def nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")


async def accompany(
    service: DemoServer, display: Display, length: timedelta | None, out: LogStream
) -> None:
    settings = DemoSettings(data_api_url=service.url, ops_port=free_port())
    async with (
        httpx.AsyncClient(base_url=service.url, trust_env=False) as control,
        asyncio.TaskGroup() as group,
    ):
        side_tasks: list[asyncio.Task[None]] = []

        def on_open(worker: Worker, stop: StopRequest) -> None:
            display.begin(service.url, worker.scheduler)
            display.note(WHAT_TO_EXPECT)
            worker.events.subscribe(display.tell)
            if length is not None:
                asyncio.get_running_loop().call_later(
                    length.total_seconds(), stop.ask, "the time is up"
                )
            goes_on = {
                "refill": refill(control),
                "weather": bad_moments(service, display),
                "watch": watch(control, display),
                "pause": pause_one(worker),
                "jobs": ask_for_jobs(worker),
            }
            for name, doing in goes_on.items():
                side_tasks.append(group.create_task(doing, name=f"demo-{name}"))

        try:
            await start_worker(settings, output=out, on_open=on_open, on_link=display.dashboard)
        finally:
            for task in side_tasks:
                task.cancel()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


async def refill(control: httpx.AsyncClient) -> None:
    """Let orders and bookings come in."""
    while True:
        await asyncio.sleep(REFILL_EVERY_S)
        await control.post("/demo/seed", json=REFILL.model_dump(mode="json"))


async def bad_moments(service: DemoServer, display: Display) -> None:
    """Take the service down now and then."""
    while True:
        await asyncio.sleep(OUTAGE_EVERY_S - OUTAGE_S)
        display.note(f"the Data API has an outage, for {OUTAGE_S:g} s")
        service.inject(OUTAGE)
        await asyncio.sleep(OUTAGE_S)
        service.inject(WEATHER)
        display.note("the Data API is back")


async def watch(control: httpx.AsyncClient, display: Display) -> None:
    """Keep the display's numbers of the service current."""
    while True:
        summary: dict[str, Any] = (await control.get("/demo/summary")).json()
        display.refresh(summary)
        await asyncio.sleep(0.25)
