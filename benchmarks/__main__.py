"""``python -m benchmarks [--only NAME] [--engines KIND,KIND]`` measures, and prints a report."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial

from benchmarks import dispatch, ops, orders, queues, start, watching
from benchmarks.machine import describe_machine
from benchmarks.report import Report

Measure = Callable[[Report, bool], None]
BENCHMARKS: dict[str, Measure] = {
    "orders": orders.measure,
    "dispatch": dispatch.measure,
    "start": start.measure,
    "queues": queues.measure,
    "watching": watching.measure,
    "ops": ops.measure,
}


def engines(text: str) -> list[str]:
    """Which of the engines are measured, from a list with commas."""
    chosen = text.split(",")
    if unknown := set(chosen) - set(queues.ENGINES):
        raise argparse.ArgumentTypeError(
            f"expected some of {','.join(queues.ENGINES)}, got {','.join(sorted(unknown))}"
        )
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", choices=sorted(BENCHMARKS), metavar="NAME", help="one of them")
    parser.add_argument(
        "--smoke", action="store_true", help="tiny sizes: shows that it works, measures nothing"
    )
    parser.add_argument(
        "--engines", type=engines, metavar="KIND,KIND", help="of the queues, these only"
    )
    arguments = parser.parse_args()
    benchmarks = dict(BENCHMARKS)
    if arguments.engines:
        benchmarks["queues"] = partial(queues.measure, engines=arguments.engines)
    report = Report(sys.stdout)
    report.text(describe_machine())
    if arguments.smoke:
        report.text("--smoke: the numbers below mean nothing.")
    for name, measure in benchmarks.items():
        if arguments.only in (None, name):
            measure(report, arguments.smoke)
    if not arguments.smoke:
        report.targets_met()


if __name__ == "__main__":
    main()
