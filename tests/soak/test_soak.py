"""A short soak with every run of the tests: what comes and goes leaves nothing behind. `make soak` is the long one."""

from pathlib import Path

from tests.soak.churn import State, soak


async def test_a_crowd_that_comes_and_goes_leaves_nothing_behind(tmp_path: Path) -> None:
    found = await soak(tmp_path, seconds=18, actors=30, rounds=3, seed=1)
    for _, lives in found:
        assert len(lives) == 7, "each way to come and go was taken"
        assert sum(lives.values()) > 100


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
