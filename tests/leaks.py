"""What no test may leave behind: a task on its loop, a descriptor of the process, an error that nobody took.

Checked after each test, when all that it started should have ended. Warnings are errors by pytest's own settings.
"""

import asyncio
import gc
import logging
import os
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

DESCRIPTORS = Path("/proc/self/fd")
WATCHERS = (__name__, "pytest_asyncio.plugin")
"""Where fixtures of a module come from that serve nobody: ours, and the loop that its tests share."""
TURNS = 20
"""Of the loop, for a task that was told to end to do so."""


class _Untaken(logging.Handler):
    """What asyncio can tell nobody but its logger: a task destroyed while pending, an exception never retrieved."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.told: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.told.append(self.format(record))

    def taken(self) -> list[str]:
        told, self.told = self.told, []
        return told


_untaken = _Untaken()
logging.getLogger("asyncio").addHandler(_untaken)


def descriptors() -> Counter[str]:
    """What the open descriptors of this process are; none where the system does not say so."""
    found: Counter[str] = Counter()
    for name in os.listdir(DESCRIPTORS) if DESCRIPTORS.is_dir() else ():
        try:
            found[os.readlink(DESCRIPTORS / name)] += 1
        except OSError:  # the one of the listing
            continue
    return found


_known: Counter[str] = Counter()
"""Of fixtures of the whole run, and leaks that were told: each once."""
_of_module: set[str] = set()
"""Fixtures of a module that are set up just now, such as a server that looks at its store every few seconds."""


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: "pytest.FixtureDef[object]") -> Iterator[None]:
    """What a fixture of the whole run opens may be first asked for in the middle of a module, and stays."""
    before = descriptors() if fixturedef.scope == "session" else None
    if fixturedef.scope == "module" and fixturedef.func.__module__ not in WATCHERS:
        _of_module.add(fixturedef.argname)
        fixturedef.addfinalizer(lambda: _of_module.discard(fixturedef.argname))
    try:
        return (yield)
    finally:
        if before is not None:
            _known.update(descriptors() - before)


@pytest.fixture(autouse=True)
def no_descriptor_left() -> Iterator[None]:
    """Those that a fixture of a wider scope opens are there before, for it is set up first.

    Not while the module has a server or a client, whether this test asks for it or not: on the loop that they share it
    opens and closes connections during any test. Then the module is compared as a whole.
    """
    before = descriptors()
    yield
    if not _of_module:
        _compare(before)


@pytest.fixture(autouse=True, scope="module")
def no_descriptor_left_by_module() -> Iterator[None]:
    """Where tests share a server, or a client, its connections come and go with none of them."""
    before = descriptors()
    yield
    _compare(before)


def _compare(before: Counter[str]) -> None:
    if descriptors() - before:
        gc.collect()  # what only a cycle holds warns by itself when it goes
        left = descriptors() - before - _known
        _known.update(left)
        assert not left, f"descriptors that are left open: {', '.join(map(_named, sorted(left.elements())))}"


def _named(descriptor: str) -> str:
    """With the two ends of a TCP socket, which the kernel lists by its number."""
    number = descriptor.removeprefix("socket:[").removesuffix("]")
    for table in (Path("/proc/self/net/tcp"), Path("/proc/self/net/tcp6")):
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            words = line.split()
            if words[9] == number:
                ports = [int(end.rpartition(":")[2], 16) for end in words[1:3]]
                return f"{descriptor} (TCP, from port {ports[0]} to port {ports[1]})"
    return descriptor


def _shares_a_loop(item: pytest.Item) -> bool:
    marker = item.get_closest_marker("asyncio")
    return marker is not None and marker.kwargs.get("loop_scope") == "module"


@pytest.fixture(autouse=True)
def no_error_untaken() -> Iterator[None]:
    yield
    assert not (told := _untaken.taken()), "\n".join(told)


@pytest.fixture
async def no_task_left() -> AsyncIterator[None]:
    """Of every test that is a coroutine, and set up before all else of it."""
    yield
    await _ended()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def no_task_left_by_module() -> AsyncIterator[None]:
    yield
    await _ended()


async def _ended() -> None:
    for _ in range(TURNS):
        left = {task for task in asyncio.all_tasks() if not task.done()} - {asyncio.current_task()}
        if not left:
            return
        await asyncio.sleep(0)
    pytest.fail("tasks that are left: " + "; ".join(sorted(map(repr, left))))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Not of the others: they would each make a loop for it."""
    for item in items:
        if isinstance(item, pytest.Function) and iscoroutinefunction(getattr(item.obj, "hypothesis", item.obj)):
            item.fixturenames.insert(0, "no_task_left_by_module" if _shares_a_loop(item) else "no_task_left")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """What only the search for cycles finds after the last test; of a run in several processes, what each has found."""
    gc.collect()
    told = _untaken.taken()
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output["untaken"] = told
    elif told := [*told, *_elsewhere]:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        print("\n".join(["", "Nobody took:", *told]))


_elsewhere: list[str] = []


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """xdist's, of a process that has ended; one that crashed has no output, and fails by itself."""
    _elsewhere.extend(getattr(node, "workeroutput", {}).get("untaken", ()))
