"""The fuzz targets: functions of bytes that raise only on a finding. The corpus of each is the folder of its name."""

from collections.abc import Callable
from pathlib import Path

from tests.fuzz.conversation import conversation
from tests.fuzz.frames import json_frame, msgpack_frame
from tests.fuzz.pushes import push
from tests.fuzz.records import joins, stored
from tests.fuzz.values import value

CORPUS = Path(__file__).parent / "corpus"

Target = Callable[[bytes], None]
TARGETS: dict[str, Target] = {
    "json": json_frame,
    "msgpack": msgpack_frame,
    "conversation": conversation,
    "joins": joins,
    "stored": stored,
    "push": push,
    "value": value,
}
SHARES = {"conversation": 4, "joins": 3}
"""Shares of the time; each other target has one."""


def corpus(name: str) -> list[Path]:
    return sorted(path for path in (CORPUS / name).iterdir() if path.is_file())
