"""A short soak with every run of the tests; `make soak` runs longer."""

import re

import pytest

from tests.soak.__main__ import main
from tests.soak.churn import State


def test_clients_that_connect_and_disconnect_leave_nothing_behind(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seconds", "18", "--actors", "30", "--seed", "1"]) == 0
    *_, line = capsys.readouterr().out.splitlines()
    clients = re.match(r"([\d,]+) clients; nothing is left of them", line)
    assert clients is not None, line
    assert int(clients[1].replace(",", "")) > 100


def test_a_leak_is_reported() -> None:
    base = State(0, 0, 20, 30, 100_000_000)
    assert base.beyond(base) == []
    leaky = State(1, 2, 21, 95, 250_000_000)
    assert [line.partition(":")[0] for line in leaky.beyond(base)] == [
        "connections",
        "waiting",
        "tasks",
        "descriptors",
        "rss_bytes",
    ]
