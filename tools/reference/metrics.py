"""Every metric, from the families that the worker declares."""

from __future__ import annotations

from tools.reference.table import table
from worker.ops.families import BUCKETS_S, all_families
from worker.telemetry.exposition import LEDGER_FAMILIES

__all__ = ["page"]

INTRODUCTION = """\
# Metrics

At `/metrics` of `WORKER_PROBE_PORT` and of `WORKER_OPS_PORT`, in Prometheus' text format or
OpenMetrics, for whoever sends `WORKER_OPS_READ_TOKEN` or `WORKER_OPS_TOKEN` as a bearer token.
`worker schedule metrics` prints those of the ledger alone, without a worker.

A label's value is the name of a registered task, of a queue, of a call of the Data API's contract,
or a word of an enumeration; anything else is `other`. No id and no URL is ever one, so the number
of series does not grow with what comes in.

"""
END = """
Those *of the ledger* are the same from every replica, since it is one ledger: take `max`, not
`sum`.

Histograms have buckets up to these seconds: {buckets}; and beyond.

Beside these there are the process' own (`process_…`, `python_…`), of the Prometheus client.
"""


def page() -> str:
    of_ledger = {family.name for family in LEDGER_FAMILIES}
    rows = (
        (
            f"`{family.name}`",
            family.kind,
            ", ".join(f"`{label}`" for label in family.labels),
            family.help,
            "the ledger" if family.name in of_ledger else "this worker",
        )
        for family in all_families()
    )
    buckets = ", ".join(f"{bucket:g}" for bucket in BUCKETS_S)
    return (
        INTRODUCTION
        + table(("metric", "kind", "labels", "what it is", "of"), rows)
        + END.format(buckets=buckets)
    )
