"""Fails tests that leave something behind: a task on the loop, an open descriptor, or an unhandled error.

These are checked after each test, when everything that it started should have ended. Warnings are errors by pytest's
own settings.
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
PASSIVE = (__name__, "pytest_asyncio.plugin")
"""Modules whose module-scoped fixtures open no connections: this one, and the one with the loop that tests share."""
LOOP_ITERATIONS = 20
"""Iterations of the loop in which cancelled tasks must end."""


class _UnhandledErrors(logging.Handler):
    """Errors that asyncio only logs: a task destroyed while pending, an exception never retrieved."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(self.format(record))

    def pop_all(self) -> list[str]:
        messages, self.messages = self.messages, []
        return messages


_unhandled = _UnhandledErrors()
logging.getLogger("asyncio").addHandler(_unhandled)


def descriptors() -> Counter[str]:
    """What each open descriptor of this process refers to; empty on systems without /proc."""
    targets: Counter[str] = Counter()
    for name in os.listdir(DESCRIPTORS) if DESCRIPTORS.is_dir() else ():
        try:
            targets[os.readlink(DESCRIPTORS / name)] += 1
        except OSError:  # the descriptor of the listing itself
            continue
    return targets


_known: Counter[str] = Counter()
"""Descriptors of session fixtures, and leaks that have been reported, so that each is reported once."""
_of_module: set[str] = set()
"""Module-scoped fixtures that are set up at the moment, such as a server that checks its store every few seconds."""


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: "pytest.FixtureDef[object]") -> Iterator[None]:
    """Note what session fixtures open: they may first be requested in the middle of a module, and stay open."""
    before = descriptors() if fixturedef.scope == "session" else None
    if fixturedef.scope == "module" and fixturedef.func.__module__ not in PASSIVE:
        _of_module.add(fixturedef.argname)
        fixturedef.addfinalizer(lambda: _of_module.discard(fixturedef.argname))
    try:
        return (yield)
    finally:
        if before is not None:
            _known.update(descriptors() - before)


@pytest.fixture(autouse=True)
def no_descriptor_left() -> Iterator[None]:
    """Compare the descriptors before and after the test. Fixtures of a wider scope have opened theirs before.

    While the module has a server or a client nothing is compared, even for tests that do not request it: on the shared
    loop it opens and closes connections during any test. Instead, the module is compared as a whole.
    """
    before = descriptors()
    yield
    if not _of_module:
        _compare(before)


@pytest.fixture(autouse=True, scope="module")
def no_descriptor_left_by_module() -> Iterator[None]:
    """Compare before and after the module: the connections of a shared server or client belong to no single test."""
    before = descriptors()
    yield
    _compare(before)


def _compare(before: Counter[str]) -> None:
    if descriptors() - before:
        gc.collect()  # objects that only a cycle keeps alive warn by themselves when they are collected
        leaked = descriptors() - before - _known
        _known.update(leaked)
        assert not leaked, f"descriptors are still open: {', '.join(map(_described, sorted(leaked.elements())))}"


def _described(descriptor: str) -> str:
    """The descriptor; for a TCP socket with both ports, which the kernel lists by the socket's number."""
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
def no_unhandled_error() -> Iterator[None]:
    yield
    assert not (messages := _unhandled.pop_all()), "\n".join(messages)


@pytest.fixture
async def no_task_left() -> AsyncIterator[None]:
    """Check that no task is left by a test that is a coroutine; set up before the test's other fixtures."""
    yield
    await _check_tasks()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def no_task_left_by_module() -> AsyncIterator[None]:
    yield
    await _check_tasks()


async def _check_tasks() -> None:
    for _ in range(LOOP_ITERATIONS):
        running = {task for task in asyncio.all_tasks() if not task.done()} - {asyncio.current_task()}
        if not running:
            return
        await asyncio.sleep(0)
    pytest.fail("tasks are still running: " + "; ".join(sorted(map(repr, running))))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Add the check for tasks to coroutines only; for any other test it would make a loop."""
    for item in items:
        if isinstance(item, pytest.Function) and iscoroutinefunction(getattr(item.obj, "hypothesis", item.obj)):
            item.fixturenames.insert(0, "no_task_left_by_module" if _shares_a_loop(item) else "no_task_left")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run for errors that only a garbage collection after the last test finds, in any of its processes."""
    gc.collect()
    messages = _unhandled.pop_all()
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output["unhandled"] = messages
    elif messages := [*messages, *_of_workers]:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        print("\n".join(["", "Unhandled errors:", *messages]))


_of_workers: list[str] = []
"""Unhandled errors of the processes of pytest-xdist."""


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Collect the errors of an xdist process that has ended. One that crashed fails the run anyway."""
    _of_workers.extend(getattr(node, "workeroutput", {}).get("unhandled", ()))
