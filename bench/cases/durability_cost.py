"""The cost of each durability level: in the store's memory (and within a second in its file), synced to its disk, or to
a replica's disk too. The replica uses the same machine and disk, so the cost of a network is not included."""

from collections.abc import Callable
from functools import partial

from bench.cases.variants import compare
from bench.load.spec import Load
from bench.options import Options
from bench.report import Section
from bench.servers import playhead

LEVELS = ("memory", "fsync", "replicas:1")


def run(options: Options, say: Callable[[str], None]) -> Section:
    section = Section("The price of each durability level: 2,000 connections, 4,000 heartbeats/s")
    load = Load(0, "json", 2_000, 4_000, options.window_s)
    variants = {level: (partial(playhead, level), load) for level in LEVELS}
    compare(section, variants, options.side_turns, say, detail=True)
    return section
