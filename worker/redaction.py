"""Takes out of texts what nobody shall see in a log, in a record or on a page.

First what is secret is taken out, then a text is cut; never the other way round, for half a secret
is not known as one. Each pattern takes time in proportion to the text, whoever wrote it: none can
begin at every character of a run and read on to its end.
"""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any

from worker.secret_keys import HIDDEN, is_secret_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["LONGEST", "Redaction", "cut", "plain", "quoted", "safe_text", "told_json", "writable"]

ENDS = 32 * 1024
"""How much is looked at of each end of a text that is longer than both."""
LONGEST = 2 * ENDS
EDGE = 4 * 1024
"""How much is left out beside a cut, since half a secret may stand there."""
LONGEST_NAME = 200
"""How much of a name a message quotes. No task's and no job's is longer."""
DEEPEST = 6
DEEPEST_JSON = 100
"""How deep values and JSON are shown."""

RUN = re.compile(r"://(\S++)")
"""What follows a URL's scheme."""
AFTER_PLACE = re.compile(r"[?#][^'\"]*+")
QUERY = re.compile(r"(?<=[\w/])\?[\w.%~\-\[\]]++=[^\s'\"]*+")
SCHEME = re.compile(r"\b(Bearer|Basic)[\s:=]++[^\s'\"]++", re.IGNORECASE)
NAMED = re.compile(r"(?<![\w.-])([\w.-]++)\\*+(?:[\"'],|[\"']?+\]?+[ \t]*+(?:=>|[:=]))[ \t]*+")
"""``name=``, ``name: ``, ``"name": ``, ``'name', ``, with the backslashes of JSON in JSON."""
VALUE = re.compile(
    r"(?!expected\b|Field required|Value error|[A-Z][a-z]+ (?:inputs? |should ))(?:"
    r"(?P<open>b?\\*+(?P<quote>[\"']))(?:\\.|(?!(?P=quote)).)*+"
    r"|[\[{(][^\n]*+"
    r"|(?P<scheme>(?:Bearer|Basic|Token|Digest|Negotiate|ApiKey)[ \t]++)?+"
    r"\S++(?:(?<=[;,])[ \t]++[^\s=]++=\S++)*+)",
    re.IGNORECASE | re.DOTALL,
)
"""A quoted one; a list or an object, to the end of its line; else a run, and those that a comma or
semicolon adds to it. But not what is said of a value that does not fit."""


class Redaction:
    """Takes the known secrets out of a text, and what looks like one: credentials and queries of
    URLs, tokens, and values by their names. Of a text longer than `LONGEST` the middle is left out.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets = sorted({secret for secret in secrets if secret}, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        """The text without them; half a surrogate pair, which cannot be written, is spelled out."""
        text = self.secrets(writable(text))
        if text.isalnum():
            return shortened(text)
        if len(text) <= LONGEST:
            return redacted(text)
        head, tail = redacted(text[:ENDS])[:-EDGE], redacted(text[-ENDS:])[EDGE:]
        return joined(head, len(text) - len(head) - len(tail), tail)

    def secrets(self, text: str) -> str:
        """Takes out only the known secrets."""
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        return text


def redacted(text: str) -> str:
    """Each pattern is asked only where the sign stands that it needs: most texts have none."""
    if "://" in text:
        text = RUN.sub(without_credentials, text)
    if "?" in text:
        text = QUERY.sub("", text)
    if ":" in text or "=" in text or "'," in text or '",' in text:
        text = without_named(text)
    lower = text.lower()
    return SCHEME.sub(rf"\1 {HIDDEN}", text) if "bearer" in lower or "basic" in lower else text


def without_credentials(found: re.Match[str]) -> str:
    """Whatever stands before the last @ may be a password: any sign may be in one."""
    _, mark, place = found[1].rpartition("@")
    return f"://{HIDDEN if mark else ''}{mark}{AFTER_PLACE.sub('', place)}"


def without_named(text: str) -> str:
    parts: list[str] = []
    done = 0
    for found in NAMED.finditer(text):
        if found.start() < done or not is_secret_key(found[1]):
            continue
        value = VALUE.match(text, found.end())
        if value is not None:
            parts += [text[done : found.end()], value["open"] or value["scheme"] or "", HIDDEN]
            done = value.end()
    return "".join([*parts, text[done:]]) if parts else text


def shortened(text: str) -> str:
    if len(text) <= LONGEST:
        return text
    end = ENDS - EDGE
    return joined(text[:end], len(text) - 2 * end, text[-end:])


def joined(head: str, left_out: int, tail: str) -> str:
    return f"{head}… {left_out} characters left out …{tail}"


def cut(text: str, longest: int = LONGEST_NAME) -> str:
    """At most so many characters of a text that holds no secret, or none any more."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def quoted(value: object) -> str:
    """What a message quotes of a value that holds no secret. Never raises."""
    try:
        return cut(repr(value))
    except (Exception, SystemExit, KeyboardInterrupt):
        return f"a {type(value).__name__}"


def writable(text: str) -> str:
    """The text with what UTF-8 does not know spelled out."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def plain(value: object, edit: Callable[[str], str], deepest: int = DEEPEST) -> Any:
    """``value`` as JSON can hold it, with each text in it edited. Never raises.

    Args:
        deepest: What is nested deeper is not shown.
    """
    match value:
        case None | bool() | int():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case dict() | list() | tuple() if not deepest:
            return "…"
        case dict():
            return {
                edit(writable(safe_text(key))): plain(item, edit, deepest - 1)
                for key, item in value.items()
            }
        case list() | tuple():
            return [plain(item, edit, deepest - 1) for item in value]
        case _:
            return edit(writable(safe_text(value)))


def told_json(text: str, edit: Callable[[str], str]) -> Any:
    """What a JSON text says, as `plain` has it. What is no JSON is told as it is: a program that
    enqueues by SQL may write anything."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = text
    return plain(value, edit, DEEPEST_JSON)


def safe_text(value: object) -> str:
    try:
        return str(value)
    except (Exception, SystemExit, KeyboardInterrupt):
        return f"<{type(value).__name__}>"
