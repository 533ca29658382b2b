"""The options of `playhead serve` are the settings, and its help text is made from them."""

import re
import subprocess
import sys

import pytest

from playhead.server.commands.options import NO_OPTION, SECTIONS
from playhead.server.settings import Settings
from tests.server.program import ROOT, environment

OPTION = re.compile(r"\n  (--[a-z-]+)(?:, --no-[a-z-]+)?(?: ([A-Z]+|\{\S+\}))?\s+(.*?)\[(.*?)\](?=\n)", re.S)


@pytest.fixture(scope="module")
def text() -> str:
    command = [sys.executable, "-m", "playhead.server", "serve", "--help"]
    return subprocess.check_output(command, cwd=ROOT, env=environment(COLUMNS="80"), text=True)


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_a_setting_has_a_docstring_and_an_option_with_its_default_and_its_variable(name: str, text: str) -> None:
    field = Settings.model_fields[name]
    assert field.description, "its docstring is its help text"
    found = {option: (words, notes) for option, _, words, notes in OPTION.findall(text)}
    if name == NO_OPTION:
        assert f"--{name.replace('_', '-')} " not in text
        assert "is read from PLAYHEAD_JWT_SECRET only" in text
        return
    words, notes = found[f"--{name.replace('_', '-')}"]
    assert notes.endswith(f"PLAYHEAD_{name.upper()}")
    assert words.strip().endswith("."), "its first paragraph is whole sentences"
    if isinstance(field.default, bool | int | float | str):
        assert notes.startswith("default "), "its default is shown"
    else:
        assert field.default is None or field.default == () or notes.startswith("default data")


@pytest.mark.parametrize(
    ("option", "shown"),
    [
        ("--flush-interval-s SECONDS", "default 1 s,"),
        ("--max-frame-bytes BYTES", "default 16384 bytes,"),
        ("--max-unread-bytes-per-user BYTES", "default 33554432 bytes,"),
        ("--hellos-per-s N", "default 500/s,"),
        ("--max-rate N", "default 4,"),
        ("--log-level {debug,info,warning,error}", "default info,"),
        ("--allowed-origins LIST", "PLAYHEAD_ALLOWED_ORIGINS"),
    ],
)
def test_units_are_shown_with_values_and_defaults(option: str, shown: str, text: str) -> None:
    assert text.partition(f"  {option}")[2].partition("[")[2].startswith(shown)


def test_the_help_fits_into_80_columns_and_breaks_no_option(text: str) -> None:
    assert [line for line in text.splitlines() if len(line) > 80 or re.search(r"--\S*-$", line)] == []


def test_the_sections_begin_with_settings() -> None:
    assert [name for name in SECTIONS if name not in Settings.model_fields] == []
    assert next(iter(SECTIONS)) == next(iter(Settings.model_fields)), "no setting is outside of a section"
