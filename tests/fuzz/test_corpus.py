"""Runs every input of the corpus through its target, and a short search from there; `make fuzz` searches longer."""

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
    """The target raises nothing: earlier findings stay fixed."""
    TARGETS[name](path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
@given(data=st.data())
def test_any_input(name: str, data: st.DataObject) -> None:
    """Mutations of the corpus, and random bytes."""
    inputs = INPUTS[name]
    dice = random.Random(data.draw(st.integers(0, 2**32)))
    TARGETS[name](mutated(dice, data.draw(st.sampled_from(inputs)), inputs))
    TARGETS[name](data.draw(st.binary(max_size=200)))


def test_every_target_has_a_corpus_and_every_corpus_a_target() -> None:
    """Otherwise a renamed folder would no longer be run."""
    assert {folder.name for folder in CORPUS.iterdir()} == set(TARGETS)
    assert all(INPUTS.values())


def test_the_search_gets_deeper_than_chance() -> None:
    """A bug behind six steps, each possible only after the one before, is found if the reached lines guide the search,
    and otherwise not. The finding is reported once and shrunk, and the same seed repeats the search."""

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
    """It keeps more than one input, and reaches more steps than the seeds do."""
    few = INPUTS["json"][:3]
    result = search(TARGETS["json"], few, random.Random(1), lambda tried: tried < 500)
    assert result.kept > 1
    first = search(TARGETS["json"], few, random.Random(1), lambda tried: False)
    assert result.steps > first.steps
    assert first.tried == len(few)


def test_an_input_that_hangs_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not end the search."""
    monkeypatch.setattr("tests.fuzz.search.LONGEST_S", 0.05)

    def hang(data: bytes) -> None:
        while True:
            pass

    assert isinstance(tried(hang, b""), TimeoutError)


@pytest.mark.parametrize("name", TARGETS)
def test_any_input_can_be_mutated(name: str) -> None:
    """Also after many mutations: the search itself must not fail."""
    dice, inputs = random.Random(name), list(INPUTS[name])
    for _ in range(1_500):
        at = dice.randrange(len(inputs))
        inputs[at] = mutated(dice, inputs[at], inputs)


def test_a_mutation_is_bounded() -> None:
    """Also after many mutations: inputs that grow without limit would stall the search."""
    dice, data = random.Random(3), b'{"a": [1, 2]}\n'
    for _ in range(200):
        data = mutated(dice, data, [b"x" * MAX_INPUT])
        assert len(data) <= MAX_INPUT
