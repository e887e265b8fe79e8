"""The ``WORKER_…`` variables of this process, and what a producer needs of them.

Every process reads them in the same way: from the environment, and from ``.env`` in the working
directory where the environment does not set a variable or sets it to nothing.
`worker.settings` makes the worker's settings of them. A program that only enqueues needs three of
them, so the others may be missing or wrong there.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from difflib import get_close_matches
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from dotenv import dotenv_values
from dotenv.parser import parse_stream

from worker.errors import ConfigurationError
from worker.library_log import library_log

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "ENV_FILE",
    "PAYLOAD_BOUNDS",
    "PAYLOAD_LIMIT",
    "PREFIX",
    "QueueLocation",
    "our_variables",
    "payload_limit",
    "queue_location",
    "read_secret_file",
]

PREFIX = "WORKER_"
ENV_FILE = Path(".env")
PAYLOAD_LIMIT = 256 * 1024
PAYLOAD_BOUNDS = 1024, 16 * 1024 * 1024
KUBERNETES_LINK = re.compile(
    r"WORKER_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)"
)
QUEUE, STORE, FOLDER = "WORKER_QUEUE_URL", "WORKER_STORE_URL", "WORKER_STATE_DIR"
LOCATIONS = (QUEUE, f"{QUEUE}_FILE", STORE, f"{STORE}_FILE", FOLDER)
SIMILAR = 0.9
"""How similar a name must be to one of these to be a misspelling of it."""

warned = False
"""Whether this process has warned that it uses the default store."""


@dataclass(frozen=True, slots=True)
class QueueLocation:
    """Where jobs wait and where they are recorded.

    Attributes:
        queue_url: ``WORKER_QUEUE_URL``; ``None`` if jobs wait in the store.
        store_url: ``WORKER_STORE_URL``, or else SQLite in ``WORKER_STATE_DIR``.
        default_store: The file of the default store; ``None`` if a store is configured.
    """

    queue_url: str | None
    store_url: str
    default_store: Path | None

    @property
    def url(self) -> str:
        """Where jobs wait."""
        return self.store_url if self.queue_url is None else self.queue_url

    @property
    def place(self) -> object:
        """Equal for two processes, or two clients, that enqueue into the same place.

        ``None`` for an engine in memory, of which each client has its own.
        """
        if self.url.lower().startswith("memory:"):
            return None
        return self.url, self.store_url if self.needs_records else None, os.getcwd()

    @property
    def needs_records(self) -> bool:
        """Whether the queue's engine keeps its records in the store."""
        return self.queue_url is not None and self.queue_url.lower().startswith("sqs")

    @property
    def default_hint(self) -> str | None:
        """What to tell a program that uses the default store; ``None`` if it does not."""
        if self.default_store is None or (self.queue_url is not None and not self.needs_records):
            return None
        path = self.default_store.absolute()
        if self.needs_records:
            return (
                f"{STORE} is not set, so jobs are recorded in {path}; set it to the workers' store"
            )
        return f"{QUEUE} is not set, so jobs are enqueued in {path}; set it to the workers' queue"

    def warn_if_default(self) -> None:
        """Warn, once per process, if jobs are kept in the default store."""
        global warned
        hint = self.default_hint
        if hint is not None and not warned:
            warned = True
            library_log().warning("queue.default", hint=f"{hint}, in the environment or in .env")


def queue_location(queue_url: str | None = None) -> QueueLocation:
    """Where this process enqueues, as the environment and ``.env`` say.

    Args:
        queue_url: Instead of ``WORKER_QUEUE_URL``.

    Raises:
        ConfigurationError: ``.env`` or a ``…_FILE`` cannot be read, a URL is given twice, or the
            name of such a variable is misspelled.
    """
    own = QueueLocation(queue_url, "", None)
    if queue_url is not None and not own.needs_records:
        return own
    problems: list[str] = []
    given = our_variables(problems)
    if problems and not (os.environ.get(QUEUE) or os.environ.get(f"{QUEUE}_FILE")):
        raise ConfigurationError(problems)  # nothing that the file says can be trusted
    problems.clear()
    queue = located(given, QUEUE, problems) if queue_url is None else queue_url
    store = located(given, STORE, problems)
    if queue is None and store is None:
        problems += misspelled(given)
    if problems:
        raise ConfigurationError(problems)
    if store is not None:
        return QueueLocation(queue, store, None)
    path = Path(given.get(FOLDER) or ".worker") / "worker.db"
    return QueueLocation(queue, f"sqlite:///{path}", path)


def payload_limit() -> int:
    """How many bytes of parameters a job may have: ``WORKER_PAYLOAD_LIMIT``.

    Raises:
        ConfigurationError: It is no number, or too small or too large.
    """
    text = our_variables([]).get("WORKER_PAYLOAD_LIMIT", "").strip()
    if not text:
        return PAYLOAD_LIMIT
    number = int(text[:12]) if text.isascii() and text.isdigit() else 0
    least, most = PAYLOAD_BOUNDS
    if not least <= number <= most:
        raise ConfigurationError(
            [f"WORKER_PAYLOAD_LIMIT: expected {least} to {most} bytes, got {text[:40]!r}"]
        )
    return number


def located(given: Mapping[str, str], name: str, problems: list[str]) -> str | None:
    """The URL that a variable, or the file that ``…_FILE`` names, has."""
    return read_secret_file(given, name, problems) or given.get(name) or None


def misspelled(given: Mapping[str, str]) -> list[str]:
    """Variables that were meant to say where jobs wait, and do not."""
    found = []
    for name in sorted(set(given) - set(LOCATIONS)):
        similar = get_close_matches(name, LOCATIONS, n=1, cutoff=SIMILAR)
        if similar and given[name]:
            found.append(f"{name} is not a setting (did you mean {similar[0]!r}?)")
    return found


def our_variables(problems: list[str]) -> dict[str, str]:
    """The variables that begin with ``WORKER_``, by their names in capitals.

    Args:
        problems: What is wrong with ``.env`` is added.
    """
    found = {name.upper(): value or "" for name, value in env_file(ENV_FILE, problems).items()}
    for name, value in os.environ.items():
        if value or name.upper() not in found:
            found[name.upper()] = value
    return {name: value for name, value in found.items() if is_ours(name)}


def env_file(path: Path, problems: list[str]) -> dict[str, str | None]:
    try:
        text = path.read_text("utf-8-sig")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8 text"
        problems.append(f"{path} cannot be read: {reason}")
        return {}
    faults = [
        f"{path} line {binding.original.line}: expected NAME=value"
        for binding in parse_stream(StringIO(text))
        if binding.error
    ]
    problems += faults
    return {} if faults else dotenv_values(stream=StringIO(text))


def is_ours(name: str) -> bool:
    """False for what Kubernetes adds by itself where some Service is called ``worker…``."""
    if "KUBERNETES_SERVICE_HOST" in os.environ and KUBERNETES_LINK.fullmatch(name):
        return False
    return name.startswith(PREFIX)


def read_secret_file(given: Mapping[str, str], direct: str, problems: list[str]) -> str | None:
    """The value in the file that ``…_FILE`` names; ``None`` if none is named or can be read.

    Args:
        direct: The variable that has the value itself.
        problems: What is wrong is added.
    """
    by_file = f"{direct}_FILE"
    path = given.get(by_file)
    if not path:
        return None
    if given.get(direct):
        problems.append(f"{direct} and {by_file} are both given; keep one")
        return None
    try:
        value = Path(path).read_text("utf-8").strip()
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8 text"
        problems.append(f"{by_file}: the file cannot be read: {reason}")
        return None
    if not value:
        problems.append(f"{by_file}: expected a value in the file, it is empty")
        return None
    return value
