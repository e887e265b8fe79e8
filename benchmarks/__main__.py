"""``python -m benchmarks [--only NAME]`` measures, and prints a report."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from benchmarks import dispatch, orders, start
from benchmarks.machine import describe_machine
from benchmarks.report import Report

BENCHMARKS: dict[str, Callable[[Report, bool], None]] = {
    "orders": orders.measure,
    "dispatch": dispatch.measure,
    "start": start.measure,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", choices=sorted(BENCHMARKS), metavar="NAME", help="one of them")
    parser.add_argument(
        "--smoke", action="store_true", help="tiny sizes: shows that it works, measures nothing"
    )
    arguments = parser.parse_args()
    report = Report(sys.stdout)
    report.text(describe_machine())
    if arguments.smoke:
        report.text("--smoke: the numbers below mean nothing.")
    for name, measure in BENCHMARKS.items():
        if arguments.only in (None, name):
            measure(report, arguments.smoke)
    if not arguments.smoke:
        report.targets_met()


if __name__ == "__main__":
    main()
