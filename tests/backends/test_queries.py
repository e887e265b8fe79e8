"""The .sql files beside the backends, and who reads them."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from worker.backends.queries import load_queries, parse_queries

SQL_FILES = sorted(
    file.name for file in files("worker.backends").iterdir() if file.name.endswith(".sql")
)


def test_a_statement_is_found_by_its_name_without_its_description() -> None:
    text = """-- For readers.

-- name: one
-- Says what it does,
-- in two lines.
SELECT 1
FROM a;

-- name: two
-- Another.
SELECT 2
"""
    assert parse_queries(text) == {"one": "SELECT 1\nFROM a", "two": "SELECT 2"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("-- name: a\n-- A.\nSELECT 1\n-- name: a\n-- A.\nSELECT 2", "two queries named 'a'"),
        ("-- name: a\nSELECT 1", "'a' has no description"),
        ("-- name: a\n-- A.\n", "'a' has no statement"),
        ("-- name: a", "'a' has no statement"),
    ],
)
def test_a_file_that_breaks_a_rule_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_queries(text)


@pytest.mark.parametrize("file", SQL_FILES)
def test_every_statement_is_used_and_none_is_missing(file: str) -> None:
    module = files("worker.backends").joinpath(file.replace(".sql", ".py")).read_text()
    named = set(re.findall(r'"([a-z]+(?:_[a-z0-9]+)+)"', module))
    assert set(load_queries(file)) <= named
    asked = set(re.findall(r'QUERIES\["(\w+)"\]', module))
    assert asked <= set(load_queries(file))
