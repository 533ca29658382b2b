"""Settings: what is unsafe together is refused, and derived values follow from the settings."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from playhead.server.settings import ENV_PREFIX, Settings

SECRET = "9f2c7d1e8ab3465098fedc7612ab34de"
KEY = Path("key.pem")
URL = "https://issuer.example/jwks"
PUBLIC: dict[str, Any] = {"host": "192.0.2.1", "jwt_secret": SECRET, "allowed_origins": "https://a.example"}


def settings(**given: Any) -> Settings:
    """Settings as the environment could give them."""
    return Settings(**given)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"jwt_secret": SECRET, "jwt_key_file": KEY}, "exclude each other"),
        ({"jwt_key_file": KEY, "jwt_jwks_url": URL, "jwt_algorithm": "RS256"}, "exclude each other"),
        ({"jwt_secret": SECRET, "jwt_algorithm": "RS256"}, "needs a public key"),
        ({"jwt_key_file": KEY, "jwt_algorithm": "HS256"}, "must not be used as a shared secret"),
        ({"jwt_jwks_url": URL, "jwt_audience": "playhead"}, "needs jwt_algorithm"),
        ({"jwt_jwks_url": URL, "jwt_algorithm": "RS256"}, "needs jwt_audience"),
        ({"jwt_secret": SECRET, "jwt_audience": "playhead", "jwt_any_audience": True}, "exclude each other"),
        ({"jwt_algorithm": "RS256"}, "set without a key"),
        ({"jwt_issuer": "https://issuer.example"}, "set without a key"),
        ({"jwt_secret": "short"}, "shorter than 32 bytes"),
        ({"jwt_secret": "ab" * 20}, "can be guessed"),
        ({"jwt_secret": "change-me-change-me-change-me-change-me"}, "jwt_secret"),
        ({"drain_timeout_s": 4, "drain_notice_s": 1.1}, "more than a quarter"),
        ({"durability": "replicas:1"}, "the embedded store has no replicas"),
        ({"durability": "paper"}, "durability"),
        ({"host": "0.0.0.0"}, "needs authentication"),
        ({"host": "192.0.2.1", "jwt_secret": SECRET}, "needs allowed_origins"),
        ({"allowed_origins": "academy.example"}, "allowed_origins"),
        ({"trusted_proxies": "10.0.0.1/8"}, "trusted_proxies"),
        ({"key_prefix": "a b"}, "key_prefix"),
        ({"no_such_setting": 1}, "no_such_setting"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value,
)
def test_settings_that_are_unsafe_or_wrong_are_refused(given: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why) as caught:
        settings(**given)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [
        {"jwt_jwks_url": URL, "jwt_algorithm": "RS256", "jwt_audience": "playhead"},
        {"jwt_jwks_url": URL, "jwt_algorithm": "RS256", "jwt_issuer": "https://issuer.example"},
        {"jwt_jwks_url": URL, "jwt_algorithm": "RS256", "jwt_any_audience": True},
        {"jwt_secret": SECRET, "jwt_algorithm": "HS256"},
        {"durability": "replicas:1", "redis_url": "redis://127.0.0.1"},
        {"drain_timeout_s": 4, "drain_notice_s": 1},
        PUBLIC,
        {**PUBLIC, "host": "::"},
        {"host": "localhost"},
        {"host": "::1"},
    ],
)
def test_settings_that_are_safe_are_accepted(given: dict[str, Any]) -> None:
    assert settings(**given)


def test_lists_are_written_with_commas() -> None:
    made = settings(allowed_origins="https://A.example, https://b.example:443,", trusted_proxies="10.0.0.1,fd00::/8")
    assert made.allowed_origins == ("https://a.example", "https://b.example")
    assert made.trusted_proxies == ("10.0.0.1/32", "fd00::/8")


@pytest.mark.parametrize(
    ("network", "kept"),
    [("::ffff:10.0.0.0/104", "10.0.0.0/8"), ("::ffff:10.1.2.3", "10.1.2.3/32"), ("::/96", "::/96"), ("::/0", "::/0")],
)
def test_a_proxy_that_is_ipv4_mapped_into_ipv6_is_plain_ipv4(network: str, kept: str) -> None:
    assert settings(trusted_proxies=network).trusted_proxies == (kept,)


def test_ancestors_are_origins_or_self() -> None:
    assert settings(frame_ancestors="self, https://a.example").frame_ancestors == ("'self'", "https://a.example")
    assert settings(frame_ancestors="'self'").frame_ancestors == ("'self'",)
    with pytest.raises(ValidationError, match="frame_ancestors"):
        settings(frame_ancestors="everyone")


def test_the_environment_gives_settings_and_arguments_take_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{ENV_PREFIX}PORT", "8123")
    monkeypatch.setenv(f"{ENV_PREFIX}ALLOWED_ORIGINS", "https://a.example,https://b.example")
    assert settings().port == 8_123
    assert settings(port=8_124).port == 8_124
    assert len(settings().allowed_origins) == 2


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        settings().port = 1  # type: ignore[misc]  # what the test is about


def test_no_secret_is_in_the_repr() -> None:
    made = settings(jwt_secret=SECRET, redis_url="redis://:hidden@127.0.0.1")
    assert SECRET not in repr(made)
    assert "hidden" not in repr(made)


@pytest.mark.parametrize(
    ("given", "foreign"),
    [
        ({}, False),
        ({"jwt_secret": SECRET}, False),
        ({"jwt_key_file": KEY}, True),
        ({"jwt_key_file": KEY, "jwt_audience": "playhead"}, False),
        ({"jwt_key_file": KEY, "jwt_any_audience": True}, False),
    ],
)
def test_tokens_for_other_services_are_accepted_only_by_mistake_without_an_audience(
    given: dict[str, Any], foreign: bool
) -> None:
    """A shared secret has no other services, unless the operator gives it to them."""
    assert settings(**given).foreign_tokens is foreign
    assert settings(**given).auth is bool(given)


@pytest.mark.parametrize(
    ("given", "share"),
    [({}, 4_000), ({"max_pending_reports": 1_000}, 250), ({"max_pending_reports": 1}, 1)],
)
def test_a_user_has_a_quarter_of_the_pending_reports_at_most(given: dict[str, Any], share: int) -> None:
    assert settings(**given).user_pending_reports == share


@pytest.mark.parametrize(
    ("given", "demo"),
    [
        ({}, True),
        ({"host": "localhost"}, True),
        ({"trusted_proxies": "10.0.0.1"}, False),
        (PUBLIC, False),
        ({**PUBLIC, "host": "service.example"}, False),
        ({**PUBLIC, "demo": True}, True),
        ({"demo": False}, False),
    ],
    ids=["default", "by name", "behind a proxy", "public", "a public name", "wanted", "unwanted"],
)
def test_the_demo_is_served_to_this_machine_only_unless_it_is_wanted(given: dict[str, Any], demo: bool) -> None:
    assert settings(**given).serves_demo is demo


def test_the_threshold_is_in_thousandths() -> None:
    assert settings().threshold_permille == 900
    assert settings(completion_threshold=0.0004).threshold_permille == 0
    assert settings(completion_threshold=1).threshold_permille == 1_000
