"""What the fields of a cron expression say, as numbers.

Each item is read here, so that the same rules hold in every field; what cannot mean what it says
is refused, and the error says what to write instead. Which days of a calendar the last three
fields name is left to `cronsim <https://github.com/cuu508/cronsim>`_.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta

from worker.schedules.foreign import MACROS, field_count_hint, foreign_hint, item_hint

__all__ = ["EXPECTED", "Expression", "canonical", "parse_expression", "rhythm_notes"]

EXPECTED = (
    "expected a cron expression of five fields, minute hour day-of-month month day-of-week, such "
    f"as '30 3 * * MON-FRI', or one of {', '.join(MACROS)}"
)
MONTHS = (
    *("JANUARY", "FEBRUARY", "MARCH", "APRIL", "MAY", "JUNE"),
    *("JULY", "AUGUST", "SEPTEMBER", "OCTOBER", "NOVEMBER", "DECEMBER"),
)
WEEKDAYS = ("SUNDAY", "MONDAY", "TUESDAY", "WEDNESDAY", "THURSDAY", "FRIDAY", "SATURDAY")
SHORTEST_NAME = 3
ANY = ("*", "?")
NTH = re.compile(r"(.+)#(.*)")
LAST_WEEKDAY = re.compile(r"(.+)L")


@dataclass(frozen=True, slots=True)
class Field:
    """One of the five fields.

    Attributes:
        first, last: Its smallest and its largest value.
        names: The names of its values in capitals, from ``first`` on.
        unit: What a step counts, as a duration has it; empty where no duration can be given.
        period: What begins again after ``last``.
    """

    name: str
    first: int
    last: int
    names: tuple[str, ...] = ()
    unit: str = ""
    period: str = ""

    @property
    def size(self) -> int:
        return self.last - self.first + 1

    def canonical(self, text: str) -> str:
        """The same field with numbers only; ``*`` and ``*/n`` stay as they are.

        Raises:
            ValueError: It is malformed, or a value is out of its range.
        """
        return ",".join(item for part in text.split(",") for item in self._items(part, text))

    def _items(self, part: str, text: str) -> list[str]:
        if not part:
            raise ValueError(f"{self.name}: an item of the list {text!r} is empty; remove a comma")
        special = self._special(part)
        if special is not None:
            return [special]
        body, slash, step_text = part.partition("/")
        step = self._step(part, step_text) if slash else 1
        if body in ANY:
            return ["*" if step == 1 else f"*/{step}"]
        first, dash, last = body.partition("-")
        start = self._value(first, part)
        if dash:
            end = self._value(last, part)
        else:
            end = self.last if slash else start
            if slash:
                self._check_open_end(part, start, step)
        return [str(value) for value in self._values(start, end, step)]

    def _values(self, start: int, end: int, step: int) -> list[int]:
        """The values from ``start`` to ``end``; past ``last`` they go on at ``first``."""
        if start > self.last:  # 7 is Sunday
            start, end = start - self.size, end - self.size if end > self.last else end
        if end < start:
            end += self.size
        found = (self.first + (value - self.first) % self.size for value in range(start, end + 1))
        return list(dict.fromkeys(list(found)[::step]))

    def _check_open_end(self, part: str, start: int, step: int) -> None:
        """Refuse ``50/15``, and ``1/2`` among the days of the week, where 7 may count or not."""
        if self is WEEKDAY and 0 < start <= 7 and (7 - start) % step == 0:
            ends = [f"{start % 7}-{end}/{step}" for end in (6, 7)]
            raise ValueError(
                f"{self.name}: some read {part!r} as {ends[0]}, others as {ends[1]}, which "
                "includes Sunday; write which one you mean"
            )
        if start + step > self.last:
            raise ValueError(
                f"{self.name}: the step in {part!r} would never be taken, since the field ends "
                f"with {self.last}; write {start}"
            )

    def _value(self, text: str, part: str) -> int:
        if text.isascii() and text.isdigit():
            digits = text.lstrip("0") or "0"
            highest = 7 if self is WEEKDAY else self.last
            if len(digits) <= 2 and self.first <= int(digits) <= highest:
                return int(digits)
            raise ValueError(f"{self.name}: expected {self.first} to {highest}, got {part!r}")
        if len(text) >= SHORTEST_NAME:
            for number, name in enumerate(self.names):
                if name.startswith(text.upper()):
                    return self.first + number
        for other in FIELDS:
            if any(text.upper() == name[: len(text)] for name in other.names if len(text) > 2):
                raise ValueError(f"{self.name}: {part!r} belongs into the {other.name} field")
        names = f", or a name such as {self.names[0][:3]}" if self.names else ""
        expected = f"expected numbers from {self.first} to {self.last}{names}"
        raise ValueError(f"{self.name}: {expected}, got {part!r}{item_hint(part, self.name)}")

    def rhythm(self, text: str) -> list[str]:
        """Where steps that go on to the end of the field are not all of one length."""
        notes = []
        for part in text.split(","):
            body, _, step_text = part.partition("/")
            if not step_text or "-" in body:
                continue
            start = self.first if body in ANY else self._value(body, part)
            step = self._step(part, step_text)
            last = range(start, self.last + 1, step)[-1]
            if step > 1 and (self is DAY or start + self.size - last != step):
                gap = start + self.size - last
                length = f"{gap} instead of {step}" if self is not DAY else "shorter"
                notes.append(
                    f"{part} in the {self.name} field begins again at {start} with each "
                    f"{self.period}, so the last step is {length}"
                )
        return notes

    def _step(self, part: str, text: str) -> int:
        if not (text.isascii() and text.isdigit()) or not text.strip("0"):
            raise ValueError(
                f"{self.name}: expected a step from 1 to {self.size - 1} after '/', got {part!r}"
                f"{item_hint(part, self.name)}"
            )
        digits = text.lstrip("0")
        step = int(digits) if len(digits) <= 6 else None
        if step is not None and step < self.size:
            return step
        interval = f"interval='{step}{self.unit}' for that rhythm, or "
        raise ValueError(
            f"{self.name}: the step in {part!r} is as large as the field, which has {self.size} "
            f"values and begins again with each {self.period}, so the step would never be taken; "
            f"write {interval if self.unit and step else ''}one value such as {self.first} here"
        )

    def _special(self, part: str) -> str | None:
        """``L``, ``LW``, ``5L`` and ``FRI#2``, where they have a meaning."""
        upper = part.upper()
        if self is DAY and upper in ("L", "LW"):
            return upper
        if self is not WEEKDAY:
            return None
        if (nth := NTH.fullmatch(upper)) is not None:
            day, which = nth.groups()
            if which not in ("1", "2", "3", "4", "5"):
                last = "; the last one is written as FRIL or 5L" if which in ("L", "-1") else ""
                raise ValueError(f"{self.name}: expected 1 to 5 after '#', got {part!r}{last}")
            return f"{self._value(day, part) % 7}#{which}"
        if (last_one := LAST_WEEKDAY.fullmatch(upper)) is not None:
            return f"{self._value(last_one[1], part) % 7}L"
        return None


MINUTE = Field("minute", 0, 59, unit="m", period="hour")
HOUR = Field("hour", 0, 23, unit="h", period="day")
DAY = Field("day-of-month", 1, 31, unit="d", period="month")
MONTH = Field("month", 1, 12, names=MONTHS, period="year")
WEEKDAY = Field("day-of-week", 0, 6, names=WEEKDAYS, unit="d", period="week")
FIELDS = (MINUTE, HOUR, DAY, MONTH, WEEKDAY)


@dataclass(frozen=True, slots=True)
class Expression:
    """A cron expression, read.

    Attributes:
        times: The times of a day, since midnight, ascending.
        days: The last three fields, with numbers only.
        steady: Whether the minute or the hour begins with ``*``.
    """

    times: tuple[timedelta, ...]
    days: str
    steady: bool


def canonical(text: str) -> tuple[str, ...]:
    """The five fields of a cron expression with numbers only; ``*`` and ``*/n`` stay as they are.

    Raises:
        ValueError: It is malformed; the message says what to write instead.
    """
    fields = MACROS.get(text.strip().lower(), text).split()
    hint = foreign_hint(text)
    if hint is not None:
        raise ValueError(f"{EXPECTED}; got {text!r}; {hint}")
    if len(fields) != len(FIELDS):
        raise ValueError(f"{EXPECTED}; got {text!r}; {field_count_hint(fields)}")
    try:
        return tuple(field.canonical(said) for field, said in zip(FIELDS, fields, strict=True))
    except ValueError as exc:
        raise ValueError(f"{EXPECTED}; got {text!r}: {exc}") from exc


def parse_expression(text: str) -> Expression:
    """Read a cron expression.

    Raises:
        ValueError: It is malformed; the message says what to write instead.
    """
    minute, hour, *days = canonical(text)
    times = sorted(
        {
            timedelta(hours=at_hour, minutes=at_minute)
            for at_hour in numbers(hour, HOUR)
            for at_minute in numbers(minute, MINUTE)
        }
    )
    return Expression(tuple(times), " ".join(days), minute.startswith("*") or hour.startswith("*"))


def rhythm_notes(text: str) -> list[str]:
    """What is uneven about the steps of a valid expression, for people."""
    fields = MACROS.get(text.strip().lower(), text).split()
    return [note for field, said in zip(FIELDS, fields, strict=True) for note in field.rhythm(said)]


def numbers(canonical: str, field: Field) -> set[int]:
    """The values that a field names, which has no ``L`` and ``#``."""
    found: set[int] = set()
    for item in canonical.split(","):
        star, _, step = item.partition("/")
        if star == "*":
            found.update(range(field.first, field.last + 1, int(step or 1)))
        else:
            found.add(int(item))
    return found
