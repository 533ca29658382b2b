"""What is told of a store's weaknesses at the start: each once, none that it has not, and never its password."""

import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from playhead.storage.maintenance.store_audit import concerns
from tests.inside import parts_of
from tests.ports import free_port
from tests.storage.authority import Authority, tls
from tests.storage.own_store import PASSWORD, opened, running

WIRE, CERTIFICATE = "is not encrypted", "certificate is not fully checked"
OPEN, NOTHING_KEPT, SNAPSHOTS = "lets in whoever reaches it", "keeps nothing on disk", "no append-only file"
LOOKS_ONLY = "default on nopass resetchannels ~* -@all +get +ping +info +config|get"
"""For stores that are open for a moment: nobody who finds them can do harm."""
SECRET = ("--requirepass", PASSWORD)
AOF = ("--appendonly", "yes")
FULL = ("--maxmemory", "100mb", "--maxmemory-policy")
ANYWHERE = ("--bind", "0.0.0.0", "--protected-mode", "no")


@dataclass(frozen=True)
class Row:
    """A store, how it is reached, and what is told of it."""

    name: str
    url: str
    options: tuple[str, ...] = AOF
    told: list[str] = field(default_factory=list)
    user: str = LOOKS_ONLY


TCP, LAN = "redis://{secret}127.0.0.1:{port}", "redis://{secret}{lan}:{port}"
UNIX = "unix://{secret}{dir}/s"
TLS, TLS_LAN = "rediss://{secret}127.0.0.1:{port}?ssl_ca_certs={ca}", "rediss://{secret}{lan}:{port}?ssl_ca_certs={ca}"
ROWS = [
    Row("all-well", UNIX),
    Row("nothing-kept", UNIX, ("--save", ""), [NOTHING_KEPT]),
    Row("snapshots", UNIX, ("--save", "60", "1"), [SNAPSHOTS]),
    Row("evicts-anything", UNIX, (*AOF, *FULL, "allkeys-lru"), ["allkeys-lru: when it is full it drops all that"]),
    Row("evicts-what-expires", UNIX, (*AOF, *FULL, "volatile-ttl"), ["volatile-ttl: .* no record has one"]),
    Row("evicts-nothing", UNIX, (*AOF, *FULL, "noeviction")),
    Row("is-never-full", UNIX, (*AOF, "--maxmemory-policy", "allkeys-lru")),
    Row("several", UNIX, ("--save", "", *FULL, "allkeys-lfu"), [NOTHING_KEPT, "allkeys-lfu"]),
    Row("loopback-only", TCP, (*AOF, "--bind", "127.0.0.1", "--protected-mode", "no")),
    Row("seen-from-loopback-and-open", TCP, (*AOF, *ANYWHERE), [OPEN]),
    Row("seen-from-a-socket-and-open", UNIX, (*AOF, *ANYWHERE, "--port", "{port}"), [OPEN]),
    Row("protected-mode", TCP, (*AOF, "--bind", "0.0.0.0", "--protected-mode", "yes")),
    Row("a-password", TCP, (*AOF, *ANYWHERE, *SECRET), user=""),
    Row("open-and-in-the-clear", LAN, (*AOF, *ANYWHERE), [WIRE, OPEN]),
    Row("in-the-clear", LAN, (*AOF, *ANYWHERE, *SECRET), [WIRE], user=""),
    Row(
        "not-shown",
        UNIX,
        (),
        ["could not be checked .* on disk and .* evicts"],
        "default on nopass ~* -@all +get +ping",
    ),
    Row(
        "where-it-listens-is-not-shown",
        TCP,
        (*AOF, *ANYWHERE),
        ["could not be checked who else can reach it"],
        "default on nopass ~* -@all +get +ping +info",
    ),
    Row("strangers-may-not-read", TCP, (*AOF, *ANYWHERE), user="default on nopass ~mine:* -@all +get +ping +info"),
    Row("tls-and-a-password", TLS_LAN, (*AOF, *ANYWHERE, *SECRET), user=""),
    Row("tls-and-open", TLS_LAN, (*AOF, *ANYWHERE), [OPEN]),
    Row("tls-and-open-seen-from-loopback", TLS, (*AOF, *ANYWHERE), [OPEN]),
    Row("tls-unchecked", TLS_LAN + "&ssl_cert_reqs=none", (*AOF, *ANYWHERE, *SECRET), [CERTIFICATE], user=""),
    Row("tls-for-any-host", TLS + "&ssl_check_hostname=no", AOF, [CERTIFICATE]),
    Row(
        "tls-for-those-with-a-certificate",
        TLS_LAN + "&ssl_certfile={dir}/client.crt&ssl_keyfile={dir}/client.key",
        (*AOF, *ANYWHERE, "--tls-auth-clients", "yes"),
    ),
]


def cases() -> Iterator[Any]:
    for row in ROWS:
        for kind in ("redis7",) if row.url.startswith("rediss") else ("redis7", "valkey"):
            yield pytest.param(kind, row, id=f"{kind}-{row.name}")


def address_of_this_machine() -> str:
    """Not a loopback one; asked of the kernel, nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but loopback: NO STORE BEYOND IT WAS LOOKED AT")
        return str(probe.getsockname()[0])


@pytest.mark.parametrize(("kind", "row"), list(cases()))
async def test_what_is_told_of_a_store(tmp_path: Path, kind: str, row: Row) -> None:
    """Each weakness once, in the order of the table, and nothing where there is none; never the password."""
    authority, port = Authority(tmp_path, "authority"), str(free_port())
    lan = address_of_this_machine() if "{lan}" in row.url else "127.0.0.1"
    authority.issue("client")
    secret = f":{quote(PASSWORD, safe='')}@" if SECRET[0] in row.options else ""
    url = row.url.format(secret=secret, port=port, lan=lan, dir=tmp_path, ca=authority.path)
    options: list[str | Path] = ["--unixsocket", tmp_path / "s", "--save", ""]
    if url.startswith("rediss"):
        options += tls(authority, int(port), "127.0.0.1", lan)
    elif url.startswith("redis:"):
        options += ["--port", port]
    options += ["--user", *row.user.split()] if row.user else []
    options += [option.format(port=port) for option in row.options]
    with running(kind, tmp_path, url, *options):
        async with opened(url) as store:
            told = await concerns(parts_of(store).link)
    assert PASSWORD not in "".join(told)
    assert len(told) == len(row.told), told
    for sentence, expected in zip(told, row.told, strict=True):
        assert re.search(expected, sentence)
        assert sentence.endswith(".")


async def test_a_store_that_has_gone_raises_nothing(tmp_path: Path) -> None:
    """What it is asked at the start is no reason not to start: it could not be checked, and that is all."""
    async with opened(f"redis://u:{quote(PASSWORD, safe='')}@127.0.0.1:{free_port()}") as store:
        (told,) = await concerns(parts_of(store).link)
    assert "could not be checked" in told
