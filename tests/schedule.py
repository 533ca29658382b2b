"""The order of test files in `make test`: the longest first, so that none of them is alone at the end of the run.

Most of their time these wait: for a real browser, for stores that restart or fail over, for deadlines that pass in real
time. pytest-xdist gives each worker one file after another in the order in which they are collected
(`--dist loadfile --no-loadscope-reorder`).
"""

from pathlib import Path

import pytest

TESTS = Path(__file__).parent
LONGEST = (
    "faults/test_faults.py",
    "server/features/test_crash.py",
    "storage/features/test_configurations.py",
    "server/limits/test_answer_memory.py",
    "browser/test_sdk_faults.py",
    "browser/test_sdk_plays.py",
    "browser/test_demo.py",
    "server/features/test_silent_store.py",
    "server/features/test_hangup.py",
    "server/commands/test_workers.py",
    "server/features/test_damage.py",
    "server/features/test_sync.py",
    "server/push/test_hub.py",
    "server/features/test_push_on_a_cluster.py",
    "storage/connection/test_cluster.py",
    "storage/features/test_sentinel.py",
    "security/test_abuse_frames.py",
    "security/test_abuse_http.py",
    "client/test_engine.py",
    "server/commands/test_cli.py",
    "property/test_lua_is_python.py",
    "server/features/test_bad_frames.py",
    "server/features/test_poison.py",
    "server/features/test_upgrade.py",
    "storage/maintenance/test_rebuild.py",
    "server/limits/test_admission.py",
    "server/rest/test_record_pages.py",
    "server/security/test_tokens.py",
    "server/security/test_audit.py",
    "storage/maintenance/test_transfer.py",
)
"""Below tests/, by the time that each takes."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Move the longest files to the front; the tests of a file stay in their order."""
    places = {TESTS / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))
