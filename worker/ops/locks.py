"""Who may do what at the ops door: two tokens, and the sessions that they open."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from worker.ops.slow_down import SlowDown

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.ops.hosts import Hosts

__all__ = ["Caller", "Locks", "Role", "Session", "Sessions", "SignInLink", "Tokens"]

SESSION_LASTS = timedelta(hours=12)
MOST_SESSIONS = 256
"""Of one role: its oldest goes when another one comes. Only who has a token can open any."""


class Role(StrEnum):
    """What a caller may do.

    Attributes:
        FULL: Look and act.
        READ: Look only.
    """

    FULL = "full"
    READ = "read"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks.

    Attributes:
        session: The name of the browser's session, which opens nothing; ``None`` for a program
            that sent a token.
    """

    role: Role
    session: str | None = None


class Tokens:
    """The tokens that open the ops door. Neither is kept as it is, only its digest."""

    def __init__(self, full: str | None, read: str | None) -> None:
        known = ((full, Role.FULL), (read, Role.READ))
        self._digests = [(digest(token), role) for token, role in known if token is not None]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def role_of(self, token: str) -> Role | None:
        """Whose token it is; each one is compared, in constant time, whatever the length."""
        asked = digest(token)
        found = None
        for known, role in self._digests:
            if hmac.compare_digest(known, asked):
                found = role
        return found


class SignInLink:
    """What opens the dashboard where no token is set. It does so once; then another link does.

    Args:
        site: Where the ops part is reached, as ``http://127.0.0.1:8080``.

    Attributes:
        address: The link that opens next.
    """

    def __init__(self, site: str) -> None:
        self._site = site
        self._show: Callable[[str], None] | None = None
        self._renew()

    def shown_by(self, show: Callable[[str], None]) -> None:
        """Have a person shown the link, and each that comes after it."""
        self._show = show
        show(self.address)

    def use(self, key: str) -> Role | None:
        """What the key opens."""
        if not hmac.compare_digest(self._digest, digest(key)):
            return None
        self._renew()
        if self._show is not None:
            self._show(self.address)
        return Role.FULL

    def _renew(self) -> None:
        key = secrets.token_urlsafe(24)
        self._digest = digest(key)
        self.address = f"{self._site}/session/link?key={key}"


@dataclass(frozen=True, slots=True)
class Session:
    """A browser that has shown a token.

    Attributes:
        name: What the log calls it.
        ends_at: When it ends, in monotonic seconds.
    """

    role: Role
    name: str
    ends_at: float


class Sessions:
    """The sessions of browsers, in memory: the end of the worker ends them all.

    Args:
        monotonic: Seconds on a clock that never jumps.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._sessions: dict[bytes, Session] = {}

    def open(self, role: Role) -> tuple[str, Session]:
        """Begin a session; also the secret that the browser's cookie has to hold."""
        secret = secrets.token_urlsafe(32)
        key = digest(secret)
        now = self._monotonic()
        self._sessions = {k: s for k, s in self._sessions.items() if s.ends_at > now}
        of_role = [k for k, s in self._sessions.items() if s.role is role]
        if len(of_role) >= MOST_SESSIONS:
            del self._sessions[of_role[0]]
        ends_at = now + SESSION_LASTS.total_seconds()
        session = self._sessions[key] = Session(role, key.hex()[:8], ends_at)
        return secret, session

    def find(self, secret: str) -> Session | None:
        """The session of a cookie, if it has not ended."""
        found = self._sessions.get(digest(secret))
        return found if found is not None and found.ends_at > self._monotonic() else None

    def close(self, secret: str) -> None:
        """End a session, if there is one."""
        self._sessions.pop(digest(secret), None)


@dataclass(frozen=True, slots=True)
class Locks:
    """What opens a listener's doors.

    Attributes:
        sessions: Those of browsers; ``None`` where there is no page.
        hosts: The names by which it is reached; ``None`` where any will do.
        link: What opens it beside the tokens; ``None`` where there is a token.
        slow_down: What makes guessing slow.
    """

    tokens: Tokens
    sessions: Sessions | None = None
    hosts: Hosts | None = None
    link: SignInLink | None = None
    slow_down: SlowDown = field(default_factory=SlowDown)


def digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
