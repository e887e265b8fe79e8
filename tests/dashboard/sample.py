"""A worker's facts as the API gives them, made up: for views that need them to hold still."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

__all__ = ["job", "payload", "schedule_detail", "state"]

NOW = datetime.now(UTC).replace(microsecond=0)


def ago(seconds: float) -> str:
    return (NOW - timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def slot_row(number: int, every_s: float, outcome: str) -> dict[str, Any]:
    at = ago(number * every_s)
    took = 40 + (number * 37) % 90 if outcome in ("ran", "failed") else None
    error = "DataApiError: 503 Service Unavailable" if outcome == "failed" else None
    return {
        "slot": at,
        "last": at,
        "count": 1,
        "outcome": outcome,
        "duration_ms": took,
        "error": error,
    }


def schedule(name: str, standing: str, outcomes: dict[int, str], **more: Any) -> dict[str, Any]:
    every = more.pop("every", 60)
    rows = [slot_row(n, every, outcomes.get(n, "ran")) for n in range(50, 0, -1)]
    last = rows[-1]
    return {
        "name": name,
        "standing": standing,
        "schedule": f"every {every}s",
        "said_by": f"WORKER_{name.upper()}_INTERVAL",
        "queue": None,
        "next": [ago(-n * every) for n in (1, 2, 3)],
        "due": ago(-every),
        "last": {
            "slot": last["slot"],
            "outcome": last["outcome"],
            "trigger": "schedule",
            "recorded_at": ago(3),
            "duration_ms": last["duration_ms"],
            "late_ms": 2.0,
            "error": last["error"],
            "run_id": f"run-{name}",
            "replica": "web-1",
        },
        "failures": 0,
        "last_success": ago(61),
        "pause": None,
        "max_age_s": None,
        "stale_since": None,
        "running": [],
        "strip": rows,
        "durations_ms": [row["duration_ms"] for row in rows if row["duration_ms"]],
        **more,
    }


def schedules() -> list[dict[str, Any]]:
    on_demand: dict[str, Any] = {
        "schedule": None,
        "next": [],
        "due": None,
        "last": None,
        "strip": [],
        "queue": "billing",
    }
    return [
        schedule("cleanup_old_orders", "ok", {31: "missed", 30: "missed"}, every=3600),
        schedule(
            "process_pending_orders",
            "failing",
            {1: "failed", 2: "failed", 17: "failed"},
            failures=2,
        ),
        schedule(
            "send_reminders",
            "paused",
            dict.fromkeys(range(1, 9), "paused"),
            pause={
                "at": ago(500),
                "by": "eva@laptop",
                "note": "the mail provider is down until noon",
            },
        ),
        schedule(
            "sync_external_data",
            "stale",
            {5: "skipped_overlap", 12: "lost"},
            max_age_s=120,
            stale_since=ago(40),
        ),
        schedule("send_invoice", "off", {}, **on_demand) | {"durations_ms": []},
    ]


def overview() -> dict[str, Any]:
    return {
        "now": datetime.now(UTC).isoformat(),
        "worker": {
            "version": "0.1.0",
            "replica": "web-1",
            "started_at": ago(7200),
            "store": "sqlite:///w.db",
            "queue": "sqlite:///w.db",
            "queues": ["billing", "images"],
        },
        "status": "critical",
        "problems": [
            {
                "severity": "critical",
                "what": "process_pending_orders fails",
                "kind": "schedule",
                "name": "process_pending_orders",
                "why": "2 runs in a row have failed, the last with DataApiError: 503",
            },
            {
                "severity": "warning",
                "what": "sync_external_data is stale",
                "kind": "schedule",
                "name": "sync_external_data",
                "why": "its last success is older than 2 min",
            },
            {
                "severity": "warning",
                "what": "3 dead letters",
                "kind": "dead",
                "name": "billing",
                "why": "the latest: InvalidParams: order_id: expected an integer",
            },
        ],
        "replicas": [
            {
                "name": "web-1",
                "since": ago(7200),
                "seen": ago(1),
                "alive": True,
                "lost": False,
                "queues": ["billing", "images"],
                "slots": True,
            },
            {
                "name": "web-2",
                "since": ago(90000),
                "seen": ago(400),
                "alive": False,
                "lost": True,
                "queues": ["reports"],
                "slots": False,
            },
        ],
    }


def running() -> list[dict[str, Any]]:
    return [
        {
            "kind": "job",
            "task": "resize",
            "id": "job-run",
            "since": ago(12),
            "replica": "web-1",
            "attempt": 1,
            "progress": {"percent": 64, "message": "64 of 100 pictures"},
            "cancel": False,
        },
        {
            "kind": "slot",
            "task": "cleanup_old_orders",
            "id": "run-9",
            "since": ago(3),
            "replica": "web-1",
            "attempt": 1,
            "progress": None,
            "cancel": False,
        },
    ]


def queues() -> list[dict[str, Any]]:
    return [
        {
            "name": "billing",
            "waiting": 128,
            "running": 4,
            "dead": 3,
            "oldest_age_s": 42.0,
            "finished_per_minute": 96.5,
            "polled_here": True,
            "polled_by": ["web-1"],
            "tasks": [{"task": "send_invoice", "waiting": 128, "running": 4, "dead": 3}],
        },
        {
            "name": "images",
            "waiting": 0,
            "running": 1,
            "dead": 0,
            "oldest_age_s": None,
            "finished_per_minute": 3.0,
            "polled_here": True,
            "polled_by": ["web-1"],
            "tasks": [{"task": "resize", "waiting": 0, "running": 1, "dead": 0}],
        },
        {
            "name": "reports",
            "waiting": 7,
            "running": 0,
            "dead": 0,
            "oldest_age_s": 5400.0,
            "finished_per_minute": None,
            "polled_here": False,
            "polled_by": [],
            "tasks": [],
        },
    ]


def state() -> dict[str, Any]:
    """What the stream of events sends."""
    return {
        "overview": overview(),
        "schedules": schedules(),
        "running": running(),
        "queues": queues(),
    }


def job(number: int = 1, **more: Any) -> dict[str, Any]:
    """A job as it is listed."""
    return {
        "id": f"job-{number}",
        "task": "send_invoice",
        "queue": "billing",
        "state": "SUCCESS",
        "dead": False,
        "attempts": 1,
        "losses": 0,
        "refusals": 0,
        "priority": 0,
        "created_at": ago(100 + number),
        "ready_at": ago(100),
        "started_at": ago(99),
        "finished_at": ago(98),
        "expires_at": None,
        "worker": "web-1",
        "progress": None,
        "error": None,
        "cancel": False,
        **more,
    }


ERROR = {"type": "InvalidParams", "message": "order_id: expected an integer, got 'seven'"}


def jobs() -> list[dict[str, Any]]:
    return [
        job(
            1,
            state="PROGRESS",
            attempts=0,
            task="resize",
            queue="images",
            progress={"percent": 64},
            finished_at=None,
        ),
        job(2, state="PENDING", started_at=None, finished_at=None),
        job(
            3,
            state="RETRY",
            error={"type": "ConnectError", "message": "connection refused"},
            attempts=2,
        ),
        job(4, state="FAILURE", dead=True, error=ERROR, attempts=5),
        *(job(n) for n in range(5, 12)),
    ]


def dead() -> list[dict[str, Any]]:
    return [job(n, state="FAILURE", dead=True, error=ERROR, attempts=5) for n in range(1, 4)]


def attempt(number: int, outcome: str, began: int, error: dict[str, str] | None) -> dict[str, Any]:
    return {
        "attempt": number,
        "outcome": outcome,
        "started_at": ago(began),
        "finished_at": ago(began - 1),
        "worker": "web-1",
        "error": error,
    }


def job_detail() -> dict[str, Any]:
    return {
        **job(4, state="FAILURE", dead=True, error=ERROR, attempts=5),
        "options": {"max_retries": 4},
        "history": [
            attempt(1, "lost", 400, None),
            *(attempt(n, "failed", 400 - 60 * n, ERROR) for n in (1, 2, 3)),
            attempt(4, "given_back", 110, None),
            attempt(5, "failed", 99, ERROR),
        ],
        "timeline": [
            {"at": ago(104), "what": "asked for", "detail": "by web-1"},
            {"at": ago(100), "what": "began", "detail": "on web-1, attempt 5"},
            {"at": ago(98), "what": "failed", "detail": "to the dead letters"},
        ],
    }


def payload() -> dict[str, Any]:
    return {"params": {"order_id": "seven", "token": "[redacted]"}, "result": None}


def schedule_detail(slots: int = 12) -> dict[str, Any]:
    one = schedules()[1]
    rows = [slot_row(n, 60, "failed" if n < 3 else "ran") for n in range(1, slots + 1)]
    return {
        **one,
        "explanation": {
            "verdict": "process_pending_orders runs next in 1m",
            "facts": ["2 runs in a row have failed", "its last success was 1m ago"],
        },
        "history": [
            {
                **row,
                "trigger": "schedule",
                "recorded_at": row["slot"],
                "late_ms": 2.0,
                "run_id": f"run-{n}",
                "replica": "web-1",
            }
            for n, row in enumerate(rows)
        ],
    }


def on_demand_detail() -> dict[str, Any]:
    one = schedules()[-1]
    explanation = {"verdict": "send_invoice has no schedule: it runs when asked for", "facts": []}
    return {**one, "explanation": explanation, "history": []}


def tasks() -> list[dict[str, Any]]:
    schema = {
        "type": "object",
        "required": ["order_id"],
        "properties": {
            "order_id": {"type": "integer"},
            "copies": {"type": "integer", "default": 1},
        },
    }
    return [
        {
            "name": "send_invoice",
            "queue": "billing",
            "schedule": None,
            "params_schema": schema,
            "defined_in": "shop.py",
        },
        {
            "name": "resize",
            "queue": "images",
            "schedule": None,
            "params_schema": None,
            "defined_in": "shop.py",
        },
    ]
