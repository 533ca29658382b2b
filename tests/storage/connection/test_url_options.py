"""The query parameters of a store's URL."""

from pathlib import Path
from urllib.parse import quote

import pytest

from playhead.storage.connection.url_options import READERS, check_tls, read_options
from playhead.storage.store import open_store
from tests.storage.authority import Authority


def test_options_have_the_types_that_redis_py_takes() -> None:
    query = "db=2&socket_timeout=1.5&socket_keepalive=yes&client_name=a%20b&protocol=3"
    assert read_options(query, "redis") == {
        "db": 2,
        "socket_timeout": 1.5,
        "socket_keepalive": True,
        "client_name": "a b",
        "protocol": 3,
    }


@pytest.mark.parametrize("name", READERS)
def test_an_option_without_a_value_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"the option {name} has no value"):
        read_options(f"{name}=", "rediss")


def test_an_error_repeats_no_value() -> None:
    """Not even an unknown name, if it may be the end of a password with an unescaped `?`."""
    with pytest.raises(ValueError, match="option db") as invalid:
        read_options("db=s3cret", "redis")
    with pytest.raises(ValueError, match="unknown option") as unknown:
        read_options("s3cret@host", "redis")
    assert "s3cret" not in f"{invalid.value} {unknown.value}"


def test_tls_files_are_read_at_startup(tmp_path: Path) -> None:
    """Each error names the option. OpenSSL asks for no passphrase on the terminal."""
    (tmp_path / "text").write_text("no certificate")
    authority = Authority(tmp_path, "ours")
    certificate, key = authority.issue("client")
    _, other = authority.issue("other")
    good = {"ssl_ca_certs": str(authority.path), "ssl_certfile": str(certificate), "ssl_keyfile": str(key)}
    check_tls(good | {"ssl_cert_reqs": "required", "ssl_min_version": 771})
    for bad in (
        {"ssl_ca_certs": "/nowhere"},
        {"ssl_ca_certs": str(tmp_path / "text")},
        {"ssl_ca_path": "/nowhere"},
        {"ssl_ca_data": "no certificate"},
        {"ssl_certfile": "/nowhere"},
        {"ssl_certfile": str(certificate), "ssl_keyfile": str(other)},
        {"ssl_keyfile": str(key)},
        {"ssl_ciphers": "ROT13"},
    ):
        with pytest.raises(ValueError, match=next(iter(bad))):
            check_tls(bad)
    with pytest.raises(ValueError, match="ssl_ca_certs"):
        open_store(f"rediss://host?ssl_ca_certs={quote(str(tmp_path / 'text'))}", worker="w")


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("ssl_cert_reqs=maybe", "required"),
        ("ssl_min_version=770", "771"),
        ("ssl_min_version=TLSv1.2", "771"),
    ],
)
def test_a_value_that_is_none_of_the_possible_ones_is_refused_with_them(query: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_options(query, "rediss")
