"""What all tests share: how long properties are searched, and the real stores that they run against."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest
import redis
from hypothesis import HealthCheck, settings

from playhead.storage.embedded.valkey import EmbeddedValkey
from tests import leaks, measured, schedule
from tests.clustered import clustered
from tests.missing import program

STORES = dict.fromkeys(("property", "storage", "stories"), ("valkey", "redis7"))
"""The folders whose tests run on every store that we support: the embedded Valkey and Debian's Redis 7.

The tests of other folders run on the embedded Valkey, unless they are marked `stores("valkey", "redis7", "cluster")`
with the stores that they need: the server reaches a store only through storage/.
"""
DEFAULT_EXAMPLES = 100
START_TIMEOUT_S = 20

# Neither deadlines nor the health of a slow machine: a test that depends on speed is a coin toss.
settings.register_profile(
    "default", max_examples=DEFAULT_EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("ci", settings.get_profile("default"), print_blob=True)
# tests/fuzz runs round after round of these, each with another seed, as long as its time lasts.
settings.register_profile("fuzz", settings.get_profile("ci"), max_examples=2 * DEFAULT_EXAMPLES)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "default"))


@dataclass(frozen=True, slots=True)
class StoreServer:
    """A real server for the whole run; each test takes a key prefix of its own, or flushes first."""

    name: str
    url: str


def pytest_configure(config: pytest.Config) -> None:
    """As a plugin, for the hooks of a conftest file are not asked about fixtures of the whole run."""
    config.pluginmanager.register(leaks)
    config.pluginmanager.register(measured)
    config.pluginmanager.register(schedule)
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # so in a shell's background, and in all that we start
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize tests by store, and those marked `frame_paths` by the path that WebSocket frames take as well."""
    chosen = any(mark.args[0] == "store_server" for mark in metafunc.definition.iter_markers("parametrize"))
    if "store_server" not in metafunc.fixturenames or chosen:
        return
    folder = metafunc.definition.path.relative_to(Path(__file__).parent).parts[0]
    mark = metafunc.definition.get_closest_marker("stores")
    stores: tuple[str, ...] = mark.args if mark is not None else STORES.get(folder, ("valkey",))
    if "direct" in metafunc.fixturenames and metafunc.definition.get_closest_marker("frame_paths") is not None:
        cases = [*((store, True) for store in stores), ("valkey", False)]
        ids = [*stores, "valkey-asgi"]
        metafunc.parametrize(("store_server", "direct"), cases, indirect=True, ids=ids, scope="session")
    else:
        metafunc.parametrize("store_server", stores, indirect=True, scope="session")


@pytest.fixture(scope="session")
def direct(request: pytest.FixtureRequest) -> bool:
    """Whether frames bypass ASGI, as under our own server; False only in tests marked `frame_paths`."""
    return bool(getattr(request, "param", True))


@pytest.fixture(scope="session")
def store_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreServer]:
    """The store of this test, of those that its module runs on."""
    directory = tmp_path_factory.mktemp(request.param)
    if request.param == "cluster":
        with clustered(directory, "--appendonly", "yes") as cluster:
            yield StoreServer("cluster", cluster.url)
    elif request.param == "valkey":
        with EmbeddedValkey(directory, fsync=False) as valkey:
            yield StoreServer("valkey", valkey.url)
    else:
        yield from _redis7(directory)


def _redis7(directory: Path) -> Iterator[StoreServer]:
    binary, path = program("redis-server"), directory / "redis.sock"
    process = subprocess.Popen(
        [binary, "--port", "0", "--unixsocket", path, "--dir", directory, "--save", "", "--appendonly", "no"],
        stdout=subprocess.DEVNULL,
    )
    try:
        _await_answer(process, f"unix://{path}")
        yield StoreServer("redis7", f"unix://{path}")
    finally:
        process.terminate()
        process.wait(START_TIMEOUT_S)


def _await_answer(process: "subprocess.Popen[bytes]", url: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    with redis.Redis.from_url(url) as client:
        while True:
            try:
                client.ping()
            except redis.ConnectionError:
                assert process.poll() is None, "redis-server ended at once"
                assert time.monotonic() < deadline, "redis-server does not answer"
                time.sleep(0.01)
            else:
                return


@pytest.fixture
def prefix() -> str:
    """A key prefix of this test alone, so that tests share a server and nothing else."""
    return f"t{uuid4().hex}"
