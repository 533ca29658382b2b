"""Every input that is kept goes through its target, and a short search begins there; `make fuzz` is the long one."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.mutation import MAX_INPUT, mutated
from tests.fuzz.search import Search, search, tried
from tests.fuzz.targets import CORPUS, TARGETS, corpus

KEPT = [(name, path) for name in TARGETS for path in corpus(name)]
INPUTS = {name: [path.read_bytes() for path in corpus(name)] for name in TARGETS}


@pytest.mark.parametrize(("name", "path"), KEPT, ids=lambda part: part.name if isinstance(part, Path) else part)
def test_kept_input(name: str, path: Path) -> None:
    """Raises nothing: what was found once stays mended."""
    TARGETS[name](path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
@given(data=st.data())
def test_any_input(name: str, data: st.DataObject) -> None:
    """What becomes of kept inputs, and bytes out of nowhere."""
    inputs = INPUTS[name]
    dice = random.Random(data.draw(st.integers(0, 2**32)))
    TARGETS[name](mutated(dice, data.draw(st.sampled_from(inputs)), inputs))
    TARGETS[name](data.draw(st.binary(max_size=200)))


def test_every_target_has_a_corpus_and_every_corpus_a_target() -> None:
    """A folder that is renamed would else be run by nobody."""
    assert {folder.name for folder in CORPUS.iterdir()} == set(TARGETS)
    assert all(INPUTS.values())


def test_the_search_gets_deeper_than_chance() -> None:
    """Six steps, of which each is possible after the one before alone, are found when the lines that they reach lead
    the search, and else not; the finding is told once and made small; a seed repeats it all."""

    def planted(data: bytes) -> None:
        lines = iter(data.split(b"\n"))
        if next(lines, None) != b"f":
            return
        if next(lines, None) != b"e":
            return
        if next(lines, None) != b"d":
            return
        if next(lines, None) != b"c":
            return
        if next(lines, None) != b"b":
            return
        assert next(lines, None) != b"a", "planted"

    def searched(ours: str) -> Search:
        return search(planted, [b"a\nb\nc\nd\ne\nf\ng"], random.Random(5), lambda tried: tried < 15_000, (ours,))

    result = searched(__file__)
    (found,) = result.findings.values()
    assert found.data == b"f\ne\nd\nc\nb\na"
    assert "planted" in found.trace
    assert result.tried == 15_000
    again = searched(__file__)
    assert [found.data for found in again.findings.values()] == [found.data]
    assert (again.kept, again.steps) == (result.kept, result.steps)
    assert searched("elsewhere").findings == {}


def test_the_search_keeps_what_reaches_new_lines_of_ours() -> None:
    """Of the kept inputs of a target more than one, and more in the end than they were."""
    few = INPUTS["json"][:3]
    result = search(TARGETS["json"], few, random.Random(1), lambda tried: tried < 500)
    assert result.kept > 1
    first = search(TARGETS["json"], few, random.Random(1), lambda tried: False)
    assert result.steps > first.steps
    assert first.tried == len(few)


def test_an_input_that_hangs_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the end of the search."""
    monkeypatch.setattr("tests.fuzz.search.LONGEST_S", 0.05)

    def hang(data: bytes) -> None:
        while True:
            pass

    assert isinstance(tried(hang, b""), TimeoutError)


@pytest.mark.parametrize("name", TARGETS)
def test_any_input_can_be_mutated(name: str) -> None:
    """Whatever it has become by then: the search itself must not fail."""
    dice, inputs = random.Random(name), list(INPUTS[name])
    for _ in range(1_500):
        at = dice.randrange(len(inputs))
        inputs[at] = mutated(dice, inputs[at], inputs)


def test_a_mutation_is_bounded() -> None:
    """However often it is repeated: an input that grows without end would search nothing."""
    dice, data = random.Random(3), b'{"a": [1, 2]}\n'
    for _ in range(200):
        data = mutated(dice, data, [b"x" * MAX_INPUT])
        assert len(data) <= MAX_INPUT
