"""`playhead rebuild`, `export` and `import` as processes: beside a service under load, killed, and run again."""

import asyncio
import contextlib
import json
import re
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import ANY
from uuid import UUID, uuid4

import pytest

from playhead.protocol.record import Report
from playhead.server.clock import StoreClock, system_clock
from playhead.storage.store import Store, open_store
from playhead.storage.values.packing import unpack_record
from playhead.storage.write.pending import Batch, Delta
from tests.conftest import StoreServer
from tests.device import device
from tests.histories import report_of
from tests.inside import keys_of, parts_of, recounted, redis_of
from tests.intact import intact
from tests.ports import free_port
from tests.rest import ok, rest
from tests.server.program import ROOT, environment, serve
from tests.serving import PATIENT, START_MS, Running, serving
from tests.storage.own_store import PASSWORD, as_operator, as_playhead, running, written_acl

PATIENCE_S = 60.0
LEARNERS, BEATS = 12, 60
KILLED_LEARNERS = 2_000
VIDEO = str(UUID(int=9))


class Operator:
    """Runs commands on a store."""

    def __init__(self, **settings: str) -> None:
        self._environment = environment(**{f"PLAYHEAD_{name}": value for name, value in settings.items()})

    async def start(self, *words: str | Path) -> Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "server",
            *words,
            cwd=ROOT,
            env=self._environment,
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
        )

    async def run(self, *words: str | Path, stdin: bytes = b"") -> tuple[int, str, str]:
        """Run a command; its exit code, stdout and stderr."""
        process = await self.start(*words)
        async with asyncio.timeout(PATIENCE_S):
            out, err = await process.communicate(stdin)
        assert process.returncode is not None
        assert b"Traceback" not in err, err.decode()
        return process.returncode, out.decode(), err.decode()


@pytest.fixture
def operator(store_server: StoreServer, prefix: str) -> Operator:
    return Operator(REDIS_URL=store_server.url, KEY_PREFIX=prefix, STORE_TIMEOUT_S="1")


@pytest.fixture
def operator_elsewhere(store_server: StoreServer, prefix: str) -> Operator:
    return Operator(REDIS_URL=store_server.url, KEY_PREFIX=f"{prefix}e", STORE_TIMEOUT_S="1")


@contextlib.asynccontextmanager
async def opened(server: StoreServer, prefix: str) -> AsyncIterator[Store]:
    store = open_store(server.url, worker="test", key_prefix=prefix)
    try:
        yield store
    finally:
        await store.close()


async def fill(store: Store, learners: int) -> None:
    """Store one session of one video for each learner."""
    for start in range(0, learners, 1_000):
        batch = Batch()
        for n in range(start, min(learners, start + 1_000)):
            report: Report = report_of("old", 1, START_MS - 9_000, [(1_000 * (n % 40), 60_000)])
            batch.deltas[str(UUID(int=10_000 + n)), VIDEO] = Delta(ops=[report])
        await store.commit(batch, START_MS, lambda user_id: False)


async def kept_is_counted(store: Store) -> bool:
    kept = intact(await store.analytics(VIDEO, START_MS))[:2]
    return kept == await recounted(store, VIDEO)


async def test_rebuild_reports_and_repairs_with_exit_codes(
    operator: Operator, store_server: StoreServer, prefix: str
) -> None:
    """--check exits with 1 and lists the drift; rebuild repairs it and exits with 0; then --check exits with 0."""
    async with opened(store_server, prefix) as store:
        await fill(store, 300)
        await redis_of(store).hdel(keys_of(store).audience(VIDEO), str(UUID(int=10_007)))
        code, out, _ = await operator.run("rebuild", "--check")
        assert (code, "1 × an entry that lacks" in out, str(UUID(int=10_007)) in out) == (1, True, True)
        assert not await kept_is_counted(store)
        code, out, _ = await operator.run("rebuild")
        assert (code, out.splitlines()[-1]) == (0, "300 records, 1 audiences: repaired")
        assert await kept_is_counted(store)
        code, out, _ = await operator.run("rebuild", "--check")
        assert (code, out) == (0, "300 records, 1 audiences: nothing has drifted\n")


async def learner(server: Running, number: int, go_on: asyncio.Event) -> int:
    """Play second after second in order, some of them twice; the number of acked plays."""
    beats = 0
    async with device(server, str(UUID(int=50_000 + number)), session=f"live{number}") as player:
        while beats < BEATS or not go_on.is_set():
            at = beats % 50
            ack = await player.play(VIDEO, at, at + 1, span=1_000)
            assert ack["rejected"] == ack["capped"] == []
            beats += 1
    return beats


async def test_beside_a_service_under_load(
    operator: Operator, operator_elsewhere: Operator, store_server: StoreServer, prefix: str, tmp_path: Path
) -> None:
    """Learners keep playing. Rebuilds find the planted drift and nothing else; an export of the store is
    imported into it; in the end each record has exactly what was acked, and the totals are their sum."""
    backup = tmp_path / "backup"
    async with opened(store_server, prefix) as store:
        await fill(store, 1_500)
        settings: dict[str, Any] = {"redis_url": store_server.url, "key_prefix": prefix, "max_rate": 16, **PATIENT}
        async with serving(**settings) as server, asyncio.TaskGroup() as tasks:
            over = asyncio.Event()
            players = [tasks.create_task(learner(server, n, over)) for n in range(LEARNERS)]
            ticking = tasks.create_task(clock_that_goes(server))
            code, out, _ = await operator.run("rebuild", "--check")
            assert (code, out.splitlines()[1:]) == (0, [])
            code, *_ = await operator.run("export", backup)
            assert code == 0
            await redis_of(store).hincrby(keys_of(store).summary(VIDEO), "watched", 500)
            await redis_of(store).hincrby(keys_of(store).curve(VIDEO), "s45", -3)
            code, out, _ = await operator.run("rebuild")
            assert (code, out.count("\n"), "1 × totals that differ from the sum" in out) == (0, 3, True)
            code, out, err = await operator.run("import", backup)
            assert (code, err.count("\n"), "outcome=done" in err) == (0, 1, True), "an older export changes nothing"
            assert " 0 of them changed;" in out
            assert (await operator_elsewhere.run("import", backup))[0] == 0
            code, out, _ = await operator.run("rebuild", "--check")
            assert (code, out.splitlines()[1:]) == (0, [])
            over.set()
            beats = await asyncio.gather(*players)
            ticking.cancel()
            async with rest(server) as http:
                for number, played in enumerate(beats):
                    record = ok(await http.get(f"/progress/{UUID(int=50_000 + number)}/{VIDEO}?detail=full"))
                    assert (record["playedDuration"], record["seen"]) == (played, [[0, min(played, 50)]])
                    assert record["again"] == ([[0, min(50, played - 50)]] if played > 50 else [])
        assert intact(await store.totals(VIDEO)).viewers == 1_500 + LEARNERS
        assert await kept_is_counted(store)


async def clock_that_goes(server: Running) -> None:
    """A clock for the service that runs ten times as fast as ours, so that no play is implausibly fast."""
    while True:
        server.clock.advance(0.5)
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("command", ["rebuild", "import", "export"])
async def test_killed_in_the_middle_and_run_again(
    operator: Operator, store_server: StoreServer, prefix: str, tmp_path: Path, command: str
) -> None:
    """kill -9 after increasing delays, then a run with --resume where it exists: the result is as of one run."""
    backup = tmp_path / "backup"
    async with opened(store_server, prefix) as store:
        await fill(store, KILLED_LEARNERS)
        assert (await operator.run("export", backup))[0] == 0
        want = await everything(store)
        keys = [key async for key in redis_of(store).scan_iter(f"{prefix}:{{*", count=5_000)]
        target = tmp_path / "again"
        words: dict[str, list[str | Path]] = {
            "rebuild": ["rebuild"],
            "import": ["import", backup, "--resume"],
            "export": ["export", target],
        }
        if command == "import":
            await redis_of(store).delete(*keys)
        if command == "rebuild":
            await redis_of(store).delete(*keys_of(store).of_shard(VIDEO))
        killed = 0
        for after_s in (0.0, 0.1, 0.25):
            process = await operator.start(*words[command])
            await begun(process)
            await asyncio.wait({asyncio.ensure_future(process.wait())}, timeout=after_s)
            if process.returncode is None:
                process.kill()
                killed += 1
            await process.communicate()
            if process.returncode == 0:
                break
            if command == "export" and target.with_name("again.cursor").exists():
                words["export"] = ["export", target, "--resume"]
        assert killed
        if command != "export" or not target.exists() or target.with_name("again.cursor").exists():
            code, _, err = await operator.run(*words[command])
            assert code == 0, err
        if command == "export":
            assert {*lines(target)} == {*lines(backup)}
        assert await everything(store) == want
        assert await kept_is_counted(store)
        assert (await operator.run("rebuild", "--check"))[0] == 0


async def begun(process: Process) -> None:
    """Wait until a process has a connection to a store, or has ended."""
    async with asyncio.timeout(PATIENCE_S):
        while process.returncode is None and not holds_a_connection(process.pid):  # noqa: ASYNC110 no event tells
            await asyncio.sleep(0.002)


def holds_a_connection(pid: int) -> bool:
    """Whether it has a socket besides the two pairs of the event loop."""
    with contextlib.suppress(OSError):
        links = [link.readlink() for link in Path(f"/proc/{pid}/fd").iterdir()]
        return sum("socket:" in str(link) for link in links) > 2
    return False


async def everything(store: Store) -> list[Any]:
    """The records without their revs, and their totals."""
    keys = [keys_of(store).progress(str(UUID(int=10_000 + n))) for n in range(KILLED_LEARNERS)]
    values = await parts_of(store).run([("HGET", key, VIDEO) for key in keys])
    records = [replace(intact(unpack_record(value or b"")), rev=0) for value in values]
    return [records, intact(await store.analytics(VIDEO, START_MS))[:2]]


def lines(file: Path) -> list[str]:
    """The lines of an export that are records."""
    return [line for line in file.read_text().splitlines() if json.loads(line)["type"] == "record"]


async def test_export_and_import_by_pipe(
    operator: Operator, operator_elsewhere: Operator, store_server: StoreServer, prefix: str
) -> None:
    """Without a file, stdout has only the lines, and stdin takes them."""
    async with opened(store_server, prefix) as store, opened(store_server, f"{prefix}e") as other:
        await fill(store, 50)
        code, out, err = await operator.run("export")
        assert (code, err) == (0, "50 records, 0 videos, 0 ended sessions\n")
        code, said, err = await operator_elsewhere.run("import", stdin=out.encode())
        assert (code, said) == (
            0,
            "50 records, 50 of them changed; 0 videos, 0 ended sessions; 0 lines refused\n",
        )
        assert (err.count("\n"), "event=import" in err) == (1, True)
        assert intact(await other.analytics(VIDEO, 0))[:2] == intact(await store.analytics(VIDEO, 0))[:2]


async def test_an_export_continues_exactly_after_its_cursor(
    operator: Operator, store_server: StoreServer, prefix: str, tmp_path: Path
) -> None:
    """Half a line written after it is cut off, and records left out before still determine the exit code."""
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    async with opened(store_server, prefix) as store:
        await fill(store, 50)
        assert (await operator.run("export", whole))[0] == 0
        head, *_ = whole.read_bytes().splitlines(keepends=True)
        for failed, code in ((0, 0), (1, 1)):
            state = {"epoch": await store.epoch(), "place": "v:", "bytes": len(head), "counts": {"failed": failed}}
            torn.write_bytes(head + b'{"type":"record","userId":"1')
            torn.with_name("torn.cursor").write_text(json.dumps(state))
            assert (await operator.run("export", torn, "--resume"))[0] == code
            assert torn.read_bytes().startswith(head)
            assert sorted(lines(torn)) == sorted(lines(whole))


async def test_a_file_that_cannot_be_written_ends_with_one_sentence(
    operator: Operator, store_server: StoreServer, prefix: str, tmp_path: Path
) -> None:
    """The directory is missing, the reader of stdout is gone, or the progress of an import cannot be saved."""
    async with opened(store_server, prefix) as store:
        await fill(store, KILLED_LEARNERS)
    code, _, err = await operator.run("export", tmp_path / "none" / "backup")
    assert (code, err) == (2, f"playhead: {tmp_path}/none/backup cannot be written (No such file or directory)\n")
    backup = tmp_path / "backup"
    assert (await operator.run("export", backup))[0] == 0
    (tmp_path / "backup.imported.new").mkdir()
    code, _, err = await operator.run("import", backup)
    assert code == 2
    assert "event=import" in err
    assert err.endswith(f"\nplayhead: {tmp_path}/backup.imported.new cannot be written (Is a directory)\n")
    process = await operator.start("export")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout._transport.close()  # type: ignore[attr-defined] # asyncio has no other way to stop to read
    async with asyncio.timeout(PATIENCE_S):
        err = (await process.stderr.read()).decode()
        assert await process.wait() == 2
    assert err == "playhead: stdout cannot be written (Broken pipe)\n"


async def test_bad_files_are_refused(
    operator: Operator, store_server: StoreServer, prefix: str, tmp_path: Path
) -> None:
    """Exit code 2: nothing was imported. 1: lines were refused, by number and field, or the end line is missing."""
    backup = tmp_path / "backup"
    async with opened(store_server, prefix) as store:
        await fill(store, 20)
        assert (await operator.run("export", backup))[0] == 0
        whole = backup.read_bytes().splitlines(keepends=True)
        assert (backup.stat().st_mode & 0o777) == 0o600
        code, _, err = await operator.run("export", backup)
        assert (code, f"{backup} exists" in err) == (2, True)
        code, _, err = await operator.run("export", backup, "--resume")
        assert (code, "an interrupted export" in err, backup.read_bytes().splitlines(keepends=True)) == (2, True, whole)
        await redis_of(store).delete(*[key async for key in redis_of(store).scan_iter(f"{prefix}:{{*")])
        backup.write_bytes(b"".join(whole[1:]))
        code, _, err = await operator.run("import", backup)
        assert (code, "line 1: type" in err) == (2, True)
        whole[3] = whole[3].replace(b'"claimed":0', b'"claimed":-1')
        whole[5] = b"{" * 1_100_000 + b"\n"
        backup.write_bytes(b"".join(whole[:-1]))
        code, out, err = await operator.run("import", backup)
        assert (code, out) == (
            1,
            "18 records, 18 of them changed; 0 videos, 0 ended sessions; 2 lines refused\n",
        )
        assert "line 4: claimed: " in err
        assert "line 6: should have at most" in err
        assert "no end line" in err
        assert intact(await store.totals(VIDEO)).viewers == 18
        code, _, err = await operator.run("import", tmp_path / "none")
        assert (code, "none cannot be read" in err) == (2, True)


async def test_a_file_with_a_wrong_end_line_is_imported_with_a_warning(
    operator: Operator, store_server: StoreServer, prefix: str
) -> None:
    """The end line has the number of lines: some are missing, or somebody has added one."""
    async with opened(store_server, prefix) as store:
        await fill(store, 20)
    _, out, _ = await operator.run("export")
    some = out.splitlines(keepends=True)
    added = re.sub(r'"userId":"[^"]*"', f'"userId":"{UUID(int=30_000)}"', some[7])
    for edited, held in ((some[:7] + some[8:], 19), ([*some[:7], added, *some[7:]], 21)):
        code, out, err = await operator.run("import", stdin="".join(edited).encode())
        assert (code, out.startswith(f"{held} records, ")) == (1, True)
        assert f"the end line counts 20 records, 0 videos and 0 ended sessions, but the file has {held}, 0 and 0" in err
        assert "The lines that it has are imported. If nobody edited the file, it is damaged" in err
    async with opened(store_server, prefix) as store:
        assert intact(await store.totals(VIDEO)).viewers == 21


async def test_a_backup_with_times_of_a_fast_clock_is_restored(
    operator: Operator, operator_elsewhere: Operator, store_server: StoreServer, prefix: str, tmp_path: Path
) -> None:
    """The times are corrected, counted and named by line; --strict refuses those lines and imports the rest. Learners
    can continue at once, and a second import undoes nothing."""
    backup, users = tmp_path / "backup", [str(UUID(int=10_000 + n)) for n in range(5)]
    async with opened(store_server, prefix) as store:
        await fill(store, 5)
        day_ms = 86_400_000
        ahead = (await StoreClock.of(store))().wall + day_ms
        report = Report(ahead, ahead, "s", 1, 1, [0, 60], [], 60_000, 60_000, ahead)
        fast = Batch({(users[0], VIDEO): Delta([report]), (users[1], VIDEO): Delta([ahead])}, latest=ahead)
        await store.commit(fast, ahead, lambda user_id: False)
        await store.end_sessions(users[2], ahead)
    assert (await operator.run("export", backup))[0] == 0
    code, out, err = await operator_elsewhere.run("import", backup, "--strict")
    assert (code, out) == (1, "3 records, 3 of them changed; 0 videos, 0 ended sessions; 3 lines refused\n")
    assert err.count(": should not be later than now") == 3
    code, out, err = await operator_elsewhere.run("import", backup)
    assert code == 0
    assert out.startswith("5 records, 2 of them changed; 0 videos, 1 ended sessions; 0 lines refused; 3 lines with ")
    every = backup.read_text().splitlines()
    for kind, user, names in (
        ("ended", users[2], "at"),
        ("record", users[0], "lastWatched, position/at, sessions/1/at"),
        ("record", users[1], "deletedAt"),
    ):
        (number,) = (n for n, line in enumerate(every, 1) if f'"type":"{kind}","userId":"{user}"' in line)
        assert f"playhead: line {number}: {names}: later than now, replaced by 20" in err
    settings: dict[str, Any] = {"redis_url": store_server.url, "key_prefix": f"{prefix}e"}
    async with serving(system_clock, **settings) as server, rest(server) as http:
        record = ok(await http.get(f"/progress/{users[0]}/{VIDEO}?detail=full"))
        assert (record["position"], record["seen"]) == (60, [[0, 60]])
        for user in users[:3]:
            async with device(server, user) as player:
                assert (await player.play(VIDEO, 10, 30))["rejected"] == []
        assert (await operator_elsewhere.run("import", backup))[1].startswith("5 records, 0 of them changed; ")
        for user in users[:2]:
            assert ok(await http.get(f"/progress/{user}/{VIDEO}?detail=full"))["position"] == 30
        assert await operator_elsewhere.run("rebuild", "--check") == (0, ANY, "")


async def test_the_embedded_store_with_and_without_a_running_service(tmp_path: Path) -> None:
    """A command uses the store of a service that owns the directory; without one, it runs the store itself."""
    data = ("--data-dir", str(tmp_path / "data"))
    user = str(uuid4())
    alone = Operator()
    code, _, err = await alone.run("rebuild", *data)
    assert (code, "there is no data directory" in err) == (2, True)
    async with serve(free_port(), *data, "--flush-interval-s", "0.05") as program:
        async with device(program.running, user) as player:
            await player.play(VIDEO, 0, 30, span=30_000)
        code, out, err = await alone.run("rebuild", "--check", *data)
        assert (code, out) == (0, "1 records, 1 audiences: nothing has drifted\n"), err
        assert await program.stop() == 0
    code, out, err = await alone.run("export", *data)
    assert code == 0, err
    assert user in out


@pytest.mark.parametrize("kind", ["redis7", "valkey"])
async def test_a_command_with_the_services_user_is_refused_and_names_the_operators(kind: str, tmp_path: Path) -> None:
    """With the shipped ACL: the error names the missing right, the command that needs it and the user that has it."""
    url, backup = as_playhead(tmp_path / "s"), tmp_path / "backup"
    service, theirs = Operator(REDIS_URL=url), Operator(REDIS_URL=as_operator(tmp_path / "s"))
    with running(kind, tmp_path, url, "--unixsocket", tmp_path / "s", "--aclfile", written_acl(tmp_path)):
        async with serving(redis_url=url) as server, rest(server) as http, device(server, str(uuid4())) as player:
            ok(await http.put(f"/videos/{VIDEO}", json={"title": "A title", "duration": 60}))
            await player.play(VIDEO, 0, 30, span=30_000)
        assert (await theirs.run("export", backup))[0] == 0
        for words, right in (
            (("rebuild",), "DBSIZE"),
            (("rebuild", "--check"), "DBSIZE"),
            (("export", tmp_path / "another"), "DBSIZE"),
            (("import", backup), "HSETNX"),
        ):
            code, _, err = await service.run(*words)
            assert code == 2
            assert f"the store's user lacks {right}, which `playhead {words[0]}` needs" in err
            assert "playhead-operator of examples/playhead-operator.acl" in err
            assert PASSWORD not in err
        for words in (("rebuild", "--check"), ("rebuild",), ("import", backup)):
            assert (await theirs.run(*words))[0] == 0
