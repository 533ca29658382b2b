"""A search for inputs that a target raises on, led by which lines of ours they reach.

Why not atheris: it is built for few Pythons, and it would see no more than this does, since what is compiled here
(jiter, msgpack, pydantic) is compiled without its instrumentation. Why not hypothesis alone: it draws every input anew,
and so seldom gets a second step deeper than it got before. So: take an input that reached something new, change it a
little, as bytes or by the structure that it has, and keep what reaches a step from line to line not seen before.
"""

import random
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from tests.fuzz.mutation import mutated

LONGEST_S = 10
"""An input that takes longer hangs."""
DEAR = 5
ENOUGH = 5
"""Findings of one target, and its search ends: each takes time to be made small."""
SHRINK_TRIES, SHRINK_S = 2_000, 10
_ROOT = Path(__file__).parents[2] / "playhead"  # the name by which modules are loaded
_OURS = tuple(str(_ROOT / folder) for folder in ("protocol", "storage", "server"))
_LOOPS = str(_ROOT / "protocol" / "intervals.py")
"""Not traced: it is all loops over long lists, and any play reaches all of it."""
Target = Callable[[bytes], None]
Step = tuple[CodeType, int, int]


@dataclass
class Found:
    """An input that the target raised on, made small, and what it raised."""

    data: bytes
    trace: str


@dataclass
class _Kept:
    data: bytes
    cost: int
    """Lines of ours that it runs."""


@dataclass
class Search:
    """What came of the search of one target."""

    tried: int = 0
    kept: int = 0
    """Inputs that reached something new, the corpus included."""
    steps: int = 0
    """From line to line, inside our code."""
    findings: dict[str, Found] = field(default_factory=dict)
    """By where it was raised: one each."""


def search(
    target: Target,
    seeds: Sequence[bytes],
    dice: random.Random,
    go_on: Callable[[int], bool],
    ours: tuple[str, ...] = _OURS,
) -> Search:
    """Try the seeds and then what becomes of them, while `go_on(inputs tried)`.

    Args:
        ours: how the names of those files begin whose lines are to be reached.
    """
    result = Search()
    seen: set[tuple[Step, int]] = set()
    pool: list[_Kept] = []
    waiting = list(reversed(seeds))
    others = list(seeds)
    while waiting or (go_on(result.tried) and len(result.findings) < ENOUGH):
        is_seed = bool(waiting)
        data = waiting.pop() if waiting else mutated(dice, _pick(dice, pool) or dice.choice(seeds), others)
        counts: Counter[Step] = Counter()
        error = tried(target, data, counts, ours)
        result.tried += 1
        if error is not None:
            if (place := _place(error)) not in result.findings:
                small = _shrunk(target, data, place, dice)
                result.findings[place] = Found(small, "".join(traceback.format_exception(error)))
            continue
        # Once, twice, four times and so on: a second repeat of a heartbeat is news, a fortieth is not.
        reached = {(step, count.bit_length()) for step, count in counts.items()}
        if is_seed or not reached <= seen:
            seen |= reached
            pool.append(_Kept(data, counts.total()))
            others.append(data)
    result.kept, result.steps = len(pool), len({step for step, _ in seen})
    return result


def tried(
    target: Target, data: bytes, reached: Counter[Step] | None = None, ours: tuple[str, ...] = _OURS
) -> Exception | None:
    """What the target raised; `reached` counts the steps it made in our code."""
    with _limited():
        try:
            if reached is None:
                target(data)
            else:
                with _traced(reached, ours):
                    target(data)
        except Exception as error:
            return error
    return None


def _pick(dice: random.Random, pool: Sequence[_Kept]) -> bytes | None:
    """The newest most often, which were the hardest to come by; a far cheaper one instead: time is short."""
    if not pool:
        return None
    one, other = (pool[max(dice.randrange(len(pool)), dice.randrange(len(pool)))] for _ in range(2))
    return other.data if other.cost * DEAR < one.cost else one.data


def _place(error: BaseException) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}"


def _shrunk(target: Target, data: bytes, place: str, dice: random.Random) -> bytes:
    """Parts left out, lines first, as long as it is raised at the same place."""
    ends = time.monotonic() + SHRINK_S
    for cut in (b"\n", b""):
        for _ in range(SHRINK_TRIES):
            parts = data.split(cut) if cut else [data[i : i + 1] for i in range(len(data))]
            if len(parts) < 2 or time.monotonic() > ends:
                break
            at, most = dice.randrange(len(parts)), dice.choice((1, 1, 4, 32))
            less = cut.join(parts[:at] + parts[at + most :])
            if (error := tried(target, less)) is not None and _place(error) == place:
                data = less
    return data


@contextmanager
def _traced(reached: Counter[Step], ours: tuple[str, ...]) -> Iterator[None]:
    def enter(frame: FrameType, event: str, arg: Any) -> Any:
        code = frame.f_code
        if not code.co_filename.startswith(ours) or code.co_filename == _LOOPS:
            return None
        last = 0

        def step(frame: FrameType, event: str, arg: Any) -> Any:
            nonlocal last
            if event == "line":
                reached[code, last, frame.f_lineno] += 1
                last = frame.f_lineno
            return step

        return step

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        yield
    finally:
        sys.settrace(before)


@contextmanager
def _limited() -> Iterator[None]:
    def too_long(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"takes longer than {LONGEST_S} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, LONGEST_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
