"""Compares the answers of the service's public endpoints with the model."""

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import httpx

from playhead.protocol.intervals import coverage, intersection, pairs
from playhead.protocol.scalars import parse_instant
from tests.faults.ledger import Expected, Ledger
from tests.faults.players import PATIENCE_S, Fleet

READS_AT_ONCE = 8


@dataclass(slots=True)
class Verdict:
    """One line for each lost heartbeat and for each wrong value."""

    lost: list[str] = field(default_factory=list)
    """Acked heartbeats that are not in the store."""
    wrong: list[str] = field(default_factory=list)
    """Values of records, summaries and curves that differ from the model."""


async def compared(url: str, ledger: Ledger, fleet: Fleet) -> Verdict:
    """Compare one node with the model. No report may be waiting."""
    verdict, expected = Verdict(), ledger.expected()
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S, trust_env=False) as http:
        users = sorted({user for user, _ in expected} | {player.user for player in fleet.players})
        answers = await _read(http, [f"/progress/{user}?detail=full" for user in users])
        held = {
            (user, record["videoId"]): record
            for user, answer in zip(users, answers, strict=True)
            for record in answer["progressData"]
        }
        _find_lost(ledger, held, verdict)
        _compare_records(expected, held, verdict)
        _compare_devices(fleet, held, verdict)
        await _compare_videos(http, expected, sorted(fleet.videos), verdict)
    return verdict


async def _read(http: httpx.AsyncClient, paths: list[str]) -> list[Any]:
    at_once = asyncio.Semaphore(READS_AT_ONCE)

    async def one(path: str) -> Any:
        async with at_once:
            answer = await http.get(path)
        assert answer.status_code == 200, (path, answer.text)
        return answer.json()

    return list(await asyncio.gather(*map(one, paths)))


def _find_lost(ledger: Ledger, held: dict[Any, dict[str, Any]], verdict: Verdict) -> None:
    for (session, seq), sent in ledger.sent.items():
        beat = sent.entry.beat
        seconds, _ = coverage([(round(start * 1_000), round(end * 1_000)) for start, end in beat.played])
        flat = [edge for pair in held.get((sent.user, beat.video_id), {}).get("seen", ()) for edge in pair]
        if sent.acked_ms and intersection(seconds, flat) != seconds:
            verdict.lost.append(f"heartbeat {seq} of session {session}: seconds {seconds} of video {beat.video_id}")
    for claim in ledger.claims:
        if claim.acked_ms and held.get((claim.user, claim.video), {}).get("watchedDuration", 0) < claim.watched_s:
            verdict.lost.append(f"update of {claim.user}: {claim.watched_s} s of video {claim.video}")


def _compare_records(expected: dict[Any, Expected], held: dict[Any, dict[str, Any]], verdict: Verdict) -> None:
    for key in sorted(expected.keys() | held.keys()):
        if key not in held or key not in expected:
            verdict.wrong.append(f"record {key}: {'missing' if key not in held else 'no player reported it'}")
            continue
        model, answer = expected[key].record, held[key]
        must = {
            "watchedDuration": model.watched,
            "playedDuration": model.played_ms / 1_000,
            "duration": model.duration_ms / 1_000 or None,
            "completed": model.completed_at > 0,
            "seen": [list(pair) for pair in pairs(model.seen)],
            "again": [list(pair) for pair in pairs(model.again)],
        }
        for name, value in must.items():
            if answer.get(name) != value:
                verdict.wrong.append(f"record {key}: {name} is {answer.get(name)}, not {value}")
        if answer.get("position") not in expected[key].positions:
            verdict.wrong.append(f"record {key}: position is {answer.get('position')}, not {expected[key].positions}")
        at = parse_instant(answer["lastWatched"])
        if not expected[key].earliest <= at <= expected[key].latest:
            bounds = f"{expected[key].earliest:.0f} to {expected[key].latest:.0f}"
            verdict.wrong.append(f"record {key}: lastWatched is {at}, not {bounds}")


def _compare_devices(fleet: Fleet, held: dict[Any, dict[str, Any]], verdict: Verdict) -> None:
    """Compare what each device knows after its sync with the service's records."""
    for player in fleet.players:
        for video in fleet.videos:
            known, record = player.client.record(video), held.get((player.user, video))
            on_device = None if known is None else (known.rev, known.watched_duration, known.played_duration)
            stored = None if record is None else (record["rev"], record["watchedDuration"], record["playedDuration"])
            if on_device != stored:
                verdict.wrong.append(f"a device of {player.user} has {on_device} for video {video}, not {stored}")


async def _compare_videos(
    http: httpx.AsyncClient, expected: dict[Any, Expected], videos: list[str], verdict: Verdict
) -> None:
    audience: defaultdict[str, list[Any]] = defaultdict(list)
    for (_, video), each in expected.items():
        audience[video].append(each.record)
    videos = sorted({*videos, *audience})
    curves = await _read(http, [f"/analytics/videos/{video}" for video in videos])
    summaries = await _read(http, [f"/progress/summary/{video}" for video in videos])
    for video, curve, summary in zip(videos, curves, summaries, strict=True):
        records = [record for record in audience[video] if record.watched]
        viewers, watched = len(records), sum(record.watched for record in records)
        completed = sum(record.completed_at > 0 for record in records)
        must = {
            "averageWatchedDuration": (2 * watched + viewers) // (2 * viewers) if viewers else 0,
            "completionRate": completed / viewers if viewers else 0.0,
        }
        length = max((record.seen[-1] for record in records if record.seen), default=0)
        curve_must = {
            **must,
            "viewers": viewers,
            "completed": completed,
            "retention": _counts([record.seen for record in records], length),
            "replays": _counts([record.again for record in records], length),
        }
        for kind, answer, model in (("summary", summary, must), ("curve", curve, curve_must)):
            for name, value in model.items():
                if answer[name] != value:
                    verdict.wrong.append(f"{kind} of video {video}: {name} is {answer[name]}, not {value}")


def _counts(sets: list[list[int]], length: int) -> list[int]:
    counts = [0] * length
    for seconds in sets:
        for start, end in pairs(seconds):
            for second in range(start, end):
                counts[second] += 1
    return counts
