"""The start of the service: what uvicorn is given, and what a start that cannot work says."""

import pickle
import socket
from pathlib import Path
from typing import Any

import pytest

from playhead.server.commands import serve
from playhead.server.commands.errors import CommandError
from playhead.server.settings import Settings
from tests.conftest import StoreServer
from tests.ports import free_port


def restarted() -> None:
    """The embedded store must not die during these tests."""
    pytest.fail("the store was restarted")


def test_every_bound_that_uvicorn_offers_follows_from_the_settings() -> None:
    settings = Settings(
        max_frame_bytes=20_000, keep_alive_s=70, ping_interval_s=7, ping_timeout_s=8, drain_timeout_s=40
    )
    config = serve.uvicorn_config(settings, None)
    assert config.ws_max_size == 20_000
    assert config.timeout_keep_alive == 70
    assert (config.ws_ping_interval, config.ws_ping_timeout) == (7, 8)
    assert config.timeout_graceful_shutdown == 10
    assert (config.access_log, config.server_header) == (False, False), "it would log query strings, and name itself"


def test_the_configuration_can_be_sent_to_a_worker_process() -> None:
    config = serve.uvicorn_config(Settings(), None, int, int)
    copy = pickle.loads(pickle.dumps(config))  # noqa: S301 our own
    assert copy.settings == config.settings


@pytest.mark.parametrize(
    ("proxies", "believed"),
    [
        ("", []),
        ("10.0.0.0/8", ["10.0.0.0/8", "::ffff:10.0.0.0/104"]),
        ("10.1.2.3", ["10.1.2.3/32", "::ffff:10.1.2.3/128"]),
        ("::ffff:10.0.0.0/104", ["10.0.0.0/8", "::ffff:10.0.0.0/104"]),
        ("fd00::/8", ["fd00::/8"]),
    ],
)
def test_a_proxy_is_believed_in_each_notation_of_its_network(proxies: str, believed: list[str]) -> None:
    """A dual-stack socket shows IPv4 as mapped into IPv6."""
    config = serve.uvicorn_config(Settings(trusted_proxies=proxies), None)
    assert config.forwarded_allow_ips == believed
    assert config.proxy_headers is bool(believed)


def test_a_peer_that_takes_no_data_is_given_up_by_the_kernel() -> None:
    """Connections inherit the option from the listener."""
    with serve._listen(Settings(port=0, write_timeout_s=7)) as listener:
        assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 7_000
        with socket.create_connection(listener.getsockname()):
            accepted, _ = listener.accept()
            with accepted:
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 7_000


def test_a_port_in_use_is_a_command_error() -> None:
    with serve._listen(Settings(port=0)) as listener:
        port = listener.getsockname()[1]
        with (
            pytest.raises(CommandError, match=rf"cannot listen on 127\.0\.0\.1:{port} .*--port"),
            serve._listen(Settings(port=port)),
        ):
            pytest.fail("two listeners on one port")


def test_a_key_that_cannot_be_used_is_a_command_error(tmp_path: Path) -> None:
    """Before anything is started."""
    with pytest.raises(CommandError, match="jwt_key_file"):
        serve.serve(Settings(jwt_key_file=tmp_path / "missing.pem", jwt_audience="playhead"))


def test_a_data_directory_that_cannot_be_used_is_a_command_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(CommandError), serve._store(Settings(data_dir=tmp_path / "file"), restarted):
        pytest.fail("it started")


def test_the_embedded_store_runs_until_the_context_ends(tmp_path: Path) -> None:
    """Its durability is on disk unless the operator wants less."""
    with serve._store(Settings(data_dir=tmp_path), restarted) as stored:
        assert stored.durability == "fsync"
        assert stored.redis_url is not None
        assert Path(stored.redis_url.removeprefix("unix://")).exists()
    assert not Path(stored.redis_url.removeprefix("unix://")).exists()


def test_a_store_of_the_operators_own_is_left_alone(store_server: StoreServer) -> None:
    settings = Settings(redis_url=store_server.url)
    with serve._store(settings, restarted) as stored:
        assert stored is settings


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("smtp://127.0.0.1", "--redis-url is not valid"),
        ("redis://127.0.0.1:{port}", "the store at --redis-url cannot be used"),
    ],
)
async def test_a_store_that_cannot_be_used_is_a_command_error(url: str, said: str) -> None:
    settings: Any = Settings(redis_url=url.format(port=free_port()), store_timeout_s=0.5)
    with pytest.raises(CommandError, match=said):
        await serve._check(settings, external=True)


async def test_a_store_that_can_be_used_is_audited_if_it_is_the_operators_own(
    store_server: StoreServer, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The embedded store needs no audit: the service has configured it."""
    settings = Settings(redis_url=store_server.url, key_prefix=prefix)
    await serve._check(settings, external=True)
    audited = len(caplog.records)
    caplog.clear()
    await serve._check(settings, external=False)
    assert len(caplog.records) <= audited
