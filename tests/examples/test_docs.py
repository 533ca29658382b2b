"""What the documents point to exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "examples/README.md"]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_path_that_a_document_names_exists(document: str) -> None:
    """Links, and paths in code quotes that begin with one of our folders; a * stands for any name."""
    text = (ROOT / document).read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    quoted = re.findall(r"`((?:protocol|storage|server|tests|examples|docs|lua)/[\w./*-]+)`", text)
    named = [(ROOT / document).parent / link for link in links]
    named += [(ROOT / "storage" if path.startswith("lua/") else ROOT) / path for path in quoted]
    assert [str(path) for path in named if not list(path.parent.glob(path.name))] == []
    assert named or document == "CHANGELOG.md"
