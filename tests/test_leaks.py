"""The watch over leaks finds them, names them, and leaves who leaks nothing alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CLEAN = """
async def test_clean():
    await asyncio.create_task(asyncio.sleep(0))
    socket.socket().close()
"""
LEAKS = {
    "a task": ("kept.append(asyncio.create_task(asyncio.sleep(100)))", "tasks that are left", "sleep()"),
    "a socket": ("kept.append(socket.socket())", "descriptors that are left open", "socket:["),
    "a file": ("kept.append(open('/dev/null'))", "descriptors that are left open", "/dev/null"),
    "an exception": (
        "task = asyncio.create_task(failing()); await asyncio.sleep(0); del task",
        "never retrieved",
        "failing",
    ),
    "a coroutine": ("failing()", "never awaited", "failing"),
    "a task in a cycle": (
        "knot = []; knot.append(asyncio.get_running_loop().create_task(waiting(knot))); await asyncio.sleep(0)",
        "tasks that are left",
        "waiting",
    ),
}


def run(tmp_path: Path, body: str) -> "subprocess.CompletedProcess[str]":
    """pytest over one file, with the settings of this project and its watch."""
    head = "import asyncio, socket\nkept = []\nasync def failing(): raise ValueError\n"
    head += "async def waiting(knot): await asyncio.Event().wait()\n"
    (tmp_path / "test_it.py").write_text(head + CLEAN + body)
    words = ["-q", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path), "-p", "tests.leaks"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *words, "-p", "no:cacheprovider", str(tmp_path / "test_it.py")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("what", LEAKS)
def test_a_leak_fails_the_test_that_leaks(what: str, tmp_path: Path) -> None:
    line, *said = LEAKS[what]
    done = run(tmp_path, f"async def test_leaks():\n    {line}\n")
    assert done.returncode == 1, done.stdout
    for words in said:
        assert words in done.stdout
    assert "test_leaks" in done.stdout
    assert "test_clean" not in done.stdout


def test_who_leaks_nothing_passes(tmp_path: Path) -> None:
    done = run(tmp_path, "")
    assert done.returncode == 0, done.stdout
