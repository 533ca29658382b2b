"""What the documents point to exists: files, and the tests that shall show what they say."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = ["README.md", "ARCHITECTURE.md", "SECURITY.md", "CHANGELOG.md", "docs/scale.md", "examples/README.md"]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_path_that_a_document_names_exists(document: str) -> None:
    """Links, and paths in code quotes that begin with one of our folders; a * stands for any name."""
    text = (ROOT / document).read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    quoted = re.findall(r"`((?:protocol|storage|server|client|tests|bench|examples|docs|lua)/[\w./*-]+)`", text)
    named = [(ROOT / document).parent / link for link in links]
    named += [(ROOT / "storage" if path.startswith("lua/") else ROOT) / path for path in quoted]
    assert [str(path) for path in named if not list(path.parent.glob(path.name))] == []
    assert named or document == "CHANGELOG.md"


def test_every_test_that_security_names_exists() -> None:
    """By its whole name, or by how it begins, with … behind that."""
    written = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    tests = re.findall(r"^ *(?:async )?def (test_\w+)\(", written, re.MULTILINE)
    named = re.findall(r"`(test_\w+)(…?)`", (ROOT / "SECURITY.md").read_text())
    assert named
    for name, cut in named:
        assert [test for test in tests if test == name or (cut and test.startswith(name))], name
