"""The reference pages are what the code says today."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.documents import ROOT
from tools.reference import log, pages
from worker.cli.terminal import ExitCode
from worker.durations import parse_duration
from worker.settings import Settings, load_settings, variable

PAGES = pages()


@pytest.mark.parametrize("name", PAGES)
def test_page_is_current(name: str) -> None:
    assert (ROOT / name).read_text("utf-8") == PAGES[name], "run python -m tools.reference"


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_there_with_its_default(name: str) -> None:
    field = Settings.model_fields[name]
    row = re.search(
        rf"^\| `{variable(name)}` \| (.*?) \| (.*) \|$", PAGES["docs/reference/settings.md"], re.M
    )
    assert row is not None
    assert row[2] == field.description
    if not field.is_required() and field.default not in (None, ()):
        shown, default = row[1].strip("`"), field.default
        assert (parse_duration(shown) if hasattr(default, "days") else shown) == (
            default if hasattr(default, "days") else str(default).lower()
        )


def test_the_example_of_an_env_file_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = PAGES[".env.example"].splitlines()
    shown = [line.removeprefix("#") for line in lines if re.match(r"#?WORKER_\w+=.", line)]
    (tmp_path / ".env").write_text("\n".join(shown))
    monkeypatch.chdir(tmp_path)
    taken = load_settings()
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    assert taken.model_dump() == {**defaults, "data_api_url": "http://localhost:8000"}


def test_an_event_without_words_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "some.py").write_text('log.info("run.started")\nlog.info("run.forgotten")')
    monkeypatch.setattr(log, "PACKAGE", tmp_path)
    with pytest.raises(ValueError, match=r"run\.forgotten$"):
        log.page()


def test_commands_and_exit_codes_are_there() -> None:
    page = PAGES["docs/reference/cli.md"]
    assert "\n## worker dead retry\n\n`worker dead retry [ID…]`\n" in page
    assert "| `--dry-run` |" in page
    for code in ExitCode:
        assert re.search(rf"^\| {code} \||\b{code}: ", page, re.MULTILINE), code
