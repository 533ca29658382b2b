"""Everything that documents refer to exists: files, headings, tests, commands, settings and metrics."""

import re
from pathlib import Path

import pytest

from playhead.server.commands.cli import main
from playhead.server.settings import Settings

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    "README.md",
    "ARCHITECTURE.md",
    "SECURITY.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "examples/README.md",
    *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
]


def read(document: str) -> str:
    return (ROOT / document).read_text()


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def links(document: str) -> list[tuple[Path, str]]:
    """The file and the heading's anchor of each link within the repository; the anchor may be empty."""
    found = re.findall(r"\]\(([^)#]*)(?:#([^)]+))?\)", re.sub(r"```.*?```", "", read(document), flags=re.S))
    here = ROOT / document
    return [(here.parent / path if path else here, anchor) for path, anchor in found if "://" not in path]


def anchors(document: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a document."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.M)
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_path_that_a_document_names_exists(document: str) -> None:
    """Links, and paths in code quotes that begin with one of our folders; a * stands for any name."""
    quoted = re.findall(
        r"`((?:protocol|storage|server|client|tests|bench|examples|docs|lua)/[\w./*-]+)`", read(document)
    )
    named = [path for path, _ in links(document)]
    named += [(ROOT / "storage" if path.startswith("lua/") else ROOT) / path for path in quoted]
    assert [str(path) for path in named if not list(path.parent.glob(path.name))] == []
    assert named or document == "CHANGELOG.md"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_heading_that_a_document_links_to_exists(document: str) -> None:
    missing = [f"{path.name}#{anchor}" for path, anchor in links(document) if anchor and anchor not in anchors(path)]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_module_that_a_document_names_exists(document: str) -> None:
    """Modules are named by their whole dotted name, as in the log."""
    named = re.findall(r"`(?:playhead\.)((?:server|storage|protocol|client)(?:\.\w+)+)`", read(document))
    modules = [ROOT / name.replace(".", "/") for name in named]
    assert [str(path) for path in modules if not path.with_suffix(".py").exists() and not path.is_dir()] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_setting_and_metric_that_a_document_names_exists(document: str) -> None:
    text = read(document)
    settings = {name.lower() for name in re.findall(r"\bPLAYHEAD_([A-Z][A-Z_]*[A-Z])\b", text)}
    assert settings - Settings.model_fields.keys() == set()
    sources = "\n".join(path.read_text() for path in (ROOT / "server").rglob("*.py"))
    metrics = {name.removesuffix("_total") for name in re.findall(r"`(playhead_\w+)`", text)} - {"playhead_client"}
    assert {name for name in metrics if f'"{name}"' not in sources} == set()


def test_operators_find_each_logger_in_the_documentation() -> None:
    """Every module that logs, except those that log at the level debug alone."""
    logs = re.compile(r"^ *logger\.(?:info|warning|error|critical|exception|log)\(|\bOutage\(\s*logger\b", re.M)
    modules = [path for package in ("server", "storage") for path in (ROOT / package).rglob("*.py")]
    loggers = {
        name[1] if (name := re.search(r'getLogger\("([\w.]+)"\)', text)) else "playhead." + dotted(path)
        for path in modules
        if logs.search(text := path.read_text())
    }
    documented = set(re.findall(r"^\| `(playhead\.[\w.]+)`", read("docs/operations.md"), re.M))
    assert loggers == documented


def test_operators_find_each_metric_in_the_documentation() -> None:
    source = read("server/rest/metrics.py")
    sampled = set(re.findall(r'"(playhead_\w+)"', source))
    documented = {
        name.removesuffix("_total") for name in re.findall(r"^\| `(playhead_\w+)`", read("docs/operations.md"), re.M)
    }
    assert sampled == documented


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_that_a_document_shows_has_these_options(
    document: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Options of the program `playhead`, and targets of make."""
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", read(document), re.S))
    for command, rest in re.findall(r"^(?:PLAYHEAD_\S+ )?playhead (\w+)(.*)$", blocks, re.M):
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
        assert ended.value.code == 0
        options = capsys.readouterr().out
        for option in re.findall(r"(?<= )(--[a-z][\w-]*)", rest.partition("#")[0]):
            assert re.search(rf"{option}\b", options), f"playhead {command} {option}"
    targets = set(re.findall(r"^(\w+):", read("Makefile"), re.M))
    assert set(re.findall(r"(?:`|^)make (\w+)", read(document), re.M)) <= targets


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if "`test_" in read(name)])
def test_every_test_that_a_document_names_exists(document: str) -> None:
    """Tests are named by their whole name, or by its beginning followed by …"""
    written = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    tests = re.findall(r"^ *(?:async )?def (test_\w+)\(", written, re.MULTILINE)
    for name, cut in re.findall(r"`(test_\w+)(…?)`", read(document)):
        assert [test for test in tests if test == name or (cut and test.startswith(name))], name
