"""An upper bound on how hard a secret is to guess, to refuse secrets that are not random.

It is a statistic of the text alone: it detects repetitions, runs and sequences, but no words, so a passphrase passes.
"""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

MIN_BITS = 64.0
"""The estimate for 32 random bytes is 110 or more, whether raw, hexadecimal or base64."""
REPETITION = 4
"""A sequence of this many bytes that has occurred before is not chance, and adds nothing to the estimate."""
EXAMINED_BYTES = 1_024
"""Only this many bytes from the beginning of a longer secret are examined."""
PLACEHOLDERS = ("changeme", "changethis", "replaceme", "yoursecret", "your256bitsecret", "placeholder", "supersecret")
"""Secrets in the examples of many programs, this one included; without case and punctuation."""


def entropy_bits(secret: bytes) -> float:
    """Estimate an upper bound from the frequencies of the bytes and of the differences between adjacent bytes."""
    novel = _without_repetitions(secret[:EXAMINED_BYTES])
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
