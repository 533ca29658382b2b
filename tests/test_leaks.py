"""tests/leaks.py fails each test that leaks, and no other test."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAD = """
import asyncio, gc, socket
kept = []

async def failing():
    raise ValueError

async def waiting(knot):
    await asyncio.Event().wait()

async def test_clean():
    await asyncio.create_task(asyncio.sleep(0))
    socket.socket().close()
"""
LEAKS = {
    "a_task": ("kept.append(asyncio.create_task(asyncio.sleep(100)))", r"tasks are still running: .*sleep\(\)"),
    "a_socket": ("kept.append(socket.socket())", r"descriptors are still open: .*socket:\["),
    "a_file": ("kept.append(open('/dev/null'))", r"descriptors are still open: .*/dev/null"),
    "an_exception": (
        "task = asyncio.create_task(failing()); await asyncio.sleep(0); del task",
        r"was never retrieved\s(.*\s)*?.*coro=<failing\(\)",
    ),
    "a_coroutine": ("failing()", r"coroutine 'failing' was never awaited"),
    "a_task_in_a_cycle": (
        "knot = []; knot.append(asyncio.create_task(waiting(knot))); await asyncio.sleep(0)",
        r"tasks are still running: .*waiting\(\)",
    ),
}
SHARED = """
import asyncio, socket
import pytest, pytest_asyncio

pytestmark = pytest.mark.asyncio(loop_scope="module")
kept = []

@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server():
    opened = socket.socket()  # such as a server's connection to its store
    asyncio.get_running_loop().call_later(0.05, lambda: kept.append(socket.socket()))
    yield
    opened.close()
    for each in kept:
        each.close()

async def test_before():
    socket.socket().close()

async def test_with_it(server):
    pass

async def test_beside_it():
    async with asyncio.timeout(10):
        while not kept:
            await asyncio.sleep(0.01)
"""
LAST = """
async def test_leak_that_only_the_last_collection_finds():
    gc.disable()
    knot = [asyncio.create_task(failing())]
    knot.append(knot)
    await asyncio.sleep(0)
"""


def run(tmp_path: Path, tests: str, processes: list[str]) -> "subprocess.CompletedProcess[str]":
    """Run pytest on these tests with this project's settings and tests/leaks.py."""
    (tmp_path / "test_it.py").write_text(tests)
    words = [
        "-q",
        "-c",
        str(ROOT / "pyproject.toml"),
        "--rootdir",
        str(tmp_path),
        "-p",
        "tests.leaks",
        "-p",
        "no:cacheprovider",
    ]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *words, *processes, tmp_path / "test_it.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("processes", [[], ["-n", "1"]], ids=["one-process", "a-process-for-the-tests"])
def test_each_leak_fails_the_test_that_leaks_and_no_other(tmp_path: Path, processes: list[str]) -> None:
    """The report has each leak, by the test that leaked."""
    tests = [f"async def test_{name}():\n    {line}\n" for name, (line, _) in LEAKS.items()]
    done = run(tmp_path, "\n".join([HEAD, *tests, "async def test_clean_too(): pass\n"]), processes)
    assert done.returncode == 1, done.stdout
    failed = set(re.findall(r"^(?:ERROR|FAILED) \S*::test_(\w+)", done.stdout, re.MULTILINE))
    assert failed == set(LEAKS), done.stdout
    for name, (_, pattern) in LEAKS.items():
        assert re.search(pattern, done.stdout), (name, done.stdout)


@pytest.mark.parametrize("processes", [[], ["-n", "1"]], ids=["one-process", "a-process-for-the-tests"])
def test_a_leak_that_only_the_last_collection_finds_fails_the_run(tmp_path: Path, processes: list[str]) -> None:
    """No single test fails."""
    done = run(tmp_path, HEAD + LAST, processes)
    assert done.returncode == 1, done.stdout
    assert "1 failed" not in done.stdout
    assert re.search(r"Unhandled errors:\s(.*\s)*?.*coro=<failing\(\)", done.stdout), done.stdout


def test_a_connection_of_the_modules_server_is_not_a_leak_of_another_test(tmp_path: Path) -> None:
    """A test that does not request the server shares its loop nevertheless."""
    done = run(tmp_path, SHARED, [])
    assert done.returncode == 0, done.stdout


def test_a_connection_that_the_modules_server_leaves_open_is_a_leak_of_the_module(tmp_path: Path) -> None:
    done = run(tmp_path, SHARED.replace("        each.close()", "        pass"), [])
    assert done.returncode == 1, done.stdout
    assert re.search(LEAKS["a_socket"][1], done.stdout), done.stdout


def test_leaks_are_also_found_in_modules_whose_tests_share_a_loop(tmp_path: Path) -> None:
    leak = "async def test_before():\n    kept.append(socket.socket())"
    done = run(tmp_path, SHARED.replace("async def test_before():\n    socket.socket().close()", leak), [])
    assert re.findall(r"^ERROR \S*::test_(\w+)", done.stdout, re.MULTILINE) == ["before"], done.stdout


def test_a_leaked_connection_is_reported_with_its_ports(tmp_path: Path) -> None:
    """They tell whose connection it is."""
    leak = "kept.append(listener := socket.create_server(('127.0.0.1', 0)))"
    leak += "; kept.append(socket.create_connection(listener.getsockname()))"
    done = run(tmp_path, f"{HEAD}\nasync def test_leak():\n    {leak}\n", [])
    assert re.search(r"socket:\[\d+\] \(TCP, from port \d+ to port \d+\)", done.stdout), done.stdout
