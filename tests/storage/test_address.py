"""What a store's URL may say; what it may not is refused in a sentence that repeats nothing of a password."""

import pytest
from redis.asyncio.connection import SSLConnection

from storage.address import Address, parse_address


def test_forms() -> None:
    """One server, sentinels, a cluster; ports that are not given; what belongs to whom."""
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
        ("redis+cluster://", "number 1 is not host"),
        ("redis+cluster://a,,b", "number 2 is not host"),
        ("redis+cluster://a,b:port", "number 2 is not host"),
        ("redis+cluster://a,b:99999", "number 2 is not host"),
        ("redis+cluster://a/1", "no database but 0"),
        ("redis+cluster://a?db=1", "no database but 0"),
        ("redis+cluster://a?sentinel_password=x", "redis+sentinel://"),
        ("redis+sentinel://a", "name their service"),
        ("redis+sentinel://a/", "name their service"),
        ("redis+sentinel://a/progress?socket_timeout=soon", "socket_timeout"),
        ("redis://host?decode_responses=1", "records are not text"),
        ("redis+cluster://a?decode_responses=1", "records are not text"),
    ],
)
def test_what_is_no_url_of_a_store_is_refused(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=said.replace("+", r"\+")):
        parse_address(url)


@pytest.mark.parametrize("url", ["redis+cluster://me:q7/z9@a", "redis+sentinel://me:q7#z9@a/s", "q7+z9://me:q7@a"])
def test_a_refusal_repeats_no_password(url: str) -> None:
    with pytest.raises(ValueError, match=r"^(?!.*(q7|z9))"):
        parse_address(url)
