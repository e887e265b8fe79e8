"""The documents, and the examples in them, which tests write down as files and run."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PATHS = (
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "deploy" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
)
DOCUMENTS = {str(path.relative_to(ROOT)): path.read_text("utf-8") for path in PATHS}
"""The text of each document, by its path from the root: ``docs/jobs.md``."""
README = DOCUMENTS["README.md"]


def marked(kind: str, name: str) -> str:
    """The code block of a document that follows the comment ``<!-- kind: name -->``."""
    pattern = re.compile(rf"<!-- {kind}: {re.escape(name)} -->\n```\w+\n(.*?)```", re.DOTALL)
    blocks = [block for text in DOCUMENTS.values() for block in pattern.findall(text)]
    assert len(blocks) == 1, f"the documents have {len(blocks)} times the {kind} {name}"
    return str(blocks[0])


def write_examples(folder: Path, *names: str) -> None:
    """Write the examples of these names into files of these names."""
    for name in names:
        (folder / name).write_text(marked("example", name))
