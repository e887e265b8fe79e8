"""``worker health``: whether the worker beside is well, as an exec probe asks every few seconds.

So it has to be cheap: the standard library alone, no settings but the few that it needs, and one
request, or one look at a file.
"""

from __future__ import annotations

import os
import socket
import sys
import time

__all__ = ["HealthUnknown", "is_well", "main"]

TIMEOUT_S = 2.5
STALE_S = 60.0
"""Age at which the sign of life is none any more; the worker touches the file every ten seconds."""
LONGEST_ANSWER = 64 * 1024
ANY = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}
"""Where what listens on every address is reached from here."""
PLACES = (
    ("WORKER_PROBE_PORT", "WORKER_PROBE_HOST", "0.0.0.0"),
    ("WORKER_OPS_PORT", "WORKER_OPS_HOST", "127.0.0.1"),
)
FILE = "WORKER_HEARTBEAT_FILE"


class HealthUnknown(Exception):
    """It is not configured, or wrongly, where to look."""


def main(*, ready: bool = False) -> int:
    """Print one line that says how the worker is: 0 if it is well, 1 if not, or if that is unknown.

    Docker knows no other exit code. Who is not well is told on standard error.

    Args:
        ready: Ask whether it can do its work, instead of whether it is alive.
    """
    try:
        well, why = is_well(settings(), ready=ready)
    except HealthUnknown as exc:
        well, why = False, f"worker: {exc}"
    print(why, file=sys.stdout if well else sys.stderr)
    return 0 if well else 1


def is_well(said: dict[str, str], *, ready: bool = False) -> tuple[bool, str]:
    """Whether the worker that runs with these settings is well, and why.

    Raises:
        HealthUnknown: They do not say where to look.
    """
    for port, host, default in PLACES:
        if said.get(port, "0") != "0":
            where = said.get(host) or default
            return ask(ANY.get(where, where), number(port, said[port]), ready=ready)
    if ready:
        raise HealthUnknown("whether it is ready, only WORKER_PROBE_PORT or WORKER_OPS_PORT tells")
    if said.get(FILE):
        return look_at(said[FILE])
    raise HealthUnknown(
        "nowhere to look: set WORKER_PROBE_PORT, WORKER_OPS_PORT or WORKER_HEARTBEAT_FILE, here "
        "and for the worker"
    )


def ask(host: str, port: int, *, ready: bool) -> tuple[bool, str]:
    path, what = ("/readyz", "ready") if ready else ("/livez", "alive")
    place = f"{f'[{host}]' if ':' in host else host}:{port}"
    try:
        answer = fetch(host, port, path)
    except TimeoutError:
        return False, f"not {what}: {place} did not answer within {TIMEOUT_S:g} s"
    except OSError as exc:
        return False, f"not {what}: no answer from {place}: {exc.strerror or exc}"
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.split(b" ", 2)[1:2]
    if status == [b"200"]:
        return True, "; ".join(filter(None, (what, told(body, "remarks"))))
    if status == [b"503"]:
        why = told(body, "problems") or "it does not say why"
        return False, "; ".join(filter(None, (f"not {what}: {why}", told(body, "remarks"))))
    return False, f"not {what}: {place} is no worker, or one that answers otherwise than expected"


def fetch(host: str, port: int, path: str) -> bytes:
    """The server's answer, within the time that is given.

    Raises:
        OSError: It does not.
    """
    end = time.monotonic() + TIMEOUT_S
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with socket.create_connection((host, port), timeout=TIMEOUT_S) as connection:
        connection.sendall(request.encode())
        answer = b""
        while len(answer) < LONGEST_ANSWER and not is_whole(answer):
            connection.settimeout(max(end - time.monotonic(), 0.001))
            part = connection.recv(LONGEST_ANSWER)
            if not part:
                break
            answer += part
    return answer


def is_whole(answer: bytes) -> bool:
    """Whether the body is as long as its header says; an answer without one ends when it ends."""
    head, mark, body = answer.partition(b"\r\n\r\n")
    _, said, length = head.lower().partition(b"\r\ncontent-length:")
    digits = length.partition(b"\r\n")[0].strip()
    return bool(mark and said) and digits.isdigit() and len(body) >= int(digits)


def told(body: bytes, kind: str) -> str:
    """What the answer says of ``problems`` or ``remarks``, on one line; nothing if that is none."""
    import json

    try:
        found = json.loads(body)[kind]
        return ascii("; ".join(f"{part}: {what}" for part, what in found.items()))[1:-1]
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""


def look_at(file: str) -> tuple[bool, str]:
    try:
        age_s = time.time() - os.stat(file).st_mtime
    except OSError as exc:
        return False, f"not alive: {file}: {exc.strerror}"
    if age_s > STALE_S:
        return False, f"not alive: {file} was touched {age_s:.0f} s ago"
    return True, "alive"


def number(name: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 65536:
        raise HealthUnknown(f"{name}: expected a port from 1 to 65535, got {text!r}")
    return int(text)


def settings() -> dict[str, str]:
    """What the environment says, and ``.env`` where it does not."""
    names = {FILE, *(name for place in PLACES for name in place[:2])}
    found: dict[str, str | None] = {}
    if os.path.exists(".env"):
        from dotenv import dotenv_values  # only where it is needed: it takes longer than the rest

        try:
            found.update(dotenv_values(".env", encoding="utf-8-sig"))
        except (OSError, UnicodeDecodeError) as exc:
            raise HealthUnknown(f".env cannot be read: {exc}") from exc
    found.update({name: value for name, value in os.environ.items() if value})
    return {
        name.upper(): value.strip()
        for name, value in found.items()
        if value and name.upper() in names
    }
