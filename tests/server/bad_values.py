"""Invalid values for each scalar of the wire format, as JSON text, because Python cannot express all of them."""

import json

UUID = "0f8fad5b-d9cb-469f-a165-70867728950e"


def _texts(*values: str) -> list[str]:
    return [json.dumps(value) for value in values]


NO_TEXT = ["null", "true", "0", "12", "1.5", "NaN", "[]", "{}", '["x"]']

IDS = [
    *NO_TEXT,
    *_texts(
        "",
        UUID[:-1],
        UUID + "0",
        "{" + UUID + "}",
        "urn:uuid:" + UUID,
        UUID + "\n",
        "\n" + UUID,
        " " + UUID,
        UUID + " ",
        UUID + "\x00",
        UUID.replace("-", ""),
        UUID.replace("-", "_"),
        "g" + UUID[1:],
        "０" + UUID[1:],  # a Unicode digit, but not a hexadecimal one
        UUID[:-1] + "é",
        "0" * 36,
        "-" * 36,
        "../" + UUID[3:],
        "a" * 100_000,
    ),
]

WHOLE_SECONDS = [
    "null",
    "true",
    "false",
    '"10"',
    '""',
    "12.0",
    "1e2",
    "0.5",
    "-1",
    "-0.0",
    "172801",
    "4294967296",
    "9223372036854775808",
    "1" + 30 * "0",
    "1" + 400 * "0",
    "1e400",
    "NaN",
    "Infinity",
    "-Infinity",
    "[]",
    "[10]",
    "{}",
]

INSTANTS = [
    *NO_TEXT,
    "1764000000000",
    *_texts(
        "",
        " ",
        "yesterday",
        "now",
        "1764000000000",
        "2024",
        "2024-05",
        "20240501",
        "2024-W18-3",
        "2024-122",
        "01.05.2024",
        "2024/05/01",
        "2024-5-1",
        "2024-13-01",
        "2024-00-10",
        "2024-02-30",
        "2023-02-29",
        "2024-05-01T",
        "2024-05-01T25:00:00Z",
        "2024-05-01T10:60:00Z",
        "2024-05-01T10:00:61Z",
        "2024-05-01T10Z",
        "2024-05-01T10:00:00ZZ",
        "2024-05-01T10:00:00+24:00",
        "2024-05-01T10:00:00+99:99",
        "2024-05-01T10:00:00 UTC",
        "2024-05-01T10:00:00.Z",
        "2024-05-01T10:00:00.1234567890Z",
        "2024-05-01T10:00:00Z\n",
        " 2024-05-01T10:00:00Z",
        "２０２４-05-01",
        "0000-00-00T00:00:00Z",
        "0000-02-30T00:00:00Z",
        "0000-01-01T24:00:00Z",
        "-0001-11-30T00:00:00Z",
        "10000-01-01T00:00:00Z",
        "+12024-05-01T00:00:00Z",
        "-2024-05-01T00:00:00Z",
        "2024-05-01T10:00:00Z" + " " * 100,
        "9" * 10_000,
    ),
]

_NUMBERS = ['"1"', '""', "true", "false", "[]", "[1]", "{}", "NaN", "Infinity", "-Infinity", "1e400", "-1", "-0.001"]
_NUMBERS += ["1" + 30 * "0", "1" + 400 * "0"]
SECONDS = [*_NUMBERS, "172800.001", "172801"]
AGES_MS = [*_NUMBERS, "31622400001"]
SPANS_MS = [*_NUMBERS, "172800001"]
REVS = ['"1"', "true", "1.0", "-1", "9007199254740992", "1" + 30 * "0", "1e400", "NaN", "Infinity", "[]", "{}"]
SEQS = ["null", "0", *REVS]
SESSIONS = [*NO_TEXT, *_texts("", " ", "a b", "é", "a\n", "a/b", "a:b", "x" * 65, "x" * 10_000, "\x00")]
DEVICES = [*NO_TEXT, *_texts("", "a\n", "a/b", "é", "<b>", "x" * 65, "\x00")]
TITLES = [*NO_TEXT, *_texts("", " ", "\t\n", "\u2003", "x" * 301, "x" * 100_000)]
BOOLS = ["0", "1", '"true"', '""', "1.0", "[]", "{}", "NaN"]
STATES = ['""', '"PLAYING"', '"playing\\n"', '"stopped"', "1", "true", "[]", "{}", '["playing"]', "NaN"]
PLAYED = [
    '"x"',
    "{}",
    "1",
    "true",
    "[1]",
    "[1, 2]",
    "[[]]",
    "[[1]]",
    "[[1, 2, 3]]",
    "[null]",
    '["12"]',
    "[{}]",
    '[{"0": 1, "1": 2}]',
    '[["1", "2"]]',
    "[[true, 2]]",
    "[[null, 2]]",
    "[[0, NaN]]",
    "[[NaN, NaN]]",
    "[[0, Infinity]]",
    "[[0, 1e400]]",
    "[[-Infinity, 1]]",
    "[[-1, 1]]",
    "[[-0.001, 1]]",
    "[[0, 172800.001]]",
    "[[0, 1" + 30 * "0" + "]]",
    "[[5, 4]]",
    "[[0, 1], [9, 8.999]]",
    "[" + ", ".join(["[0, 1]"] * 513) + "]",
]

# Not numbers in JSON, or not values at all; they must not be accepted.
NOT_JSON = {
    "empty": b"",
    "blank": b" \n",
    "cut short": b'{"userId": "',
    "not closed": b"{",
    "words": b"userId=1&videoId=2",
    "single quotes": b"{'userId': 1}",
    "a trailing comma": b'{"userId": 1,}',
    "two values": b"{} {}",
    "a comment": b"{} // yes",
    "nan in lower case": b'{"watchedDuration": nan}',
    "hex": b'{"watchedDuration": 0x10}',
    "a leading zero": b'{"watchedDuration": 010}',
    "a leading plus": b'{"watchedDuration": +1}',
    "a key twice": b'{"userId": "a", "userId": "b"}',
    "a key twice, deep": b'{"x": [{"y": 1, "y": 1}]}',
    "a key twice, once escaped": b'{"userId": 1, "user\\u0049d": 2}',
    "deep nesting of lists": b"[" * 100_000,
    "deep nesting, closed": b"[" * 10_000 + b"]" * 10_000,
    "deep nesting of objects": b'{"a":' * 20_000,
    "a number of 5,000 digits": b'{"watchedDuration": ' + b"9" * 5_000 + b"}",
    "invalid UTF-8": b'{"userId": "\xff\xfe"}',
    "an overlong encoding": b'{"userId": "\xc0\xaf"}',
    "an encoded surrogate": b'{"userId": "\xed\xa0\x80"}',
    "half a surrogate pair": b'{"userId": "\\ud800"}',
    "a byte order mark": b'\xef\xbb\xbf{"userId": 1}',
    "UTF-16": '{"userId": 1}'.encode("utf-16"),
    "a control character": b'{"userId": "\n"}',
    "a zero byte": b'{"userId": "\x00"}',
    "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
}
NO_OBJECT = [b"[]", b"[{}]", b'"text"', b"null", b"true", b"5", b"1.5", b"NaN", b"Infinity"]
HEARTBEAT_FIELDS: list[tuple[str, list[str]]] = [
    ("videoId", IDS),
    ("position", SECONDS),
    ("played", PLAYED),
    ("duration", SECONDS),
    ("durationFinal", BOOLS),
    ("age", AGES_MS),
    ("span", SPANS_MS),
    ("seek", BOOLS),
    ("state", STATES),
    ("watchedDuration", [value for value in WHOLE_SECONDS if value != "null"]),
    ("lastWatched", [value for value in INSTANTS if value != "null"]),
]
"""The fields of a heartbeat, and values that each must refuse."""
