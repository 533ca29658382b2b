"""The log of the program `playhead`."""

import subprocess
import sys
from pathlib import Path

import pytest

from playhead.server import app
from playhead.storage.write import flusher
from tests.ports import free_port
from tests.server.program import serve

PRINT_LEVEL = """
import logging.config, sys
from playhead.server.commands import logs
logging.config.dictConfig(logs.config(sys.argv[1]))
print(logging.getLevelName(logging.getLogger(sys.argv[2]).getEffectiveLevel()))
"""


@pytest.mark.parametrize("level", ["debug", "error"])
@pytest.mark.parametrize("module", [app.__name__, flusher.__name__])
def test_the_log_level_applies_to_every_module_of_ours(module: str, level: str) -> None:
    """By the names under which the modules are imported; other libraries log warnings only."""
    command = [sys.executable, "-c", PRINT_LEVEL, level]
    assert subprocess.check_output([*command, module], text=True).strip() == level.upper()
    assert subprocess.check_output([*command, "a_library"], text=True).strip() == "WARNING"


@pytest.mark.parametrize(("level", "shown"), [("info", True), ("warning", False)])
async def test_the_log_level_applies_from_the_start(tmp_path: Path, level: str, shown: bool) -> None:
    """The line about the store's clock has the level INFO, and is logged before the workers run."""
    async with serve(free_port(), "--data-dir", str(tmp_path / "data"), "--log-level", level) as program:
        assert await program.stop() == 0
        assert program.log is not None
        assert (" INFO playhead.server.commands.serve: " in program.log.text) == shown, program.log.text
