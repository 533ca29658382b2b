"""Seeded mutations of an input: of its bytes, of its lines, and of the JSON or msgpack in it."""

import copy
import json
import random
from collections.abc import Sequence
from typing import Any

import msgpack

UUID = "0f8fad5b-d9cb-469f-a165-70867728950e"
ODD: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 5, 9, 16, 0.5, -0.0, 1.5, 1e308, 5e-324, 10**30, float("nan"), float("inf")),
    *(2**31, 2**32, 2**53 - 1, 2**53, 2**63, 2**64 - 1, 2**64, -(2**63), 172_800, 172_800_000, 253_402_300_799_999),
    *(
        "",
        "a",
        "b",
        "page",
        "\x00",
        "\u2028é集",
        "\ud800",
        UUID,
        "9" * 300,
        "2024-05-01",
        "2024-05-01T10:00:00.5+01:00",
    ),
    *([], [[0, 1]], [[5, 0]], [[]], [[0, 9], [3, 400]], {}, {"type": "ping"}, [[[[[[[[]]]]]]]]),
]
SNIPPETS = [
    *(b"-", b"0", b"e9", b".5", b'"', b"[", b"]", b"{", b"}", b",", b":", b"null", b"NaN", b"Infinity", b"\\u0000"),
    *(b"\\ud800", b"\xff", b"\xed\xa0\x80", b"\x00", b"\n", b" ", b"T", b"Z", b"+01:00"),
    *(b"\xc1", b"\xc7\x00\xff", b"\xd6\xff\x00\x00\x00\x00", b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff"),
    *(b"\xc6\xff\xff\xff\xff", b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff", b"\xcb\x7f\xf8\0\0\0\0\0\0", b"\x81", b"\x90"),
    *(b"\ntaken\n", b"\nstored\n", b"\noutcome page 1 1\n", b"\nclock 5000\n", b"\nwall -3600000\n", b"\naccept\n"),
]


def mutated(dice: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Make one to four changes; some take parts of `others`."""
    for _ in range(dice.choice((1, 1, 2, 4))):
        data = dice.choice(_WAYS)(dice, data, others)
    return data[:MAX_INPUT]


MAX_INPUT = 8_000


def _bytes(dice: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Change, remove, insert or repeat a byte or a range."""
    content = bytearray(data)
    at = dice.randrange(len(content) + 1)
    kind = dice.randrange(6)
    if kind == 0:
        content[at : at + 1] = bytes([dice.randrange(256)])
    elif kind == 1 and at < len(content):
        content[at] ^= 1 << dice.randrange(8)
    elif kind == 2:
        del content[at : at + dice.choice((1, 2, 8, 1_000))]
    elif kind == 3:
        content[at:at] = dice.choice(SNIPPETS)
    elif kind == 4:
        content[at:at] = content[max(0, at - dice.randint(1, 30)) : at] * dice.choice((1, 1, 2, 50))
    else:
        other = dice.choice(others)
        content[at:] = other[dice.randrange(len(other) + 1) :]
    return bytes(content)


def _lines(dice: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Remove, repeat or move a line, or insert one of another input."""
    lines = data.split(b"\n")
    at, kind = dice.randrange(len(lines)), dice.randrange(5)
    line = lines[at]
    if kind == 0 and len(lines) > 1:
        del lines[at]
    elif kind == 1:
        lines[at:at] = [line] * dice.choice((1, 1, 2, 17))
    elif kind == 2:
        del lines[at]
        lines.insert(dice.randrange(len(lines) + 1), line)
    elif kind == 3:
        lines.insert(at, dice.choice(dice.choice(others).split(b"\n")))
    else:
        other = dice.choice(others).split(b"\n")
        lines[at:] = other[dice.randrange(len(other)) :]
    return b"\n".join(lines)


def _tree(dice: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Change a value inside a line's JSON, or inside the whole input as msgpack."""
    lines = data.split(b"\n")
    at = dice.randrange(len(lines))
    before, brace, rest = lines[at].partition(b"{")
    try:
        tree = json.loads(brace + rest if brace else lines[at])
    except (ValueError, RecursionError):
        return _packed(dice, data) or _bytes(dice, data, others)
    text = json.dumps(_grown(dice, tree), separators=dice.choice(((",", ":"), (", ", ": "))))
    lines[at] = (before if brace else b"") + text.encode()
    return b"\n".join(lines)


def _packed(dice: random.Random, data: bytes) -> bytes | None:
    unpacker = msgpack.Unpacker(strict_map_key=False, max_buffer_size=MAX_INPUT + 1)
    try:
        unpacker.feed(data)
        trees = list(unpacker)
        if not trees:
            return None
        at = dice.randrange(len(trees))
        trees[at] = _grown(dice, trees[at])
        return b"".join(msgpack.packb(tree) for tree in trees)
    except Exception:
        return None


def _grown(dice: random.Random, tree: Any) -> Any:
    """The tree with one value replaced, slightly changed, removed, copied, renamed or wrapped."""
    tree = copy.deepcopy(tree)
    places = _places(tree)
    if not places:
        return copy.deepcopy(dice.choice(ODD))
    container, key = dice.choice(places)
    value, kind = container[key], dice.randrange(8)
    if kind == 0:
        del container[key]
    elif kind == 1:
        container[key] = [value]
    elif kind == 2 and isinstance(container, dict):
        container[dice.choice([str(key) + "_", "\x00", *container])] = copy.deepcopy(value)
    elif kind == 2:
        container.insert(dice.randrange(len(container) + 1), copy.deepcopy(value))
    elif kind <= 5 and type(value) in (int, float):
        container[key] = _near(dice, value)
    elif kind == 6:
        from_there, there = dice.choice(places)
        container[key] = copy.deepcopy(from_there[there])
    else:
        container[key] = copy.deepcopy(dice.choice(ODD))
    return tree


def _near(dice: random.Random, number: float) -> float:
    by = dice.choice((1, 1, 1, 0.5, 10, 499, 500, 1_000, 10_000, 60_000, dice.randrange(1, 1 << dice.randint(1, 40))))
    if abs(number) > 1e300:  # an integer beyond the range of floats
        return by
    return dice.choice((number + by, number - by, number * 2, -number, by))


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """(container, key) of every value in a tree."""
    found: list[tuple[Any, Any]] = []
    todo = [tree]
    while todo and len(found) < 5_000:
        node = todo.pop()
        if isinstance(node, dict | list):
            inside = list(node.items()) if isinstance(node, dict) else list(enumerate(node))
            found += [(node, key) for key, _ in inside]
            todo += [value for _, value in inside]
    return found


_WAYS = (_bytes, _lines, _lines, _tree, _tree, _tree)
