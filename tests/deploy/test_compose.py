"""The compose file: of the right form, and true of the worker."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.support.documents import ROOT
from tests.support.manifests import COMPOSE, compose, in_compose

SERVICES = compose()["services"]
WORKER = SERVICES["worker"]


def test_file_is_of_the_schema_of_compose() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, str(COMPOSE)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_image_is_built_from_the_recipe() -> None:
    for started in in_compose():
        assert (COMPOSE.parent / started.spec["build"]["context"] / "Dockerfile").exists()


def test_worker_is_asked_for_its_health() -> None:
    assert WORKER["healthcheck"]["test"] == ["CMD", "worker", "health"]
    assert int(WORKER["environment"]["WORKER_PROBE_PORT"])


def test_worker_starts_after_its_tables_are_there() -> None:
    assert WORKER["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
    assert SERVICES["migrate"]["depends_on"]["postgres"] == {"condition": "service_healthy"}
    stores = {SERVICES[name]["environment"]["WORKER_STORE_URL"] for name in ("worker", "migrate")}
    database = SERVICES["postgres"]["environment"]
    user, password = database["POSTGRES_USER"], database["POSTGRES_PASSWORD"]
    assert stores == {f"postgresql://{user}:{password}@postgres/{database['POSTGRES_DB']}"}


def test_hosts_in_urls_are_services() -> None:
    urls = " ".join(value for value in WORKER["environment"].values() if "://" in value)
    hosts = set(re.findall(r"://(?:[^@/ ]+@)?([\w-]+)", urls))
    assert hosts == {"data-api", "postgres", "redis"} <= SERVICES.keys()
    assert f"--token {WORKER['environment']['WORKER_DATA_API_TOKEN']}" in " ".join(
        SERVICES["data-api"]["command"]
    )


def test_redis_keeps_what_it_is_told() -> None:
    command = " ".join(SERVICES["redis"]["command"])
    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command


def test_dashboard_is_published_on_loopback_only_and_needs_a_token() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", ())]
    port = WORKER["environment"]["WORKER_OPS_PORT"]
    assert published == [f"127.0.0.1:{port}:{port}"]
    assert WORKER["environment"]["WORKER_OPS_TOKEN"].startswith("${WORKER_OPS_TOKEN:?")


def test_our_containers_are_locked_in() -> None:
    recipe = (ROOT / "Dockerfile").read_text("utf-8")
    assert re.search(r"^USER 10001:10001$", recipe, re.MULTILINE)
    for started in in_compose():
        assert started.spec["read_only"] is True
        assert started.spec["cap_drop"] == ["ALL"]
        assert started.spec["security_opt"] == ["no-new-privileges:true"]
        assert started.spec["tmpfs"] == ["/tmp"]
