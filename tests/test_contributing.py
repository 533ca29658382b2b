"""The ways to run the checks: `make check`, the pre-commit hooks, and what CONTRIBUTING.md says about them."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_pre_commit_hooks_are_the_commands_of_make_check() -> None:
    """The same, in the same order; all are local, so that nothing is downloaded."""
    config = (ROOT / ".pre-commit-config.yaml").read_text()
    recipe = re.search(r"^check:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M)
    assert recipe is not None
    checks = [line.strip().removeprefix("@").replace("$(BIN)", ".venv/bin") for line in recipe[1].splitlines()]
    assert re.findall(r"entry: (.*)", config) == checks
    assert re.findall(r"repo: (.*)", config) == ["local"]
    assert set(re.findall(r"language: (.*)", config)) == {"system"}


def test_the_targets_that_contributing_names_exist() -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M)
    named = re.findall(r"\bmake ([a-z]+)", (ROOT / "CONTRIBUTING.md").read_text())
    assert named
    assert set(named) - set(targets) == set()
