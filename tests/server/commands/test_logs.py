"""The log of the program `playhead`."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from playhead.server import app
from playhead.server.commands import logs
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


def formatted(error: BaseException | None) -> str:
    info = (type(error), error, error.__traceback__) if error is not None else (None, None, None)
    return logs.OneLine().format(logging.LogRecord("name", logging.ERROR, __file__, 1, "said", (), info))


def raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:
        return caught


def test_an_exception_is_one_line_without_its_text() -> None:
    line = formatted(raised(ValueError("a secret\nand a forged line")))
    assert "[ValueError at test_logs.py:" in line
    assert "secret" not in line
    assert "\n" not in line


def test_a_group_is_described_by_its_first_exception() -> None:
    """Groups within groups, as nested task groups raise them."""
    first = raised(KeyError("a secret"))
    group = raised(ExceptionGroup("outer", [ExceptionGroup("inner", [first, OSError()]), OSError()]))
    assert "[KeyError at test_logs.py:" in formatted(group)
    never_raised = ExceptionGroup("outer", [TypeError()])
    assert "[TypeError at test_logs.py:" in formatted(raised(never_raised))


def test_without_an_exception_nothing_is_added() -> None:
    assert formatted(None).endswith("ERROR name: said ")


def test_control_characters_cannot_forge_a_line() -> None:
    record = logging.LogRecord("name", logging.ERROR, __file__, 1, "said %s", ("a\nb\x1b",), None)
    assert logs.OneLine().format(record).endswith(r"said a\nb\x1b")
