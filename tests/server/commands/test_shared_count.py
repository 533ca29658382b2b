"""A count that one process changes and the processes that it spawned read."""

import subprocess
import sys
from multiprocessing.synchronize import Event
from pathlib import Path

from playhead.server.commands.shared_count import SharedCount

ROOT = Path(__file__).parents[3]
PATIENCE_S = 60
PARENT = """
import multiprocessing
from playhead.server.commands.shared_count import SharedCount
from tests.server.commands.test_shared_count import leave

context = multiprocessing.get_context("spawn")
count, changed = SharedCount(), context.Event()
count.add()
process = context.Process(target=leave, args=(count, changed))
process.start()
count.add(2)
changed.set()
process.join()
print(process.exitcode, count())
"""


def leave(count: SharedCount, changed: Event) -> None:
    """Exit with the count as the status, once the parent process has changed it."""
    changed.wait(PATIENCE_S)
    sys.exit(count())


def test_a_spawned_process_reads_what_its_parent_counts_later() -> None:
    """uvicorn spawns its workers. In a process of its own, because the shared memory stays open until that ends."""
    done = subprocess.run(
        [sys.executable, "-c", PARENT], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.stdout.split() == ["3", "3"], done.stderr
