"""The query parameters of a store's URL: options of redis-py's connections, each validated before use.

redis-py accepts any name, and then fails with a traceback on connecting or misinterprets the value. Here an invalid
option ends startup with a sentence that names it. No sentence repeats a value, because it may be a secret.
"""

import math
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from redis.asyncio.connection import RedisSSLContext, parse_ssl_verify_flags

BOOLS = {
    **dict.fromkeys(("1", "true", "t", "yes", "y", "on"), True),
    **dict.fromkeys(("0", "false", "f", "no", "n", "off"), False),
}
LONGEST_S = 3_600.0
TLS = "ssl_"


class _Wrong(ValueError):
    """A value is invalid; the text says what it should be."""


def _text(value: str) -> str:
    return value


def _bool(value: str) -> bool:
    try:
        return BOOLS[value.lower()]
    except KeyError:
        raise _Wrong("true or false") from None


def _seconds(value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= LONGEST_S:
        raise _Wrong(f"a number of seconds, more than 0 and at most {LONGEST_S:g}")
    return seconds


def _whole(low: int, high: int) -> Callable[[str], int]:
    def read(value: str) -> int:
        number = int(value) if value.isascii() and value.isdecimal() and len(value) < 12 else -1
        if not low <= number <= high:
            raise _Wrong(f"an integer from {low} to {high}")
        return number

    return read


def _one_of(*words: str) -> Callable[[str], str]:
    def read(value: str) -> str:
        if value not in words:
            raise _Wrong(" or ".join(words))
        return value

    return read


def _tls_version(value: str) -> int:
    if value not in ("771", "772"):
        raise _Wrong("771 (TLS 1.2) or 772 (TLS 1.3)")
    return ssl.TLSVersion(int(value))


def _verify_flags(value: str) -> Any:
    try:
        return parse_ssl_verify_flags(value)  # type: ignore[no-untyped-call] # redis-py has no types here
    except ValueError:
        raise _Wrong("comma-separated names of ssl.VerifyFlags, such as VERIFY_X509_STRICT") from None


READERS: Mapping[str, Callable[[str], Any]] = {
    "db": _whole(0, 2**31 - 1),
    "username": _text,
    "password": _text,
    "client_name": _text,
    "socket_timeout": _seconds,
    "socket_connect_timeout": _seconds,
    "socket_keepalive": _bool,
    "socket_read_size": _whole(1_024, 16_777_216),
    "retry_on_timeout": _bool,
    "health_check_interval": _whole(0, 86_400),
    "max_connections": _whole(1, 65_535),
    "timeout": _seconds,
    "protocol": _whole(2, 3),
    "ssl_keyfile": _text,
    "ssl_certfile": _text,
    "ssl_password": _text,
    "ssl_cert_reqs": _one_of("none", "optional", "required"),
    "ssl_ca_certs": _text,
    "ssl_ca_path": _text,
    "ssl_ca_data": _text,
    "ssl_check_hostname": _bool,
    "ssl_min_version": _tls_version,
    "ssl_ciphers": _text,
    "ssl_include_verify_flags": _verify_flags,
    "ssl_exclude_verify_flags": _verify_flags,
    "sentinel_username": _text,
    "sentinel_password": _text,
}
_CHECKED_TOGETHER: Mapping[tuple[str, ...], str] = {
    ("certfile", "keyfile", "password"): "the options ssl_certfile and ssl_keyfile should be a certificate and its key",
    ("ca_certs",): "the option ssl_ca_certs should be a file of PEM certificates",
    ("ca_data",): "the option ssl_ca_data should be PEM certificates",
    ("ciphers",): "the option ssl_ciphers should be OpenSSL's names of ciphers",
}
NOT_BY_SOCKET_FILE = ("socket_keepalive",)


def read_options(query: str, scheme: str) -> dict[str, Any]:
    """Parse and validate a query string.

    Args:
        query: the part of the URL after the `?`.
        scheme: redis, rediss or unix.

    Raises:
        ValueError: an option is unknown, has no value or an invalid one, is given twice, or is not for this scheme.
    """
    # After an unescaped ? in a password, the rest of the password looks like options and holds an @: do not repeat it.
    hidden = "it has an unknown option (in user and password write %3F for ? and %40 for @)"
    options: dict[str, Any] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name == "decode_responses":
            raise ValueError("the option decode_responses is not supported, because records are binary")
        if name not in READERS:
            known = ", ".join(READERS)
            raise ValueError(hidden if "@" in query else f"it has an unknown option {name[:40]!r}; known are {known}")
        if not value:
            raise ValueError(f"the option {name} has no value")
        if name in options:
            raise ValueError(f"the option {name} is given twice")
        if name.startswith(TLS) and scheme != "rediss":
            raise ValueError(f"the option {name} is for rediss:// (TLS) only")
        if scheme == "unix" and name in NOT_BY_SOCKET_FILE:
            raise ValueError(f"the option {name} is not for a unix socket")
        try:
            options[name] = READERS[name](value)
        except _Wrong as error:
            raise ValueError(f"the option {name} should be {error}") from None
    return options


def check_tls(options: Mapping[str, Any]) -> None:
    """Read the files that TLS options name, as each connection will do.

    Raises:
        ValueError: a file can't be read, or does not have the expected contents.
    """
    tls = {name.removeprefix(TLS): value for name, value in options.items() if name.startswith(TLS)}
    if not tls:
        return
    if "keyfile" in tls and "certfile" not in tls:
        raise ValueError("the option ssl_keyfile needs ssl_certfile, the certificate of that key")
    if "ca_path" in tls and not Path(tls["ca_path"]).is_dir():
        raise ValueError("the option ssl_ca_path should be a directory of certificates")
    for names, wrong in _CHECKED_TOGETHER.items():
        part = {name: value for name, value in tls.items() if name in names}
        if "certfile" in part:
            part.setdefault("password", "")  # otherwise OpenSSL would ask for a key's passphrase on the terminal
        try:
            if part:
                RedisSSLContext(**part).get()
        except (OSError, ValueError, TypeError) as error:
            why = getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__
            raise ValueError(f"{wrong} ({why})") from None
