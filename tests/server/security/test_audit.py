"""The audit log has one line for each action on others' data: who, what, whose, and with which outcome."""

import json
import logging
import os
import re
import shlex
import signal
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from playhead.server.commands import logs
from playhead.server.commands.logs import OneLine
from playhead.server.security.audit import audited
from playhead.storage.embedded.valkey import EmbeddedValkey
from playhead.storage.store import StoreUnavailable
from tests.conftest import StoreServer
from tests.ports import free_port
from tests.rest import rest
from tests.security.callers import OTHER, USER, VIDEO, bearer, guarded
from tests.security.issuer import SECRET, token
from tests.server.commands.test_maintenance import Operator
from tests.server.program import serve
from tests.serving import serving

pytestmark = pytest.mark.parametrize("store_server", ["valkey"], indirect=True)
"""Independent of the store."""

Lines = Callable[[], list[dict[str, str]]]
SERVICE = "backend of the academy"


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Lines:
    """The lines since the last call, parsed as a shell would."""
    caplog.set_level(logging.INFO, "playhead.audit")

    def since() -> list[dict[str, str]]:
        found = [record.getMessage() for record in caplog.records if record.name == "playhead.audit"]
        caplog.clear()
        return [dict(pair.split("=", 1) for pair in shlex.split(line)) for line in found]

    return since


async def test_actions_of_a_service_are_logged(store_server: StoreServer, prefix: str, lines: Lines) -> None:
    service = bearer(token(SERVICE, scope="progress:any"))
    played = {"userId": USER, "videoId": VIDEO, "watchedDuration": 5, "lastWatched": "2025-01-01T00:00:00Z"}
    async with guarded(store_server, prefix) as server, rest(server) as api:
        api.headers.update(service)
        assert (await api.post("/progress/update", json=played)).status_code == 200
        assert lines() == [], "reports of a backend are not audited"
        for status, outcome in ((200, "deleted"), (404, "not_found")):
            assert (await api.delete(f"/progress/{USER}/{VIDEO}")).status_code == status
            event = {"event": "progress.delete", "actor": SERVICE, "user": USER, "video": VIDEO, "outcome": outcome}
            assert lines() == [event]
        assert (await api.delete(f"/sessions/{USER}")).status_code == 200
        assert lines() == [{"event": "sessions.end", "actor": SERVICE, "user": USER, "outcome": "ended"}]
        for title, outcome in (("One", "created"), ("One", "unchanged"), ("Two", "changed")):
            assert (await api.put(f"/videos/{VIDEO}", json={"title": title, "duration": 90})).status_code == 200
            assert lines() == [{"event": "catalogue.put", "actor": SERVICE, "video": VIDEO, "outcome": outcome}]


async def test_actions_on_own_data_and_refusals_are_not_logged(
    store_server: StoreServer, prefix: str, lines: Lines
) -> None:
    """Otherwise anybody could fill the log."""
    async with guarded(store_server, prefix) as server, rest(server) as api:
        api.headers.update(bearer(token(USER)))
        await api.delete(f"/progress/{USER}/{VIDEO}")
        for path in (f"/progress/{OTHER}/{VIDEO}", f"/sessions/{OTHER}", f"/sessions/{USER}"):
            assert (await api.delete(path)).status_code == 403
        assert (await api.put(f"/videos/{VIDEO}", json={"title": "x", "duration": 90})).status_code == 403
        del api.headers["Authorization"]
        assert (await api.delete(f"/sessions/{USER}")).status_code == 401
        assert lines() == []


async def test_without_tokens_the_actor_is_anybody(store_server: StoreServer, prefix: str, lines: Lines) -> None:
    async with serving(redis_url=store_server.url, key_prefix=prefix) as server, rest(server) as api:
        await api.delete(f"/sessions/{USER}")
        assert lines() == [{"event": "sessions.end", "actor": "anybody", "user": USER, "outcome": "ended"}]


async def test_an_action_that_the_store_did_not_accept_is_logged_as_unavailable(
    store_server: StoreServer, tmp_path: Path, lines: Lines
) -> None:
    with EmbeddedValkey(tmp_path, fsync=False) as valkey:
        async with serving(redis_url=valkey.url, store_timeout_s=0.2) as server, rest(server) as api:
            os.kill(valkey.pid, signal.SIGSTOP)
            try:
                assert (await api.delete(f"/sessions/{USER}")).status_code == 503
            finally:
                os.kill(valkey.pid, signal.SIGCONT)
    assert lines() == [{"event": "sessions.end", "actor": "anybody", "user": USER, "outcome": "unavailable"}]


FORGED = [
    "me outcome=deleted",
    'me" outcome="deleted',
    "me\n2026-01-01 00:00:00,000 INFO playhead.audit: event=forged",
    "me\r\x1b[2J\u2028",
    "\\",
    "Zoë",
    "x" * 200,
]


@pytest.mark.parametrize("subject", FORGED)
async def test_a_subject_cannot_imitate_other_keys(
    store_server: StoreServer, prefix: str, lines: Lines, subject: str
) -> None:
    """It is one value on one line, whatever it contains."""
    async with guarded(store_server, prefix) as server, rest(server) as api:
        service = bearer(token(subject, scope="progress:any"))
        assert (await api.delete(f"/sessions/{USER}", headers=service)).status_code == 200
    (line,) = lines()
    assert set(line) == {"event", "actor", "user", "outcome"}
    assert line["outcome"] == "ended"


def test_a_value_can_be_read_back(store_server: StoreServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "playhead.audit")
    for subject in FORGED:
        caplog.clear()
        with audited("act", subject):
            pass
        line = OneLine().format(caplog.records[0])
        assert line.count("\n") == 0
        actor = re.search(r'actor=("(?:[^"\\]|\\.)*"|\S*) outcome=done$', line)
        assert actor is not None
        said = actor.group(1)
        assert (json.loads(said) if said.startswith('"') else said) == subject


@pytest.mark.parametrize(("error", "outcome"), [(StoreUnavailable("x"), "unavailable"), (KeyError("secret"), "failed")])
def test_an_action_that_fails_is_logged_and_fails(
    store_server: StoreServer, caplog: pytest.LogCaptureFixture, error: Exception, outcome: str
) -> None:
    caplog.set_level(logging.INFO, "playhead.audit")
    with pytest.raises(type(error)), audited("act", "me"):
        raise error
    assert caplog.messages == [f"event=act actor=me outcome={outcome}"]


@pytest.mark.parametrize("level", ["debug", "error"])
async def test_the_lines_are_in_the_log_at_any_level(store_server: StoreServer, tmp_path: Path, level: str) -> None:
    options = ("--data-dir", str(tmp_path / "data"), "--log-level", level)
    made = token("operator", scope="progress:any", iss=None, aud=None)
    async with serve(free_port(), *options, PLAYHEAD_JWT_SECRET=SECRET) as program, rest(program.running) as api:
        assert (await api.delete(f"/sessions/{USER}", headers=bearer(made))).status_code == 200
        await program.logged(f"INFO playhead.audit: event=sessions.end actor=operator user={USER} outcome=ended\n")
        assert program.log is not None
        assert made not in program.log.text
    assert logs.config(level)["loggers"]["playhead.audit"] == {"level": "INFO"}


async def test_commands_that_change_a_store_are_logged(store_server: StoreServer, tmp_path: Path) -> None:
    """The actor is the user who runs them on this machine."""
    operator = Operator(REDIS_URL=store_server.url, KEY_PREFIX=f"t{uuid4().hex}")
    backup = tmp_path / "backup"
    actor = f"actor=uid:{os.getuid()}"
    code, _, err = await operator.run("export", backup)
    assert (code, "playhead.audit" in err) == (0, False)
    code, _, err = await operator.run("import", backup)
    assert (code, err.count("playhead.audit")) == (0, 1)
    assert f"INFO playhead.audit: event=import {actor} file={backup} outcome=done\n" in err
    with backup.open("r+b") as file:
        file.truncate(backup.read_bytes().index(b"\n") + 1)
    code, _, err = await operator.run("import", backup)
    assert code == 1
    assert f"event=import {actor} file={backup} outcome=incomplete\n" in err
    code, _, err = await operator.run("rebuild")
    assert (code, err.count("playhead.audit")) == (0, 1)
    assert f"event=rebuild {actor} outcome=done\n" in err
    assert "playhead.audit" not in (await operator.run("rebuild", "--check"))[2]
