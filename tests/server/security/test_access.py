"""Who is charged for a request, and which query strings hold a token."""

import pytest

from playhead.server.clock import system_clock
from playhead.server.limits.body_memory import Kind, Payer
from playhead.server.limits.rates import TooFast
from playhead.server.security.access import Access, address_of, has_token_in_url
from playhead.server.security.identity import ANYBODY, PROGRESS_ANY, Identity
from playhead.server.settings import Settings
from tests.security.issuer import SECRET

LEARNER = Identity("a learner", "a learner", frozenset())
SERVICE = Identity("a service", None, frozenset((PROGRESS_ANY,)))
ADDRESS = "203.0.113.7"


def access(**settings: object) -> Access:
    return Access(Settings.model_validate(settings), system_clock)


def test_users_pay_for_themselves_and_strangers_by_address() -> None:
    guarded = access(jwt_secret=SECRET)
    assert guarded.payer_at(ADDRESS, LEARNER) == Payer(Kind.USER, "a learner")
    assert guarded.payer_at(ADDRESS, SERVICE) == Payer(Kind.SERVICE, "a service")
    assert guarded.payer_at(ADDRESS, None) == Payer(Kind.ADDRESS, ADDRESS)
    assert access().payer_at(ADDRESS, ANYBODY) == Payer(Kind.ADDRESS, ADDRESS)


def test_services_are_exempt_from_the_rate_limit() -> None:
    guarded = access(jwt_secret=SECRET, requests_burst=1, requests_per_s=0.01)
    user, service = (guarded.payer_at(ADDRESS, identity) for identity in (LEARNER, SERVICE))
    for _ in range(3):
        guarded.large_read(service).admit(1_000)
    guarded.large_read(user).admit(500)
    with pytest.raises(TooFast):
        guarded.large_read(user).admit(500)
    guarded.large_read(user, refuse=False).admit(500)


@pytest.mark.parametrize(
    ("client", "address"),
    [(("203.0.113.7", 1), "203.0.113.7"), (("2001:db8::1:2", 1), "2001:db8::/64"), (None, "")],
    ids=["IPv4", "IPv6", "unix socket"],
)
def test_an_address_is_a_network(client: tuple[str, int] | None, address: str) -> None:
    assert address_of({"client": client}) == address


@pytest.mark.parametrize("query", [b"token=x", b"a=1&access_token=x", b"JWT=x", b"bearer", b"Authorization=Bearer%20x"])
def test_a_token_in_a_query_string_is_found(query: bytes) -> None:
    assert has_token_in_url(query)


@pytest.mark.parametrize("query", [b"", b"detail=full", b"since=1&epoch=token", b"tokens=x"])
def test_other_query_strings_hold_no_token(query: bytes) -> None:
    assert not has_token_in_url(query)
