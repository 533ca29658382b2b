"""How hard a secret is to guess, at most: refuses those that nobody drew at random.

A statistic of the text alone. It recognizes repetitions, runs and sequences, not words: a passphrase passes.
"""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

MIN_BITS = 64.0
"""32 random bytes have 110 or more by this estimate, as they are or in hexadecimal or base64."""
REPETITION = 4
"""Bytes that have occurred before, in this order, are no chance and add nothing."""
LOOKED_AT = 1_024
"""Of a longer secret, its first bytes."""
PLACEHOLDERS = ("changeme", "changethis", "replaceme", "yoursecret", "your256bitsecret", "placeholder", "supersecret")
"""From the examples of many programs, ours among them; without case and punctuation."""


def entropy_bits(secret: bytes) -> float:
    """An upper estimate, by the frequency of bytes and of the steps between neighbours."""
    novel = _without_repetitions(secret[:LOOKED_AT])
    steps = [(after - before) % 256 for before, after in pairwise(novel)]
    return min(_bits(novel), _bits(steps))


def is_placeholder(secret: str) -> bool:
    letters = "".join(c for c in secret.lower() if c.isalnum())
    return any(word in letters for word in PLACEHOLDERS)


def _without_repetitions(text: bytes) -> bytes:
    novel, at = bytearray(), 0
    while at < len(text):
        end = at + REPETITION
        while end <= len(text) and text.find(text[at:end], 0, end - 1) >= 0:
            end += 1
        if end > at + REPETITION:
            at = end - 1
        else:
            novel.append(text[at])
            at += 1
    return bytes(novel)


def _bits(symbols: Sequence[int]) -> float:
    total = len(symbols)
    return -sum(n * math.log2(n / total) for n in Counter(symbols).values())
