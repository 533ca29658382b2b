"""The plan for many viewers is what the measured unit costs come to, on the page as in the script."""

import math

import pytest

from bench.scale import (
    BUSY,
    CONNECTIONS,
    HELLOS_PER_S,
    PAGE,
    PARTITIONS,
    PRIMARY_GIB,
    Plan,
    Worker,
    filled,
    planned,
    simulate,
)
from bench.unit_costs import UnitCosts

COSTS = UnitCosts(
    beat_us=10,
    record_us=10,
    store_us=20,
    crowd_us=20,
    cluster_us=5,
    cluster_store_us=40,
    return_us=300,
    connection_kib=20,
    stored_b=500,
    beat_b=300,
    ack_b=200,
)


def test_the_page_has_the_numbers_that_the_script_computes() -> None:
    assert filled(PAGE.read_text(), UnitCosts.load()) == PAGE.read_text(), "python -m bench.scale --write"


def test_a_worker_has_at_most_as_many_players_as_the_service_accepts_by_default() -> None:
    """They also reconnect no faster than it accepts them, and the page has the same number."""
    assert f"at most {CONNECTIONS:,} connections" in PAGE.read_text()
    idle = Plan(1_000_000, 600, 1, Worker(1.0, 0.5, 1.0), COSTS)
    assert idle.viewers / idle.workers <= CONNECTIONS
    assert idle.reconnect_s >= CONNECTIONS / HELLOS_PER_S


@pytest.mark.parametrize(
    ("viewers", "beat_s", "primaries", "bound"),
    [
        (1_000, 5, 1, "both"),
        (1_000_000, 5, 7, "CPU"),  # 4 cores of the store, 93 GiB
        (1_000_000, 60, 6, "memory"),
        (10_000_000, 5, 74, "CPU"),  # 40 cores, 931 GiB: 7 partitions each
        (10_000_000, 60, 64, "memory"),
        (80_000_000, 600, 512, "memory"),
        (100_000_000, 600, 512, "too few"),
    ],
)
def test_no_primary_exceeds_its_limits_of_cpu_and_memory(
    viewers: int, beat_s: float, primaries: int, bound: str
) -> None:
    """Counted in whole partitions; more primaries than partitions would be idle."""
    plan = Plan(viewers, beat_s, 1, Worker(1.0, 0.5, 1.0), COSTS)
    assert (plan.primaries, plan.bound) == (primaries, bound)
    most = math.ceil(PARTITIONS / primaries)
    assert plan.primary_gib == plan.store_gib * most / PARTITIONS
    within = plan.primary_gib <= PRIMARY_GIB and plan.store_cores * most / PARTITIONS <= BUSY
    assert within == (bound != "too few")


def test_several_primaries_have_the_costs_of_a_cluster_and_one_those_of_a_server() -> None:
    few, many = planned(10_000, 5, 1, COSTS), planned(1_000_000, 5, 1, COSTS)
    assert (few.primaries, few.costs) == (1, COSTS)
    assert (many.costs.record_us, many.costs.store_us) == (15, 40)
    assert many.primaries == 14, "8 cores of the store, at most 0.6 of one each"


@pytest.mark.parametrize(("beat_s", "flush_s", "records_a_beat"), [(5, 1, 1.0), (5, 5, 1.0), (1, 5, 0.2), (2, 4, 0.5)])
def test_heartbeats_of_a_player_within_a_flush_share_a_record(
    beat_s: float, flush_s: float, records_a_beat: float
) -> None:
    found = simulate(beat_s, flush_s, 1, COSTS)
    assert found.records_a_beat == pytest.approx(records_a_beat, rel=0.15)


def test_an_ack_waits_for_its_flush_and_the_store() -> None:
    """Half of the interval on average, all of it and the commit at most; longer if more workers share the store."""
    alone, crowded = simulate(5, 1, 1, COSTS), simulate(5, 1, 20, COSTS)
    assert isinstance(alone, Worker)
    assert 0.5 < alone.p50_s < 0.6 < 1.0 < alone.p99_s < 1.1
    assert crowded.p50_s > alone.p50_s
    assert crowded.p99_s > alone.p99_s
