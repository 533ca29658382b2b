"""Which tests coverage measures; without `coverage run` this plugin does nothing.

CPython 3.11 executes all Python code about half as fast while it is traced. So tests that repeat covered code are not
measured: load, long properties, the same tests on a second store, and whatever drives a service as its clients do. The
programs that they start are not measured either.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from coverage import Coverage

TESTS = Path(__file__).parent
UNMEASURED = (
    *("bench", "browser", "client", "examples", "faults", "fuzz", "property", "soak", "stories"),
    *("security/test_abuse_frames.py", "security/test_abuse_http.py", "security/test_matrix.py"),
    *("server/features/test_behind_nginx.py", "server/features/test_crash.py", "server/features/test_poison.py"),
    *("server/features/test_rolling_restart.py", "storage/features/test_configurations.py"),
)
"""Folders and files below tests/."""
OTHER_STORES = (
    *("storage/connection", "storage/features", "storage/guarantees"),
    "storage/maintenance/test_store_audit.py",
)
"""Where tests on other stores than the embedded Valkey are measured, too: the code depends on the store there."""
SUBPROCESS = "COVERAGE_PROCESS_CONFIG"
"""The environment variable by which coverage measures a Python program that a test starts."""


def is_measured(item: pytest.Item) -> bool:
    path = item.path.relative_to(TESTS)
    if any(path.is_relative_to(each) for each in UNMEASURED):
        return False
    call = getattr(item, "callspec", None)
    store = "valkey" if call is None else call.params.get("store_server", "valkey")
    return store == "valkey" or any(path.is_relative_to(each) for each in OTHER_STORES)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Stop measuring during a test that is not measured."""
    coverage = Coverage.current()
    if coverage is None or is_measured(item):
        return (yield)
    coverage.stop()
    config = os.environ.pop(SUBPROCESS, None)
    try:
        return (yield)
    finally:
        if config is not None:
            os.environ[SUBPROCESS] = config
        coverage.start()


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish() -> None:
    """Write the data before pytest-xdist ends this worker, for which it allows ten seconds."""
    coverage = Coverage.current()
    if coverage is not None:
        coverage.stop()
        coverage.save()
