"""A short soak with every run of the tests: what comes and goes leaves nothing behind. `make soak` is the long one."""

import re

import pytest

from tests.soak.__main__ import main
from tests.soak.churn import State


def test_a_crowd_that_comes_and_goes_leaves_nothing_behind(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seconds", "18", "--actors", "30", "--seed", "1"]) == 0
    *_, said = capsys.readouterr().out.splitlines()
    lives = re.match(r"([\d,]+) lives; nothing is left of them", said)
    assert lives is not None, said
    assert int(lives[1].replace(",", "")) > 100


def test_a_leak_is_told() -> None:
    base = State(0, 0, 20, 30, 100_000_000)
    assert base.beyond(base) == []
    leaky = State(1, 2, 21, 95, 250_000_000)
    assert [told.partition(":")[0] for told in leaky.beyond(base)] == [
        "connections",
        "waiting",
        "tasks",
        "descriptors",
        "rss_bytes",
    ]
