"""What really ran: tasks in worker processes write it to a file, apart from any ledger."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from worker import current_run

VARIABLE = "WITNESS_FILE"
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Line:
    """A run began or ended.

    Attributes:
        slot: ``None`` for a run by hand.
        replica: The name of the worker whose process wrote it.
    """

    what: str
    task: str
    slot: datetime | None
    replica: str
    run_id: str
    at: datetime


class Witness:
    """The file, as a test reads it."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "witness"
        self._path.touch()

    @property
    def environment(self) -> dict[str, str]:
        """What lets a worker's task module import this one, and find the file."""
        return {VARIABLE: str(self._path), "PYTHONPATH": str(ROOT)}

    def lines(self, what: str | None = None, task: str | None = None) -> list[Line]:
        """The lines so far, in the order in which they were written."""
        whole, _, _ = self._path.read_text("utf-8").rpartition("\n")
        found = [line_of(text) for text in whole.splitlines()]
        return [line for line in found if what in (None, line.what) and task in (None, line.task)]

    def slots(self, task: str) -> list[datetime]:
        """The slots for which a run of the task began."""
        return [line.slot for line in self.lines("began", task) if line.slot is not None]


def line_of(text: str) -> Line:
    kept = json.loads(text)
    slot = kept.pop("slot")
    return Line(
        slot=None if slot is None else datetime.fromisoformat(slot),
        at=datetime.fromisoformat(kept.pop("at")),
        **kept,
    )


def note(what: str) -> None:
    """Write a line; called by a task. It is there whatever becomes of the process afterwards."""
    run = current_run()
    assert run is not None
    line = {
        "what": what,
        "task": run.task,
        "slot": None if run.slot is None else run.slot.isoformat(),
        "replica": os.environ.get("WORKER_REPLICA", ""),
        "run_id": run.run_id,
        "at": datetime.now(UTC).isoformat(),
    }
    file = os.open(os.environ[VARIABLE], os.O_WRONLY | os.O_APPEND)
    try:
        os.write(file, json.dumps(line).encode() + b"\n")  # in one piece: O_APPEND
    finally:
        os.close(file)
