"""Which time zones may be named, wherever one is."""

from __future__ import annotations

import pytest
import typer

from worker.cli.terminal_times import zone_option
from worker.errors import TaskDefinitionError
from worker.schedules.registration import task_schedule
from worker.schedules.zones import zone_of


@pytest.mark.parametrize(
    "name",
    [
        "right/Europe/Berlin",
        "right/UTC",
        "posix/Europe/Berlin",
        "posix/UTC",
        "posixrules",
        "localtime",
        "Localtime",
        "Factory",
        "SystemV/EST5EDT",
        "/usr/share/zoneinfo/Europe/Berlin",
        "/etc/localtime",
        ":Europe/Berlin",
        "europe/berlin",
        "EUROPE/BERLIN",
        " Europe/Berlin",
        "./UTC",
        "UTC+2",
        "",
    ],
)
def test_a_zone_that_is_not_the_same_everywhere_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="expected a time zone's IANA name"):
        zone_of(name)
    with pytest.raises(TaskDefinitionError, match="expected a time zone's IANA name"):
        task_schedule("report", {"cron": "@daily", "timezone": name})
    with pytest.raises(typer.BadParameter, match="expected a time zone's IANA name"):
        zone_option(name)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("berlin", "did you mean 'Europe/Berlin'"),
        ("europe/berlin", "did you mean 'Europe/Berlin'"),
        ("Europe/Berln", "did you mean 'Europe/Berlin'"),
        ("right/Europe/Berlin", "did you mean 'Europe/Berlin'"),
        ("posix/Asia/Tokyo", "did you mean 'Asia/Tokyo'"),
        ("/usr/share/zoneinfo/Asia/Tokyo", "did you mean 'Asia/Tokyo'"),
        ("new york", "did you mean 'America/New_York'"),
        ("utc", "did you mean 'UTC'"),
        ("Z", "did you mean 'UTC'"),
        ("UTC+2", "'Etc/GMT-2'"),
        ("GMT-05:00", r"'Etc/GMT\+5'"),
        ("+02:00", "'Etc/GMT-2'"),
    ],
)
def test_every_door_says_what_was_probably_meant(name: str, hint: str) -> None:
    with pytest.raises(ValueError, match=hint):
        zone_of(name)
    with pytest.raises(TaskDefinitionError, match=hint):
        task_schedule("report", {"cron": "@daily", "timezone": name})
    with pytest.raises(typer.BadParameter, match=hint):
        zone_option(name)


@pytest.mark.parametrize("name", ["CEST", "Europe", "x" * 5000, "a\0b", "\ud800", "UTC+99"])
def test_what_resembles_no_zone_has_no_suggestion(name: str) -> None:
    with pytest.raises(ValueError, match=r"IANA name") as refused:
        zone_of(name)
    assert "did you mean" not in str(refused.value)


@pytest.mark.parametrize("name", ["UTC", "Europe/Berlin", "Etc/GMT-2", "EST5EDT", "Asia/Calcutta"])
def test_an_iana_name_is_accepted(name: str) -> None:
    assert zone_of(name).key == name
