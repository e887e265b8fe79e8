"""The rules and the dashboard of ``deploy/`` ask for what there is, and the rules fire as said."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from worker.ops.families import all_families

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent.parent
RULES, DASHBOARD = ROOT / "deploy" / "alerts.yaml", ROOT / "deploy" / "grafana-dashboard.json"
RUNBOOK = ROOT / "docs" / "operations.md"
RUNBOOK_URL = "https://example.com/worker/operations.md"
"""To be replaced, as the head of the rules and ``deploy/README.md`` say."""
NAME = re.compile(r"\b(?:worker|process|python)_[a-z_]+")
OF_A_PROCESS = {"process_resident_memory_bytes", "process_cpu_seconds_total"}
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool")


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    return found


def asked() -> Iterator[tuple[str, str]]:
    """Each expression, with what it is of."""
    for rule in rules():
        yield rule["alert"], rule["expr"]
    for panel in panels():
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


def series() -> dict[str, tuple[str, ...]]:
    """The names of all series, with the names of their labels."""
    found: dict[str, tuple[str, ...]] = dict.fromkeys(OF_A_PROCESS, ())
    for family in all_families():
        if family.kind == "histogram":
            found[f"{family.name}_bucket"] = (*family.labels, "le")
        else:
            found[family.name] = family.labels
    return found


def test_rules_and_dashboard_ask_for_metrics_that_there_are() -> None:
    known = series()
    for what, expression in asked():
        names = set(NAME.findall(expression))
        assert names <= known.keys(), f"{what}: {names - known.keys()}"
        assert names or "up{" in expression, f"{what} asks for nothing of ours"


def test_rules_and_dashboard_name_labels_that_their_metrics_have() -> None:
    known, every = series(), {"job", "instance"}
    for what, expression in asked():
        labels = {label for name in NAME.findall(expression) for label in known[name]} | every
        named = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", expression))
        for inside in re.findall(r"by \(([^)]*)\)", expression):
            named |= {name.strip() for name in inside.split(",")}
        assert named <= labels, f"{what}: {named - labels}"


def test_every_metric_that_tells_of_trouble_stands_in_a_rule_or_the_dashboard() -> None:
    asked_for = {name for _, expression in asked() for name in NAME.findall(expression)}
    left = {name for name in series() if name not in asked_for}
    assert left == {
        "worker_accounted_until_timestamp_seconds",
        "worker_hook_failures_total",
        "worker_next_slot_timestamp_seconds",
        "worker_runs_abandoned_total",
    }


def test_every_alert_says_what_it_means_and_its_runbook_has_a_section_for_it() -> None:
    headings = set(re.findall(r"^### (Worker\w+)$", RUNBOOK.read_text("utf-8"), re.MULTILINE))
    assert {rule["alert"] for rule in rules()} == headings
    for rule in rules():
        said = rule["annotations"]
        assert said["summary"]
        assert said["description"]
        assert said["runbook_url"] == f"{RUNBOOK_URL}#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
    base = RUNBOOK_URL.removesuffix("/operations.md")
    for told in (RULES, ROOT / "deploy" / "README.md"):
        assert f"replace {base}" in told.read_text("utf-8").replace("`", "")


def test_panels_of_the_dashboard_do_not_overlap_and_have_ids_of_their_own() -> None:
    cells: set[tuple[int, int]] = set()
    for panel in panels():
        at = panel["gridPos"]
        own = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not own & cells, panel["title"]
        assert at["x"] + at["w"] <= 24
        cells |= own
    ids = [panel["id"] for panel in panels()]
    assert len(ids) == len(set(ids))


@needs_promtool
@pytest.mark.parametrize(
    "arguments",
    [("check", "rules", RULES), ("test", "rules", Path(__file__).parent / "alerts_test.yaml")],
    ids=["check", "test"],
)
def test_promtool_finds_the_rules_right(arguments: tuple[str | Path, ...]) -> None:
    done = subprocess.run(
        ["promtool", *map(str, arguments)], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
