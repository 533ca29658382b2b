"""The scripts are put together the same way everywhere, and mirror Python where both hold the same rule."""

import ast
import inspect
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from types import ModuleType

import pytest

from playhead.protocol import intervals, record
from playhead.protocol.record import Outcome, Record, Report
from playhead.storage import scripts
from playhead.storage.scripts import PARTS, SHARED, Script
from playhead.storage.store import Store
from tests.inside import parts_of

ROOT = Path(__file__).parents[2]
LUA = ROOT / "storage" / "lua"
PYTHON_ONLY = {
    # The sessions of connections add plays up before the store sees them; the wire has pairs.
    "intervals": {"coverage", "pairs"},
    # Reports are joined to each other before the store sees them; where to resume is for readers; order.lua compares
    # ages.
    "record": {"seqs", "repeated", "then", "position", "resume_ms", "age"},
}
"""Functions that the store does not need."""


def functions_of(module: ModuleType) -> list[str]:
    """Names of functions and methods in the order of the source, without the underscore of private ones."""
    found = [node for node in ast.walk(ast.parse(inspect.getsource(module))) if isinstance(node, ast.FunctionDef)]
    return [node.name.lstrip("_") for node in sorted(found, key=lambda node: node.lineno)]


@pytest.mark.parametrize("module", [intervals, record], ids=["intervals", "record"])
def test_lua_has_the_functions_of_python_in_the_same_order(module: ModuleType) -> None:
    """So that both files can be read side by side. A new function is either mirrored or listed above."""
    name = module.__name__.rpartition(".")[2]
    mirrored = [function for function in functions_of(module) if function not in PYTHON_ONLY[name]]
    in_lua = re.findall(r"^(?:local )?function (\w+)", (LUA / f"{name}.lua").read_text(), re.MULTILINE)
    assert in_lua == mirrored
    assert PYTHON_ONLY[name] <= set(functions_of(module)), "a listed function no longer exists"


def test_every_lua_file_is_part_of_a_script() -> None:
    assert {path.stem for path in LUA.iterdir()} == {*PARTS, *(part for parts in PARTS.values() for part in parts)}


def code_of(text: str) -> str:
    """Without comments and strings."""
    return re.sub(r"'[^'\n]*'|--.*", "", text)


@pytest.mark.parametrize("name", PARTS)
def test_what_lua_shares_with_python_is_filled_in(name: str) -> None:
    code = code_of(Script(name).text)
    assert [word for word in SHARED if re.search(rf"\b{word}\b", code)] == []


def test_no_lua_file_defines_what_is_shared() -> None:
    """And every shared name is used."""
    code = "".join(code_of(path.read_text()) for path in LUA.iterdir())
    assert [word for word in SHARED if re.search(rf"local [\w, ]*\b{word}\b(?! = unpack)", code)] == []
    assert [word for word in SHARED if not re.search(rf"\b{word}\b", code)] == []


def test_no_shared_name_means_two_things() -> None:
    names = re.findall(r'^    "([A-Z_]+)": ', inspect.getsource(scripts), re.MULTILINE)
    names += [*Outcome.__members__, *(field.name.upper() for field in fields(Record))]
    assert len(names) == len(set(names))


def test_join_takes_the_fields_of_a_report_in_their_order() -> None:
    (parameters,) = re.findall(r"^local function join\((.*)\)$", Script("users").text, re.MULTILINE)
    assert parameters.split(", ")[-len(Report.__struct_fields__) :] == list(Report.__struct_fields__)


@pytest.mark.parametrize("name", PARTS)
def test_lines_of_a_script_are_found_in_their_files(name: str) -> None:
    """As the store's errors number them, in a part or in the script's own file."""
    script = Script(name)
    places = []
    for number, text in enumerate(script.text.splitlines(), 1):
        place, line = script.line(number)
        assert line == text
        places.append(place)
    files = [f"{file}.lua" for file in (*PARTS[name], name)]
    lines = {file: (LUA / file).read_text().splitlines() for file in files}
    assert places == [f"{file}, line {n}" for file in files for n in range(1, len(lines[file]) + 1)]
    assert script.text.splitlines()[-1] == lines[files[-1]][-1]


def test_every_process_makes_the_same_text() -> None:
    """Scripts are called by their hashes, also by workers that did not load them."""
    code = "from playhead.storage.scripts import PARTS, Script; print(*[Script(name).sha for name in PARTS])"
    made = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for seed in (1, 2)
    }
    assert made == {" ".join(Script(name).sha for name in PARTS) + "\n"}


async def test_the_store_knows_each_script_by_its_hash(store: Store) -> None:
    """It compiles, on this server too."""
    loads = [("SCRIPT", "LOAD", Script(name).text) for name in PARTS]
    assert await parts_of(store).run(loads) == [Script(name).sha.encode() for name in PARTS]
