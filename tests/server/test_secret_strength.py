"""Secrets that are not random are refused, and random ones never are."""

import base64
import random
from collections.abc import Callable

import pytest

from playhead.server.secret_strength import MIN_BITS, entropy_bits
from playhead.server.settings import Settings

WEAK = {
    "one letter": "a" * 32,
    "one letter, long": "a" * 5_000,
    "one letter, nearly": "a" * 31 + "b",
    "NUL bytes": "\0" * 40,
    "two letters": "ab" * 16,
    "two halves": "a" * 16 + "b" * 16,
    "runs": "".join(8 * letter for letter in "abcdefgh"),
    "a word": "password" * 4,
    "a word, cut off": ("password" * 5)[:35],
    "a word and a digit": "password" * 4 + "1",
    "a word with separators": "secret-secret-secret-secret-12345",
    "digits in a row": "01234567890123456789012345678901",
    "the alphabet": "abcdefghijklmnopqrstuvwxyz012345",
    "the alphabet backwards": "zyxwvutsrqponmlkjihgfedcba987654",
    "hexadecimal digits": "0123456789abcdef" * 4,
    "pairs": "00112233445566778899aabbccddeeff",
    "16 bytes of hexadecimal, twice": "deadbeefcafebabe" * 2,
    "beyond ASCII": "äöü" * 11,
    "a placeholder": "changeme" * 4,
    "a placeholder with punctuation": "please-CHANGE-ME-to-a-real-secret-of-your-own",
    "a placeholder of another program": "your-256-bit-secret-goes-here-please",
}


@pytest.mark.parametrize("name", WEAK)
def test_a_secret_that_is_not_random_is_refused(name: str) -> None:
    """The error names the setting and the remedy, and does not repeat the secret."""
    with pytest.raises(ValueError, match="jwt_secret") as refused:
        Settings(jwt_secret=WEAK[name])
    assert "openssl rand -hex 32" in str(refused.value)
    assert WEAK[name] not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        lambda drawn: drawn.hex(),
        lambda drawn: drawn.hex().upper(),
        lambda drawn: drawn.hex(":"),
        lambda drawn: base64.b64encode(drawn).decode(),
        lambda drawn: base64.urlsafe_b64encode(drawn).decode().rstrip("="),
        lambda drawn: base64.b32encode(drawn).decode(),
        lambda drawn: drawn[:16].hex(),
    ],
    ids=["hex", "HEX", "hex with colons", "base64", "base64url", "base32", "hex of 16 bytes"],
)
def test_a_random_secret_is_accepted(text: Callable[[bytes], str]) -> None:
    draw = random.Random(1)
    for _ in range(2_000):
        Settings(jwt_secret=text(draw.randbytes(32)))


def test_random_bytes_are_far_above_the_bound() -> None:
    draw = random.Random(2)
    assert min(entropy_bits(draw.randbytes(32)) for _ in range(2_000)) > 1.5 * MIN_BITS
