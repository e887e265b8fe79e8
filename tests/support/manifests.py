"""The files under ``deploy/``, as values."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml
from dotenv import dotenv_values

from tests.support.documents import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

DEPLOY = ROOT / "deploy"
KUBERNETES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
COMPOSE = DEPLOY / "compose.yaml"
UNIT = DEPLOY / "systemd" / "sidecar-worker.service"
UNIT_ENVIRONMENT = DEPLOY / "systemd" / "worker.env"


@dataclass(frozen=True)
class Started:
    """One process of the worker that a file under ``deploy/`` starts.

    Attributes:
        where: The file and the place in it, for messages.
        environment: Its variables.
        arguments: The arguments of ``worker``.
        grace_s: How long whoever stops it waits before it is killed.
    """

    where: str
    environment: Mapping[str, str]
    arguments: tuple[str, ...]
    grace_s: float
    spec: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.where

    def settings(self, secrets: Path) -> dict[str, str]:
        """Its variables, with the secrets' files in this folder instead of where it mounts them.

        Files that are not there yet are made, with something that could be meant.
        """
        moved = dict(self.environment)
        for name, value in self.environment.items():
            if name.endswith("_FILE"):
                path = secrets / value.rpartition("/")[2]
                if not path.exists():
                    path.write_text("memory://" if name.endswith("URL_FILE") else path.name * 4)
                moved[name] = str(path)
        return moved


def kubernetes() -> list[tuple[str, dict[str, Any]]]:
    """Each manifest, with the name of its file."""
    return [
        (path.name, manifest)
        for path in KUBERNETES
        for manifest in yaml.safe_load_all(path.read_text("utf-8"))
    ]


def pod_of(manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    """The template of a manifest's pods, if it has any."""
    spec = manifest["spec"]
    template = spec.get("jobTemplate", {}).get("spec", spec).get("template")
    return template and dict(template)


def in_kubernetes() -> Iterator[Started]:
    for name, manifest in kubernetes():
        if (pod := pod_of(manifest)) is None:
            continue
        spec = pod["spec"]
        for container in [*spec.get("initContainers", ()), *spec["containers"]]:
            if container["image"].startswith("sidecar-worker:"):
                yield Started(
                    f"{name}: {container['name']}",
                    {env["name"]: env.get("value", "a-pod-7") for env in container["env"]},
                    tuple(container.get("args", ("start",))),
                    spec["terminationGracePeriodSeconds"],
                    {**container, "pod": spec},
                )


def in_compose() -> Iterator[Started]:
    for name, service in compose()["services"].items():
        if service["image"].startswith("sidecar-worker:"):
            yield Started(
                f"compose.yaml: {name}",
                {
                    key: re.sub(r"\$\{\w+:\?[^}]*\}", "a-token-from-the-shell", value)
                    for key, value in service.get("environment", {}).items()
                },
                tuple(service["command"]),
                float(service.get("stop_grace_period", "10s").removesuffix("s")),
                service,
            )


def compose() -> dict[str, Any]:
    return dict(yaml.safe_load(COMPOSE.read_text("utf-8")))


def unit() -> dict[str, list[str]]:
    """What the unit's section ``[Service]`` says, by key."""
    lines = UNIT.read_text("utf-8").partition("[Service]\n")[2].partition("\n[")[0].splitlines()
    said: dict[str, list[str]] = {}
    for line in lines:
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            said.setdefault(key, []).append(value)
    return said


def in_systemd() -> Started:
    said = unit()
    shared = dotenv_values(UNIT_ENVIRONMENT)
    own = dict(line.split("=", 1) for line in said["Environment"])
    command = said["ExecStart"][0].split()
    return Started(
        "sidecar-worker.service",
        {**{key: value or "" for key, value in shared.items()}, **own},
        tuple(command[1:]),
        float(said["TimeoutStopSec"][0]),
    )


STARTED = (*in_kubernetes(), *in_compose(), in_systemd())
