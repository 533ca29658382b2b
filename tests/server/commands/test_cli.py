"""`playhead serve` as an operator sees it: what it prints and when, and how it ends."""

import asyncio
import os
import signal
import socket
from pathlib import Path

import pytest

from tests.conftest import StoreServer
from tests.device import device
from tests.ports import free_port
from tests.rest import ok, rest
from tests.security.issuer import key_file
from tests.server.program import READY, descendants, gone, launched, refused, serve

USER, VIDEO = "7d1a0e7c-0b1f-4b7e-9f6e-3f0a52a4b001", "7d1a0e7c-0b1f-4b7e-9f6e-3f0a52a4b002"


async def test_the_ready_line_is_printed_when_requests_are_answered(tmp_path: Path) -> None:
    """`Playhead is ready on http://HOST:PORT` begins the only line on stdout, and /readyz then answers 200."""
    port = free_port()
    async with serve(port, "--data-dir", str(tmp_path / "data")) as program:
        assert program.line.startswith(f"Playhead is ready on http://127.0.0.1:{port}")
        async with rest(program.running) as http:
            assert ok(await http.get("/readyz"))["status"] == "ready"
            assert (await http.get("/")).status_code == 200
        assert await program.stop() == 0
        assert program.process.stdout is not None
        assert await program.process.stdout.read() == b""


async def test_no_ready_line_is_printed_before_the_store_is_ready(tmp_path: Path) -> None:
    """If the store cannot be reached, the program ends with the reason."""
    code, out, _ = await refused("--port", str(free_port()), "--redis-url", f"unix://{tmp_path}/no.sock")
    assert (code, out) == (2, "")


async def test_the_ipv6_loopback_address_is_served(tmp_path: Path) -> None:
    """`--host ::1` is loopback, and its address is printed as a URL needs it."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6: NOTHING WAS SERVED ON ::1")
    port = free_port()
    async with serve(port, "--host", "::1", "--data-dir", str(tmp_path)) as program:
        assert program.line.startswith(f"Playhead is ready on http://[::1]:{port}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
async def test_a_signal_ends_it_cleanly_and_acked_reports_survive(tmp_path: Path, number: int) -> None:
    """Both signals end it with code 0, also with an open connection, and leave no process; the data survive."""
    options = ("--data-dir", str(tmp_path / "data"), "--flush-interval-s", "0.05")
    port = free_port()
    async with serve(port, *options) as program:
        assert program.process.pid
        below = descendants(program.process.pid)
        assert below, "the embedded store should be a child"
        async with device(program.running, USER) as player:
            await player.play(VIDEO, 0, 30, span=30_000)
            assert await program.stop(number) == 0
        await gone(below)
    async with serve(port, *options) as program, rest(program.running) as http:
        record = ok(await http.get(f"/progress/{USER}/{VIDEO}?detail=full"))
        assert (record["seen"], record["position"]) == ([[0, 30]], 30)


async def test_reports_that_were_not_flushed_are_stored_at_shutdown(tmp_path: Path) -> None:
    """A clean shutdown flushes reports that are still waiting for their ack."""
    data = ("--data-dir", str(tmp_path / "data"))
    port = free_port()
    async with serve(port, *data, "--flush-interval-s", "60") as program, device(program.running, USER) as player:
        await player.beat(VIDEO, played=[[0, 30]], position=30)
        await player.send(type="ping")
        await player.until("pong")
        assert await program.stop() == 0
    async with serve(port, *data) as program, rest(program.running) as http:
        assert ok(await http.get(f"/progress/{USER}/{VIDEO}?detail=full"))["seen"] == [[0, 30]]


async def test_settings_come_from_the_environment_and_options_take_precedence(
    tmp_path: Path, store_server: StoreServer
) -> None:
    """A variable is PLAYHEAD_ and the name of the setting; an option on the command line wins."""
    port = free_port()
    async with serve(
        port,
        "--flush-interval-s",
        "0.25",
        PLAYHEAD_PORT="1",
        PLAYHEAD_REDIS_URL=store_server.url,
        PLAYHEAD_KEY_PREFIX=f"cli{os.getpid()}",
        PLAYHEAD_DATA_DIR=str(tmp_path / "unused"),
        PLAYHEAD_FLUSH_INTERVAL_S="9",
        PLAYHEAD_HEARTBEAT_INTERVAL_S="3.5",
    ) as program:
        async with device(program.running, USER) as player:
            assert player.welcome["heartbeatInterval"] == 3.5
            assert player.welcome["flushInterval"] == 0.25
        assert descendants(program.process.pid) == []
        assert not (tmp_path / "unused").exists()
        assert await program.stop() == 0


SECRET = "a throw-away secret of 32 bytes!"
JWKS = ["--jwt-algorithm", "RS256", "--jwt-jwks-url"]
REFUSED = [
    ("a-host-without-tokens", ["--host", "0.0.0.0"], {}, ["0.0.0.0", "authentication", "jwt_secret", "jwt_jwks_url"]),
    ("a-name-that-is-not-localhost", ["--host", "example.org"], {}, ["example.org", "authentication"]),
    ("a-host-without-origins", ["--host", "0.0.0.0"], {"PLAYHEAD_JWT_SECRET": SECRET}, ["0.0.0.0", "allowed_origins"]),
    ("a-short-secret", [], {"PLAYHEAD_JWT_SECRET": SECRET[:31]}, ["jwt_secret", "32 bytes"]),
    (
        "two-keys",
        ["--jwt-jwks-url", "https://a.example/k"],
        {"PLAYHEAD_JWT_SECRET": SECRET},
        ["jwt_secret", "jwt_jwks_url"],
    ),
    ("a-key-set-of-any-algorithm", ["--jwt-jwks-url", "https://a.example/k"], {}, ["jwt_algorithm", "RS256"]),
    ("a-key-set-in-the-clear", [*JWKS, "http://a.example/k"], {}, ["jwt_jwks_url", "https"]),
    ("a-key-set-in-a-file", [*JWKS, "file:///etc/passwd"], {}, ["jwt_jwks_url", "https"]),
    ("a-key-set-for-anything-that-it-signs", [*JWKS, "https://a.example/k"], {}, ["jwt_audience", "jwt_any_audience"]),
    (
        "one-audience-and-any",
        [*JWKS, "https://a.example/k", "--jwt-audience", "playhead"],
        {"PLAYHEAD_JWT_ANY_AUDIENCE": "true"},
        ["jwt_audience", "jwt_any_audience"],
    ),
    ("a-secret-of-one-letter", [], {"PLAYHEAD_JWT_SECRET": "a" * 32}, ["jwt_secret", "openssl"]),
    ("a-key-file-that-is-not-there", ["--jwt-key-file", "nowhere.pem"], {}, ["jwt_key_file", "nowhere.pem", "No such"]),
    ("a-key-file-without-a-key", ["--jwt-key-file", "README.md"], {}, ["jwt_key_file", "README.md", "PEM"]),
    (
        "a-secret-for-a-public-algorithm",
        ["--jwt-algorithm", "RS256"],
        {"PLAYHEAD_JWT_SECRET": SECRET},
        ["jwt_algorithm"],
    ),
    ("an-issuer-without-a-key", ["--jwt-issuer", "https://a.example"], {}, ["jwt_issuer", "jwt_secret"]),
    ("any-origin", ["--allowed-origins", "*"], {}, ["--allowed-origins *:", "no path"]),
    (
        "an-origin-with-a-path",
        ["--allowed-origins", "https://a.example/app"],
        {},
        ["--allowed-origins https://a.example/app:", "no path"],
    ),
    ("any-proxy", ["--trusted-proxies", "*"], {}, ["--trusted-proxies *:"]),
    ("a-port-that-is-none", ["--port", "70000"], {}, ["--port 70000:", "65535"]),
    ("a-port-that-is-no-number", ["--port", "http"], {}, ["--port http:", "integer"]),
    ("no-workers", ["--workers", "0"], {}, ["--workers 0:", "greater"]),
    ("a-flush-interval-of-nothing", ["--flush-interval-s", "0"], {}, ["--flush-interval-s 0:", "0.01"]),
    ("a-durability-that-is-none", ["--durability", "hope"], {}, ["--durability", "hope", "fsync"]),
    ("no-replicas", ["--durability", "replicas:0"], {}, ["--durability", "replicas:N"]),
    (
        "a-durability-in-the-environment",
        [],
        {"PLAYHEAD_DURABILITY": "hope"},
        ["PLAYHEAD_DURABILITY hope:", "replicas:N"],
    ),
    ("replicas-of-the-embedded-store", ["--durability", "replicas:1"], {}, ["replicas:1", "redis_url"]),
    ("an-unknown-option", ["--prot", "1"], {}, ["--prot"]),
    ("a-redis-url-that-is-none", ["--redis-url", "localhost:6379"], {}, ["--redis-url", "redis://"]),
    ("an-option-of-no-store", ["--redis-url", "redis://h?sokket=1"], {}, ["--redis-url", "'sokket'"]),
    (
        "an-option-of-no-sentinel",
        ["--redis-url", "redis+sentinel://h/s?sentinel_timeout=1"],
        {},
        ["--redis-url", "'sentinel_timeout'"],
    ),
    ("a-tls-version-that-is-none", ["--redis-url", "rediss://h?ssl_min_version=1"], {}, ["ssl_min_version", "771"]),
    ("an-authority-that-is-not-there", ["--redis-url", "rediss://h?ssl_ca_certs=x.pem"], {}, ["ssl_ca_certs"]),
    ("a-port-in-a-redis-url-that-is-none", ["--redis-url", "redis://h:65536"], {}, ["--redis-url", "host:port"]),
    ("a-cluster-with-a-database", ["--redis-url", "redis+cluster://h:1/2"], {}, ["--redis-url", "no database other"]),
    ("sentinels-of-nothing", ["--redis-url", "redis+sentinel://h:1"], {}, ["--redis-url", "name the service"]),
    ("a-cluster-that-is-not-there", ["--redis-url", "redis+cluster://127.0.0.1:1"], {}, ["--redis-url", "no node"]),
    ("a-redis-that-is-not-there", ["--redis-url", "redis://127.0.0.1:1/0"], {}, ["--redis-url"]),
    ("a-bad-value-in-the-environment", [], {"PLAYHEAD_MAX_RATE": "fast"}, ["PLAYHEAD_MAX_RATE fast:", "number"]),
    ("an-unknown-setting-in-the-environment", [], {"PLAYHEAD_FLUSH_INTERVAL": "1"}, ["PLAYHEAD_FLUSH_INTERVAL"]),
]


@pytest.mark.parametrize(("options", "env", "said"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
async def test_a_start_that_cannot_work_ends_with_one_sentence(
    tmp_path: Path, options: list[str], env: dict[str, str], said: list[str]
) -> None:
    """Exit code 2, nothing on stdout, the reason on stderr and no traceback."""
    if "--port" not in options:
        options = ["--port", str(free_port()), *options]
    code, out, err = await refused("--data-dir", str(tmp_path / "data"), *options, **env)
    reads_as_one_sentence(code, out, err, said)
    assert not (tmp_path / "data").exists(), "it was refused before anything was created"


def reads_as_one_sentence(code: int, out: str, err: str, said: list[str]) -> None:
    """The last line is the reason; argparse prints its usage before it."""
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    *usage, sentence = err.strip().splitlines()
    assert sentence.startswith("playhead"), err
    assert all(line.startswith(("usage:", " ")) for line in usage), err
    assert [word for word in said if word not in sentence] == [], err


async def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    """Whatever program listens there."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        code, out, err = await refused("--port", port, "--data-dir", str(tmp_path / "data"))
    reads_as_one_sentence(code, out, err, [port, "--port"])


async def test_a_data_directory_in_use_is_refused_and_its_owner_unharmed(tmp_path: Path) -> None:
    """A directory has one owner; the second one's error names the first."""
    data = ("--data-dir", str(tmp_path))
    async with serve(free_port(), *data) as owner:
        code, out, err = await refused("--port", str(free_port()), *data)
        reads_as_one_sentence(code, out, err, [str(tmp_path), str(owner.process.pid)])
        async with rest(owner.running) as http:
            ok(await http.get("/readyz"))


async def test_a_data_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """There is a file in its place, which also stops root, who may write anywhere."""
    (tmp_path / "data").write_text("not a directory")
    code, out, err = await refused("--port", str(free_port()), "--data-dir", str(tmp_path / "data"))
    reads_as_one_sentence(code, out, err, [str(tmp_path / "data")])


async def test_a_world_writable_key_file_is_refused(tmp_path: Path) -> None:
    """Anyone who can write to the file can make tokens for every user."""
    path = key_file(tmp_path, "ES256")
    path.chmod(0o666)
    code, out, err = await refused("--port", str(free_port()), "--jwt-key-file", str(path))
    reads_as_one_sentence(code, out, err, ["jwt_key_file", str(path), "chmod o-w"])


async def test_files_are_created_for_its_user_only(tmp_path: Path) -> None:
    """It holds for the program, its workers and the store, whatever the umask at startup."""
    before = os.umask(0)
    try:
        async with serve(free_port(), "--data-dir", str(tmp_path / "data"), "--workers", "2") as program:
            pids = [program.process.pid, *descendants(program.process.pid)]
            assert len(pids) >= 4
            assert {umask_of(pid) for pid in pids} == {"0077"}
    finally:
        os.umask(before)


def umask_of(pid: int) -> str:
    return Path(f"/proc/{pid}/status").read_text().partition("Umask:")[2].split()[0]


async def test_a_signal_during_startup_ends_it_without_a_trace(tmp_path: Path) -> None:
    """Ctrl-C before it is ready leaves no traceback and no process, and the directory is free again."""
    data = ("--data-dir", str(tmp_path / "data"))
    for _ in range(3):
        async with launched("--port", str(free_port()), *data) as process:
            async with asyncio.timeout(30):
                while not descendants(process.pid):
                    assert process.returncode is None
                    await asyncio.sleep(0.005)
                below = descendants(process.pid)
                process.send_signal(signal.SIGINT)
                _, err = await process.communicate()
            assert process.returncode == 0, err
            assert b"Traceback" not in err
            await gone(below)
    async with serve(free_port(), *data) as program:
        assert READY.fullmatch(program.line)
