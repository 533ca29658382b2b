"""A search for inputs on which a target raises, guided by the lines of Playhead's code that they reach.

Atheris is not used: it is built for few Python versions, and would see no more, since the compiled libraries (jiter,
msgpack, pydantic) have no instrumentation for it. Hypothesis alone is not enough: it draws every input independently,
and so seldom gets a step further than before. This search takes an input that reached something new, changes it a
little, by bytes or by structure, and keeps the result if it reaches a step from line to line that is new.
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
"""An input that takes longer counts as hanging."""
COSTLY = 5
"""An input that costs this many times as much as another is not picked in its place."""
ENOUGH = 5
"""Findings of one target that end its search, because each takes time to shrink."""
SHRINK_TRIES, SHRINK_S = 2_000, 10
_ROOT = Path(__file__).parents[2] / "playhead"  # the name by which modules are loaded
_OURS = tuple(str(_ROOT / folder) for folder in ("protocol", "storage", "server"))
_LOOPS = str(_ROOT / "protocol" / "intervals.py")
"""Not traced: it consists of loops over long lists, and any play reaches all of it."""
Target = Callable[[bytes], None]
Step = tuple[CodeType, int, int]


@dataclass
class Found:
    """A shrunk input on which the target raised, and the traceback."""

    data: bytes
    trace: str


@dataclass
class _Kept:
    data: bytes
    cost: int
    """Lines of Playhead's code that it executes."""


@dataclass
class Search:
    """The result of the search of one target."""

    tried: int = 0
    kept: int = 0
    """Inputs that reached something new, including the corpus."""
    steps: int = 0
    """Steps from line to line in Playhead's code."""
    findings: dict[str, Found] = field(default_factory=dict)
    """One finding for each place where an exception was raised."""


def search(
    target: Target,
    seeds: Sequence[bytes],
    dice: random.Random,
    go_on: Callable[[int], bool],
    ours: tuple[str, ...] = _OURS,
) -> Search:
    """Try the seeds and then mutations of them, while `go_on(inputs tried)` is true.

    Args:
        ours: prefixes of the names of the files whose lines guide the search.
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
        # Counts are compared by powers of two: a second repeat of a heartbeat is new, a fortieth is not.
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
    """Run the target, and return its exception or None; `reached` counts its steps in Playhead's code."""
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
    """Pick an input: most often a new one, which was the hardest to find, or a far cheaper one instead."""
    if not pool:
        return None
    one, other = (pool[max(dice.randrange(len(pool)), dice.randrange(len(pool)))] for _ in range(2))
    return other.data if other.cost * COSTLY < one.cost else one.data


def _place(error: BaseException) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}"


def _shrunk(target: Target, data: bytes, place: str, dice: random.Random) -> bytes:
    """Leave out parts, lines first, as long as the exception is raised at the same place."""
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
