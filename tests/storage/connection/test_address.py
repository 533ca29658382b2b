"""URLs of a store. An invalid one is refused with a sentence that repeats no part of a password."""

import re
from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from redis.asyncio.connection import SSLConnection

from playhead.storage.connection.address import Address, parse_address


def test_all_forms_of_urls() -> None:
    """One server, sentinels and a cluster, with default ports, and with the options of store and sentinels."""
    assert parse_address("redis://host:7000/2").kind == "single"
    assert parse_address("unix:///run/s?db=1").options["path"] == "/run/s"
    assert parse_address("redis+cluster://a:7000,b,[::1]:7002") == Address(
        "cluster", (("a", 7000), ("b", 6379), ("::1", 7002)), options={"host": "host"}
    )
    cluster = parse_address("rediss+cluster://me:p%40ss@a:7000/?ssl_ca_certs=ca.pem")
    assert (cluster.hosts, cluster.options["username"], cluster.options["password"]) == ((("a", 7000),), "me", "p@ss")
    assert (cluster.options["connection_class"], cluster.options["ssl_ca_certs"]) == (SSLConnection, "ca.pem")
    sentinel = parse_address("redis+sentinel://me:pw@a,b:5000/progress/3?sentinel_password=other")
    assert (sentinel.kind, sentinel.hosts, sentinel.service) == ("sentinel", (("a", 26379), ("b", 5000)), "progress")
    assert (sentinel.options["password"], sentinel.options["db"]) == ("pw", 3)
    assert sentinel.sentinel_options == {"password": "other"}
    assert parse_address("rediss+sentinel://a/progress?ssl_ca_certs=ca.pem").sentinel_options == {
        "ssl": True,
        "ssl_ca_certs": "ca.pem",
    }


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://host", "should begin with redis://"),
        ("redis+clusters://host", "should begin with redis://"),
        ("unix+cluster://path", "should begin with redis://"),
        ("+cluster://path", "should begin with redis://"),
        ("cluster", "should begin with redis://"),
        ("redis+cluster://", "number 1 of its comma-separated hosts is not host"),
        ("redis+cluster://a,,b", "number 2 of its comma-separated hosts is not host"),
        ("redis+cluster://a,b:port", "number 2 of its comma-separated hosts is not host"),
        ("redis+cluster://a,b:99999", "number 2 of its comma-separated hosts is not host"),
        ("redis+cluster://a/1", "no database other than 0"),
        ("redis+cluster://a?db=1", "no database other than 0"),
        ("redis+cluster://a?sentinel_password=x", "redis+sentinel://"),
        ("redis+sentinel://a", "name the service after the sentinels"),
        ("redis+sentinel://a/", "name the service after the sentinels"),
        ("redis+sentinel://a/progress?socket_timeout=soon", "socket_timeout"),
        ("redis://host?decode_responses=1", "records are binary"),
        ("redis+cluster://a?decode_responses=1", "records are binary"),
        ("redis://host:port", "not host or host:port"),
        ("redis://host:", "not host or host:port"),
        ("redis://host:0", "not host or host:port"),
        ("redis://host:65536", "not host or host:port"),
        ("redis://host:-1", "not host or host:port"),
        ("redis://ho st", "%20 for a space"),
        ("redis://host\n", "control character"),
        ("redis://a,b", "for several hosts use redis+sentinel:// or redis+cluster://"),
        ("redis://[::1", "IPv6 address should be in brackets"),
        ("redis://::1", "not host or host:port"),
        ("redis://[::g]", "IPv6 address should be in brackets"),
        ("redis://host/one", "not the number of a database"),
        ("redis://host/1/2/x", "not the number of a database"),
        ("redis://host/-1", "not the number of a database"),
        ("redis://host/99999999999", "not the number of a database"),
        ("redis://host#1", "%23 for #"),
        ("redis://host?db=", "option db has no value"),
        ("redis://host?db", "option db has no value"),
        ("redis://host?db=1&db=2", "option db is given twice"),
        ("redis://host?db=-1", "option db should be an integer from 0"),
        ("redis://host?sokket_timeout=1", "unknown option 'sokket_timeout'.*socket_timeout"),
        ("redis://host?host=other", "unknown option 'host'"),
        ("redis://host?connection_class=x", "unknown option 'connection_class'"),
        ("redis://host?socket_timeout=nan", "option socket_timeout should be a number of seconds"),
        ("redis://host?socket_timeout=0", "option socket_timeout should be a number of seconds"),
        ("redis://host?timeout=inf", "option timeout should be a number of seconds"),
        ("redis://host?max_connections=0", "option max_connections should be an integer from 1"),
        ("redis://host?protocol=4", "option protocol should be an integer from 2 to 3"),
        ("redis://host?retry_on_timeout=perhaps", "option retry_on_timeout should be true or false"),
        ("redis://host?ssl_ca_certs=ca.pem", "option ssl_ca_certs is for rediss://"),
        ("unix:///run/s?ssl_ca_certs=ca.pem", "option ssl_ca_certs is for rediss://"),
        ("unix:///run/s?socket_keepalive=1", "option socket_keepalive is not for a unix socket"),
        ("unix://run/s", "absolute"),
        ("unix://", "absolute"),
        ("rediss://host?ssl_cert_reqs=maybe", "option ssl_cert_reqs should be none or optional or required"),
        ("rediss://host?ssl_check_hostname=maybe", "option ssl_check_hostname should be true or false"),
        ("rediss://host?ssl_min_version=7", "option ssl_min_version should be 771"),
        ("rediss://host?ssl_include_verify_flags=STRICT", "ssl_include_verify_flags should be comma-separated names"),
        ("redis://host?sentinel_password=x", "redis+sentinel://"),
        ("redis+sentinel://a/progress?sentinel_pasword=x", "unknown option 'sentinel_pasword'"),
        ("redis+sentinel://a/progress?sentinel_socket_timeout=1", "unknown option 'sentinel_socket_timeout'"),
        ("redis+sentinel://a/progress/one", "not the number of a database"),
    ],
)
def test_an_invalid_url_is_refused(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=said.replace("+", r"\+").replace("?", r"\?")):
        parse_address(url)


def test_ipv6_names_with_underscores_and_this_machine() -> None:
    assert parse_address("redis://[::1]:7000/1").options == {"host": "::1", "port": 7000, "db": 1}
    assert parse_address("redis://[fe80::1%25eth0]").options == {"host": "fe80::1%eth0"}
    assert parse_address("redis://my_redis.svc").options == {"host": "my_redis.svc"}
    assert parse_address("redis://:pw@/2").options == {"password": "pw", "db": 2}
    assert parse_address("redis://").options == {}


def test_options_have_their_intended_values() -> None:
    """Also those that redis-py would take for the opposite."""
    found = parse_address("rediss://h?ssl_check_hostname=off&socket_timeout=2.5&socket_keepalive=no&protocol=3&db=4")
    assert {name: value for name, value in found.options.items() if name not in ("host", "connection_class")} == {
        "ssl_check_hostname": False,
        "socket_timeout": 2.5,
        "socket_keepalive": False,
        "protocol": 3,
        "db": 4,
    }


def test_user_and_password_of_a_unix_socket() -> None:
    found = parse_address("unix://me:p%40ss@/run/a%20b@c?db=3")
    assert {name: found.options[name] for name in ("username", "password", "path", "db")} == {
        "username": "me",
        "password": "p@ss",
        "path": "/run/a b@c",
        "db": 3,
    }


PIECES = ["zq", "7x", *"/?#@:[]%,;=& \t", "\u2100", "%2", "%zz", "é"]
"""Characters of passwords that were not percent-encoded; errors that repeat a password are found by the first two."""


@given(
    scheme=st.sampled_from(["redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "radis"]),
    user=st.sampled_from(["", "me"]),
    password=st.lists(st.sampled_from(PIECES), min_size=1, max_size=8).map("".join),
    host=st.sampled_from(["host", "host:6379", "[::1]:6379", "[::1", "a,b:1", "h:x", "", "10.0.0.1:99999"]),
    end=st.sampled_from(["", "/0", "/service", "/service/1", "?db=1", "/0?ssl_ca_certs=x", "?foo=1", "?db=x"]),
)
@example("redis", "me", "7x:zq/", "host", "")
@example("redis+cluster", "me", "6379/zq", "host", "")
@example("redis", "me", "6379/zq", "host", "")
@example("redis", "me", "6379?zq=1", "host", "")
@example("redis", "me", "6379?client_name=zq", "host", "")
@example("redis", "me", "zq\u2100", "host", "")
@example("redis", "me", "zq[", "host", "")
def test_no_error_repeats_a_part_of_the_password(scheme: str, user: str, password: str, host: str, end: str) -> None:
    """If the URL is accepted, the password is complete, and no part of it is taken for a host, which connection errors
    name."""
    refusal, found = "", None
    try:
        found = parse_address(f"{scheme}://{user}:zq{password}@{host}{end}")
    except ValueError as error:
        refusal = str(error)
    assert not re.search("zq|7x", refusal)
    if found is not None:
        assert found.options["password"] == unquote(f"zq{password}")
        assert not re.search("zq|7x", f"{found.hosts} {found.service} {found.options.get('host')}")
