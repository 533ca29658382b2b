"""The logging of the program `playhead`."""

import subprocess
import sys

import pytest

from playhead.server import app
from playhead.storage.write import flusher

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
