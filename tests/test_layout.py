"""Tests mirror the tree: a module's tests are where its name says, and every package says what belongs in it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("client", "protocol", "server", "storage")
FOLDERS = {
    "bench": "the measurements of bench/",
    "browser": "the browser's client and the pages in a real Chromium",
    "examples": "the examples and the commands in the documents",
    "faults": "real processes that are killed, stopped and cut off",
    "fuzz": "searches for inputs that break a promise",
    "property": "properties of any history of reports",
    "security": "attacks and permissions",
    "soak": "clients that connect and disconnect for a long time",
    "stories": "learners with several devices",
}
"""Folders of tests that belong to no module, and what they hold. In a package's folder such tests are in `features`."""
EXEMPT: dict[str, str] = {
    "server/commands/errors.py": "an exception class without code",
    "server/push/device.py": "a Protocol; `server/socket/channel.py` implements it",
    "server/services.py": "a dataclass of what the endpoints are given",
    "storage/errors.py": "exception classes without code",
    "storage/parts.py": "wires the parts of a store; every test that opens a store runs it",
}
"""Modules without a test file of their name, each with the reason."""


def modules() -> list[str]:
    """The modules of the packages, without `__init__.py` and `__main__.py`."""
    paths = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return sorted(str(path.relative_to(ROOT)) for path in paths if not path.name.startswith("__"))


def file_of(module: str) -> Path:
    path = Path("tests") / module
    return path.with_name(f"test_{path.name}")


def mirroring_files() -> list[str]:
    """The test files that have to belong to a module."""
    paths = (path for package in PACKAGES for path in (ROOT / "tests" / package).rglob("test_*.py"))
    return sorted(str(path.relative_to(ROOT)) for path in paths if path.parent.name != "features")


@pytest.mark.parametrize("module", [module for module in modules() if module not in EXEMPT])
def test_module_has_a_test_file_of_its_name(module: str) -> None:
    assert (ROOT / file_of(module)).is_file(), f"{module} is tested in {file_of(module)}, or is exempt for a reason"


@pytest.mark.parametrize("module", EXEMPT)
def test_exempt_module_exists_and_has_no_test_file(module: str) -> None:
    assert (ROOT / module).is_file()
    assert not (ROOT / file_of(module)).exists(), f"{module} has a test file, so it needs no exemption"


@pytest.mark.parametrize("path", mirroring_files())
def test_test_file_belongs_to_a_module(path: str) -> None:
    """It is named after the module; `test_<module>_<aspect>.py` is a further file of the same module."""
    folder = ROOT / Path(path).relative_to("tests").parent
    name = Path(path).stem.removeprefix("test_")
    names = {module.stem for module in folder.glob("*.py")}
    assert any(name == module or name.startswith(f"{module}_") for module in names), (
        f"{path} is named after no module of {folder.relative_to(ROOT)}; tests of several modules are in `features`"
    )


def test_every_folder_of_tests_mirrors_a_package_or_says_what_it_holds() -> None:
    folders = {path.relative_to(ROOT / "tests").parts[0] for path in (ROOT / "tests").glob("*/**/test_*.py")}
    assert folders == {*PACKAGES, *FOLDERS}


@pytest.mark.parametrize(
    "package",
    sorted(str(path.parent.relative_to(ROOT)) for name in PACKAGES for path in (ROOT / name).rglob("__init__.py")),
)
def test_package_opens_with_what_belongs_in_it_and_what_does_not(package: str) -> None:
    """In one sentence, which the first line of the docstring holds."""
    docstring = ast.get_docstring(ast.parse((ROOT / package / "__init__.py").read_text()))
    assert docstring is not None
    first, *_ = docstring.splitlines()
    assert first.endswith("."), "a whole sentence"
    belongs, _, excluded = first.rstrip(".").replace(", which", ";").partition(";")
    assert len(belongs.split()) >= 4, "what belongs in the package"
    assert len(excluded.split()) >= 4, "what does not"


def test_every_folder_with_modules_is_a_package() -> None:
    folders = {(ROOT / module).parent for module in modules()}
    assert [folder for folder in sorted(folders) if not (folder / "__init__.py").is_file()] == []
