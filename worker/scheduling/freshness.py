"""Notices what did not happen: a task that has not succeeded for longer than it promised.

No failed run need tell of that: the task may be off, skipped, or never due. A worker that cannot
tell at all, because it is gone, is noticed by somebody outside who misses the pings of
`DeadManPing`, the dead man's switch.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import httpx
import structlog

from worker.errors import ConfigurationError
from worker.events import Event, Events, RunFinished, TaskFresh, TaskStale
from worker.model import State
from worker.network import explain
from worker.shared_tasks import keep_going

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from worker.clock import Clock
    from worker.shared_tasks import TaskOwner

__all__ = ["DeadManPing", "Freshness", "Stale"]

LOOK_S = 1.0
TIMEOUT_S = 10.0
FIRST_RETRY_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stale:
    """A task whose promise is broken.

    Attributes:
        last_success: ``None`` if it is not known to have ever succeeded.
        stale_since: When its last success became older than ``max_age``.
        inherited: Whether it was stale already when this worker began, and has not succeeded since.
        paused: Whether its schedule is paused: somebody wants it not to run.
    """

    task: str
    max_age: timedelta
    last_success: datetime | None
    stale_since: datetime
    inherited: bool
    paused: bool = False


class Freshness:
    """Knows which tasks promised a ``max_age``, and whether their last success is older.

    It is a listener, to be subscribed to the events of the worker: the success of a run, whatever
    triggered it, makes its task fresh. It is a service too, which looks once a second and
    announces `TaskStale` and `TaskFresh` on a change. A success is announced at once, from within
    the announcement of the run's end.

    Args:
        max_ages: What is promised, by the tasks' names. Other tasks are never stale.
        clock: Its wall time is what ages are judged by.
    """

    def __init__(self, max_ages: Mapping[str, timedelta], *, clock: Clock, events: Events) -> None:
        self._max_ages = dict(max_ages)
        self._clock = clock
        self._events = events
        self._began = clock.now()
        self._since = dict.fromkeys(max_ages, self._began)
        self._last_success: dict[str, datetime] = {}
        self._paused: frozenset[str] = frozenset()
        self._told: dict[str, Stale] = {}
        self._looking: asyncio.Task[None] | None = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, RunFinished) and event.run.state is State.SUCCESS:
            self.note_success(event.task, self._clock.now())

    def seed(self, task: str, last_success: datetime | None, since: datetime) -> None:
        """Tell what was known of ``task`` before this worker started.

        Args:
            since: When the task was first known; if it never succeeded it is judged from then.
                The moment this object was made, for a task that is not seeded.
        """
        if task in self._max_ages:
            self._since[task] = since
            if last_success is not None:
                self._keep(task, last_success)

    def note_pause(self, task: str, paused: bool) -> None:
        """Tell whether the schedule of ``task`` is paused, as the ledger has it."""
        self._paused = self._paused | {task} if paused else self._paused - {task}

    def note_success(self, task: str, at: datetime) -> None:
        """A run of ``task`` succeeded here or in another replica. One from before changes nothing.

        ``at`` counts as now if it lies ahead: the other replica's clock may be fast.
        """
        if task in self._max_ages:
            self._keep(task, at)
            if task in self._told:
                self._look()

    def stale(self) -> list[Stale]:
        """The tasks that are stale right now, by name."""
        now = self._clock.now()
        found = []
        for task, max_age in sorted(self._max_ages.items()):
            last_success = self._last_success.get(task)
            stale_since = (last_success or self._since[task]) + max_age
            if now > stale_since:
                found.append(
                    Stale(
                        task=task,
                        max_age=max_age,
                        last_success=last_success,
                        stale_since=stale_since,
                        inherited=stale_since <= self._began,
                        paused=task in self._paused,
                    )
                )
        return found

    def start(self, group: TaskOwner) -> None:
        if self._max_ages:
            self._looking = group.create_task(
                keep_going(self._keep_looking, clock=self._clock, name="freshness"),
                name="freshness",
            )

    async def stop(self, grace: timedelta) -> None:
        if self._looking is not None:
            self._looking.cancel()

    def _keep(self, task: str, at: datetime) -> None:
        at = min(at, self._clock.now())
        self._last_success[task] = max(at, self._last_success.get(task, at))

    async def _keep_looking(self) -> None:
        while True:
            self._look()
            await self._clock.sleep(LOOK_S)

    def _look(self) -> None:
        stale = {found.task: found for found in self.stale()}
        told, self._told = self._told, stale
        for task, before in told.items():
            if task not in stale:
                self._events.announce(
                    TaskFresh(
                        task=task,
                        last_success=self._last_success.get(task),
                        stale_since=before.stale_since,
                    )
                )
        for task, found in stale.items():
            if task not in told:
                self._events.announce(
                    TaskStale(
                        task=task,
                        max_age=found.max_age,
                        last_success=found.last_success,
                        stale_since=found.stale_since,
                    )
                )


class DeadManPing:
    """A service that calls a URL while all is well: whoever misses the calls raises the alarm.

    It sends a GET, which healthchecks.io, Dead Man's Snitch and their like take, when it starts and
    then every ``every``, but none while a task is stale; the next one goes out within a second
    after the last stale task is fresh. It lives in the event loop: one that is blocked sends none.
    With no promise to be broken it tells that the worker lives.

    Any 2xx will do. A redirect is a failure and not followed: the URL is a secret which would go
    to a host that nobody named, and what a login page answers is no sign that the ping arrived.
    After a failure it tries again after 5 s, 10 s, 20 s and so on, at the longest after ``every``.
    One request is under way at a time, and is given up after 10 s.

    Args:
        url: Its path is a key: only its host is ever logged.
        trust_env: Take proxies and certificates from the environment.
    """

    def __init__(
        self,
        url: str,
        *,
        freshness: Freshness,
        clock: Clock,
        every: timedelta = timedelta(seconds=60),
        trust_env: bool = False,
    ) -> None:
        self._url = url
        self._freshness = freshness
        self._clock = clock
        self._every_s = every.total_seconds()
        self._trust_env = trust_env
        self._pinging: asyncio.Task[None] | None = None
        self._failures = 0
        self._failing_since: datetime | None = None

    def check(self) -> None:
        """Find out whether the URL can be called at all; nothing is sent.

        Raises:
            ConfigurationError: It cannot, or the environment's proxy cannot be used.
        """
        self._host()
        self._open()

    def start(self, group: TaskOwner) -> None:
        """Begin to ping.

        Raises:
            ConfigurationError: As `check` does.
        """
        ping = self._keep_pinging(self._host(), self._open())
        self._pinging = group.create_task(ping, name="dead-man-ping")

    async def stop(self, grace: timedelta) -> None:
        if self._pinging is not None:
            self._pinging.cancel()
            await asyncio.wait({self._pinging})

    def _host(self) -> str:
        try:
            url = httpx.URL(self._url)
            valid = url.scheme in ("http", "https") and 0 < (url.port or 80) < 2**16
        except (httpx.InvalidURL, ValueError):
            url, valid = httpx.URL(), False
        if not valid or not url.host or " " in self._url:  # raised here, without a cause to quote
            raise ConfigurationError(
                ["WORKER_HEARTBEAT_URL: expected http:// or https://, a host, and no spaces"]
            )
        return url.host

    def _open(self) -> httpx.AsyncClient:
        try:
            return httpx.AsyncClient(
                timeout=TIMEOUT_S,
                follow_redirects=False,
                trust_env=self._trust_env,
                limits=httpx.Limits(max_connections=1, max_keepalive_connections=0),
            )
        except (ValueError, ImportError, OSError, httpx.InvalidURL) as exc:
            raise ConfigurationError(
                [f"the environment's proxy or certificates cannot be used: {exc}"]
            ) from exc

    async def _keep_pinging(self, host: str, client: httpx.AsyncClient) -> None:
        async with client:
            while True:
                while self._freshness.stale():
                    await self._clock.sleep(LOOK_S)
                began = self._clock.monotonic()
                problem = await self._ping(client)
                wait_s = self._every_s
                if problem is None:
                    self._succeeded(host)
                else:
                    self._failed(host, problem)
                    wait_s = min(wait_s, FIRST_RETRY_S * 2 ** min(self._failures - 1, 16))
                took_s = self._clock.monotonic() - began
                await self._clock.sleep(max(0.0, wait_s - took_s))

    async def _ping(self, client: httpx.AsyncClient) -> str | None:
        """Call the URL once; what went wrong, in words that do not hold the URL."""
        try:
            async with asyncio.timeout(TIMEOUT_S), client.stream("GET", self._url) as answer:
                if answer.is_success:
                    return None
                if answer.has_redirect_location:
                    return f"status {answer.status_code}: redirects are not followed"
                return f"status {answer.status_code}"
        except httpx.ProtocolError:  # its message quotes what came, which may echo the URL
            return "the connection ended without an answer, or what came was not HTTP"
        except httpx.TransportError as exc:
            return explain(exc)
        except TimeoutError:
            return f"no whole answer within {TIMEOUT_S:g} s"
        except Exception as exc:  # the worker's work goes on; the message might quote the URL
            return type(exc).__name__

    def _failed(self, host: str, problem: str) -> None:
        self._failures += 1
        if self._failures == 1:
            self._failing_since = self._clock.now()
            structlog.get_logger("worker").warning("ping.failed", host=host, error=problem)

    def _succeeded(self, host: str) -> None:
        failures, self._failures = self._failures, 0
        if failures and self._failing_since is not None:
            structlog.get_logger("worker").info(
                "ping.recovered",
                host=host,
                after_failures=failures,
                failing_since=self._failing_since.isoformat(),
            )
