"""Where jobs wait, and where they are recorded, as the environment says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from worker.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["queue_url_of", "records_url_of"]


def queue_url_of(environment: Mapping[str, str]) -> str:
    """The queue that ``WORKER_QUEUE_URL`` names, or else the store of schedules.

    A producer needs no other setting, so none is looked at.

    Raises:
        ConfigurationError: A file that it names cannot be read.
    """
    return secret(environment, "WORKER_QUEUE_URL") or records_url_of(environment)


def records_url_of(environment: Mapping[str, str]) -> str:
    folder = environment.get("WORKER_STATE_DIR") or ".worker"
    return secret(environment, "WORKER_STORE_URL") or f"sqlite:///{Path(folder) / 'worker.db'}"


def secret(environment: Mapping[str, str], name: str) -> str | None:
    path = environment.get(f"{name}_FILE")
    if not path:
        return environment.get(name)
    try:
        return Path(path).read_text("utf-8").strip()
    except (OSError, ValueError) as exc:
        raise ConfigurationError([f"{name}_FILE: the file cannot be read"]) from exc
