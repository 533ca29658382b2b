"""The same heartbeats as JSON text and as msgpack bytes."""

from collections.abc import Callable

from bench.cases.variants import compare
from bench.load.spec import Load
from bench.options import Options
from bench.report import Section
from bench.servers import playhead


def run(options: Options, say: Callable[[str], None]) -> Section:
    section = Section("CPU a heartbeat by codec: 2,000 connections, 8,000 heartbeats/s")
    variants = {
        name: (playhead, Load(0, kind, 2_000, 8_000, options.window_s))
        for name, kind in {"JSON": "json", "msgpack": "msgpack"}.items()
    }
    compare(section, variants, options.side_turns, say)
    return section
