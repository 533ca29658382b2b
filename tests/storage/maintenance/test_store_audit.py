"""The audit of a store at startup: it reports each weakness once, none that does not exist, and never the password."""

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

WIRE, CERTIFICATE = "is not encrypted", "certificate is not fully verified"
OPEN, NOTHING_KEPT, SNAPSHOTS = "accepts connections without a password", "keeps nothing on disk", "no append-only file"
READ_ONLY = "default on nopass resetchannels ~* -@all +get +ping +info +config|get"
"""For stores that are open for a moment, so that others who connect to them can do no harm."""
SECRET = ("--requirepass", PASSWORD)
AOF = ("--appendonly", "yes")
FULL = ("--maxmemory", "100mb", "--maxmemory-policy")
ANYWHERE = ("--bind", "0.0.0.0", "--protected-mode", "no")


@dataclass(frozen=True)
class Row:
    """A store, its URL, and the concerns that the audit reports."""

    name: str
    url: str
    options: tuple[str, ...] = AOF
    concerns: list[str] = field(default_factory=list)
    user: str = READ_ONLY


TCP, LAN = "redis://{secret}127.0.0.1:{port}", "redis://{secret}{lan}:{port}"
UNIX = "unix://{secret}{dir}/s"
TLS, TLS_LAN = "rediss://{secret}127.0.0.1:{port}?ssl_ca_certs={ca}", "rediss://{secret}{lan}:{port}?ssl_ca_certs={ca}"
ROWS = [
    Row("without-concerns", UNIX),
    Row("no-persistence", UNIX, ("--save", ""), [NOTHING_KEPT]),
    Row("snapshots", UNIX, ("--save", "60", "1"), [SNAPSHOTS]),
    Row(
        "evicts-any-key", UNIX, (*AOF, *FULL, "allkeys-lru"), ["allkeys-lru: when it is full, it deletes whole records"]
    ),
    Row("evicts-expiring-keys", UNIX, (*AOF, *FULL, "volatile-ttl"), ["volatile-ttl: .* records do not expire"]),
    Row("no-eviction", UNIX, (*AOF, *FULL, "noeviction")),
    Row("no-memory-limit", UNIX, (*AOF, "--maxmemory-policy", "allkeys-lru")),
    Row("several-concerns", UNIX, ("--save", "", *FULL, "allkeys-lfu"), [NOTHING_KEPT, "allkeys-lfu"]),
    Row("loopback-only", TCP, (*AOF, "--bind", "127.0.0.1", "--protected-mode", "no")),
    Row("open-via-loopback", TCP, (*AOF, *ANYWHERE), [OPEN]),
    Row("open-via-unix-socket", UNIX, (*AOF, *ANYWHERE, "--port", "{port}"), [OPEN]),
    Row("protected-mode", TCP, (*AOF, "--bind", "0.0.0.0", "--protected-mode", "yes")),
    Row("password", TCP, (*AOF, *ANYWHERE, *SECRET), user=""),
    Row("open-and-unencrypted", LAN, (*AOF, *ANYWHERE), [WIRE, OPEN]),
    Row("unencrypted", LAN, (*AOF, *ANYWHERE, *SECRET), [WIRE], user=""),
    Row(
        "settings-not-shown",
        UNIX,
        (),
        ["could not be checked .* on disk and .* evicts"],
        "default on nopass ~* -@all +get +ping",
    ),
    Row(
        "bind-address-not-shown",
        TCP,
        (*AOF, *ANYWHERE),
        ["could not be checked who else can reach it"],
        "default on nopass ~* -@all +get +ping +info",
    ),
    Row("default-user-without-access", TCP, (*AOF, *ANYWHERE), user="default on nopass ~mine:* -@all +get +ping +info"),
    Row("tls-and-password", TLS_LAN, (*AOF, *ANYWHERE, *SECRET), user=""),
    Row("tls-and-open", TLS_LAN, (*AOF, *ANYWHERE), [OPEN]),
    Row("tls-and-open-via-loopback", TLS, (*AOF, *ANYWHERE), [OPEN]),
    Row(
        "tls-without-verification", TLS_LAN + "&ssl_cert_reqs=none", (*AOF, *ANYWHERE, *SECRET), [CERTIFICATE], user=""
    ),
    Row("tls-for-any-host", TLS + "&ssl_check_hostname=no", AOF, [CERTIFICATE]),
    Row(
        "tls-with-client-certificates",
        TLS_LAN + "&ssl_certfile={dir}/client.crt&ssl_keyfile={dir}/client.key",
        (*AOF, *ANYWHERE, "--tls-auth-clients", "yes"),
    ),
]


def cases() -> Iterator[Any]:
    for row in ROWS:
        for kind in ("redis7",) if row.url.startswith("rediss") else ("redis7", "valkey"):
            yield pytest.param(kind, row, id=f"{kind}-{row.name}")


def address_of_this_machine() -> str:
    """An address that is not loopback, as the kernel chooses it; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but loopback: NO STORE BEYOND IT WAS LOOKED AT")
        return str(probe.getsockname()[0])


@pytest.mark.parametrize(("kind", "row"), list(cases()))
async def test_the_audit_reports_each_concern(tmp_path: Path, kind: str, row: Row) -> None:
    """The audit reports each concern once, in the order of the table, and never the password."""
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
            found = await concerns(parts_of(store).link)
    assert PASSWORD not in "".join(found)
    assert len(found) == len(row.concerns), found
    for sentence, expected in zip(found, row.concerns, strict=True):
        assert re.search(expected, sentence)
        assert sentence.endswith(".")


async def test_a_store_that_is_down_raises_nothing(tmp_path: Path) -> None:
    """The audit must not prevent a start: it only reports that the store could not be checked."""
    async with opened(f"redis://u:{quote(PASSWORD, safe='')}@127.0.0.1:{free_port()}") as store:
        (concern,) = await concerns(parts_of(store).link)
    assert "could not be checked" in concern
