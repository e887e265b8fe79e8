"""Shows what a worker does: a live table on a terminal, plain lines anywhere else."""

from __future__ import annotations

from collections import Counter, deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from worker.durations import format_duration
from worker.events import CallRetrying, Event, RunFinished, SlotSkipped
from worker.model import State, Trigger
from worker.redaction import Redaction
from worker.summary import describe

if TYPE_CHECKING:
    from worker.log_stream import LogStream
    from worker.model import Run
    from worker.scheduling.scheduler import Scheduler

__all__ = ["Display", "LiveDisplay", "PlainDisplay"]

NEWS_SHOWN = 10
STYLES = {State.SUCCESS: "green", State.FAILURE: "red", State.REVOKED: "yellow"}


class Display(Protocol):
    """Where the demo is shown."""

    def begin(self, url: str, scheduler: Scheduler) -> None:
        """The worker is about to start, against the service at ``url``."""
        ...

    def dashboard(self, link: str) -> None:
        """The worker has started; ``link`` opens its dashboard."""
        ...

    def tell(self, event: Event) -> None:
        """The worker announced something."""
        ...

    def note(self, text: str) -> None:
        """Something happened to the service."""
        ...

    def refresh(self, summary: dict[str, Any]) -> None:
        """What the service counted so far."""
        ...

    def end(self, summary: dict[str, Any]) -> None:
        """The worker has ended; what the service counted in all."""
        ...


class Score:
    """What became of each task's runs."""

    def __init__(self) -> None:
        self.runs: Counter[tuple[str, State]] = Counter()
        self.retries: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()
        self.last: dict[str, Run] = {}
        self._retried: set[str] = set()

    def count(self, event: Event) -> bool:
        """Count an event; whether it is news, for only a run's first repetition is."""
        news = not (isinstance(event, CallRetrying) and event.run_id in self._retried)
        match event:
            case RunFinished():
                self.runs[event.task, event.run.state] += 1
                self.last[event.task] = event.run
                self._retried.discard(event.run.run_id)
            case CallRetrying():
                self.retries[event.task] += 1
                self._retried.add(event.run_id)
            case SlotSkipped():
                self.skipped[event.task] += event.entry.count
        return news

    def row(self, task: str) -> tuple[str, ...]:
        """Succeeded, failed, skipped, calls repeated."""
        return (
            str(self.runs[task, State.SUCCESS]),
            str(self.runs[task, State.FAILURE]),
            str(self.skipped[task]),
            str(self.retries[task]),
        )


class PlainDisplay:
    """One line an event, for pipes and files."""

    def __init__(self, out: LogStream) -> None:
        self._out = out
        self._score = Score()
        self._tasks: list[str] = []

    def begin(self, url: str, scheduler: Scheduler) -> None:
        self._tasks = list(scheduler.tasks)
        self._line(f"Data API with sample orders at {url}")
        for name, task in scheduler.tasks.items():
            schedule = task.terms.schedule
            self._line(f"{name} runs {'when asked for' if schedule is None else schedule}")

    def dashboard(self, link: str) -> None:
        self._line(f"Dashboard at {link}")

    def tell(self, event: Event) -> None:
        news = self._score.count(event)
        text = headline(event)
        if news and text is not None:
            self._line(f"{datetime.now(UTC):%H:%M:%S} {text.plain}")

    def note(self, text: str) -> None:
        self._line(f"{datetime.now(UTC):%H:%M:%S} -- {text}")

    def refresh(self, summary: dict[str, Any]) -> None:
        pass

    def end(self, summary: dict[str, Any]) -> None:
        self._line("")
        head = ("succeeded", "failed", "skipped", "calls repeated")
        for task in self._tasks:
            counts = zip(self._score.row(task), head, strict=True)
            self._line(f"{task}: {', '.join(f'{count} {what}' for count, what in counts)}")
        for line in verdict(summary):
            self._line(line)

    def _line(self, text: str) -> None:
        self._out.write(text + "\n")
        self._out.flush()


class LiveDisplay:
    """A table that keeps itself current, and the latest news under it."""

    def __init__(self) -> None:
        self._console = Console()
        self._live = Live(console=self._console, auto_refresh=False)
        self._score = Score()
        self._news: deque[Text] = deque(maxlen=NEWS_SHOWN)
        self._scheduler: Scheduler | None = None
        self._url = ""
        self._link = ""
        self._summary: dict[str, Any] = {}

    def begin(self, url: str, scheduler: Scheduler) -> None:
        self._url = url
        self._scheduler = scheduler
        self._live.start()

    def dashboard(self, link: str) -> None:
        self._link = link

    def tell(self, event: Event) -> None:
        news = self._score.count(event)
        text = headline(event)
        if news and text is not None:
            self._add(text)

    def note(self, text: str) -> None:
        self._add(Text(text, style="bold magenta"))

    def refresh(self, summary: dict[str, Any]) -> None:
        self._summary = summary
        self._live.update(self._picture(), refresh=True)

    def end(self, summary: dict[str, Any]) -> None:
        self._live.stop()
        for line in verdict(summary):
            self._console.print(line, highlight=False)

    def _add(self, text: Text) -> None:
        self._news.append(Text.assemble((f"{datetime.now(UTC):%H:%M:%S} ", "dim"), text))

    def _picture(self) -> Group:
        head = Text.assemble(
            ("sidecar-worker demo", "bold"), f"  Data API at {self._url}  ", ("Ctrl-C ends", "dim")
        )
        return Group(
            head,
            Text.assemble("dashboard  ", (self._link, f"bold cyan link {self._link}")),
            Text(),
            self._table(datetime.now(UTC)),
            Text(),
            Text(tally(self._summary), style="cyan"),
            Text(),
            *self._news,
        )

    def _table(self, now: datetime) -> Table:
        table = Table(box=None, header_style="bold", pad_edge=False, expand=True)
        table.add_column("task", no_wrap=True)
        for head in ("every", "ok", "fail", "skip", "retry", "next"):
            table.add_column(head, justify="right", no_wrap=True, width=max(len(head), 5))
        # What is left of the width, so that a long error pushes nothing out of sight.
        table.add_column("last run", no_wrap=True, overflow="ellipsis", ratio=1)
        assert self._scheduler is not None
        for name, task in self._scheduler.tasks.items():
            due = self._scheduler.next_slot(name)
            wait = f"{(due - now).total_seconds():.0f}s" if due else ""
            run = self._score.last.get(name)
            table.add_row(
                Text(name),
                format_duration(task.interval) if task.interval else "off",
                *self._score.row(name),
                wait,
                outcome(run, brief=True) if run else Text("-", style="dim"),
            )
        return table


def headline(event: Event) -> Text | None:
    """An event as one line of news; ``None`` for what is not news."""
    match event:
        case RunFinished(run=run):
            if run.trigger is Trigger.QUEUE and run.state is State.SUCCESS:
                return None  # there are too many of them
            return Text.assemble(f"{run.task}: ", outcome(run))
        case CallRetrying():
            error = describe(event.failure, Redaction())
            return Text(
                f"{event.task}: {error}; again in {event.wait_s:.1f} s",
                style="yellow",
            )
        case SlotSkipped():
            return Text(f"{event.task}: slot {event.entry.outcome.value}", style="yellow")
        case _:
            return None


def outcome(run: Run, *, brief: bool = False) -> Text:
    what = run.error.message if run.error else facts(run.result)
    took = f" in {run.duration_ms:.0f} ms " if run.duration_ms is not None and not brief else ""
    return Text.assemble((run.state.value, STYLES.get(run.state, "")), took, " ", what)


def facts(result: object) -> str:
    """A result for people: ``processed=40 failed=1``."""
    if isinstance(result, dict):
        scalars = {key: value for key, value in result.items() if isinstance(value, int | str)}
        return " ".join(f"{key}={value}" for key, value in scalars.items())
    return f"result={result}"


def tally(summary: dict[str, Any]) -> str:
    if not summary:
        return ""
    orders = summary["orders"]
    return (
        f"at the service: {orders['pending']} orders pending, {summary['processed']} processed, "
        f"{summary['reminders']} reminders, {summary['syncs']} syncs, "
        f"{summary['requests']} requests"
    )


def verdict(summary: dict[str, Any]) -> list[str]:
    """The last lines of the demo: what the service saw of the worker."""
    repeated = summary["repeated_effects"]
    once = "nothing was done twice" if not repeated else f"{repeated} effects were repeated"
    return ["", f"{tally(summary)}; {once}."]
