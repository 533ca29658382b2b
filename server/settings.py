"""Every setting, once, validated, refusing what is unsafe. Environment: PLAYHEAD_ and the name in capitals."""

from ipaddress import IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from playhead.server.origin import parse_origin
from playhead.server.secret_strength import MIN_BITS, entropy_bits, is_placeholder
from playhead.storage.guarantees.durability import Level

ENV_PREFIX = "PLAYHEAD_"
MIN_SECRET_BYTES = 32
"""As long as HS256's hash (RFC 7518, 3.2)."""


def _split(value: Any) -> Any:
    """`a, b` as the environment and the command line give a list."""
    return [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value


def _ancestor(value: str) -> str:
    return "'self'" if value.strip("'") == "self" else parse_origin(value)


def _network(value: str) -> str:
    """IPv4 as such, also where it is written as mapped into IPv6: so peers are told."""
    network = ip_network(value)
    if isinstance(network, IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return str(ip_network((mapped, network.prefixlen - 96)))
    return str(network)


def _durability(value: str) -> str:
    return Level.parse(value).name


def _refuse_weak(secret: str) -> None:
    """Raises ValueError: too short, or not random."""
    remedy = "`openssl rand -hex 32` makes one"
    if len(secret.encode()) < MIN_SECRET_BYTES:
        raise ValueError(f"jwt_secret should have {MIN_SECRET_BYTES} bytes or more: {remedy}")
    if is_placeholder(secret):
        raise ValueError(f"jwt_secret is the placeholder of an example: {remedy}")
    if entropy_bits(secret.encode()) < MIN_BITS:
        raise ValueError(f"jwt_secret repeats itself or follows a pattern, so it can be guessed: {remedy}")


Durability = Annotated[str, AfterValidator(_durability)]
Origins = Annotated[tuple[Annotated[str, AfterValidator(parse_origin)], ...], NoDecode, BeforeValidator(_split)]
Ancestors = Annotated[tuple[Annotated[str, AfterValidator(_ancestor)], ...], NoDecode, BeforeValidator(_split)]
Networks = Annotated[tuple[Annotated[str, AfterValidator(_network)], ...], NoDecode, BeforeValidator(_split)]


class Settings(BaseSettings):
    """Frozen; built once by whoever starts the service. Units are in the names."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="forbid", hide_input_in_errors=True)

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65_535)
    workers: int = Field(default=1, ge=1, le=64)
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    data_dir: Path = Path("data")
    """Where the embedded store keeps its files."""
    redis_url: str | None = Field(default=None, repr=False)
    """A Redis or Valkey to use instead of the embedded one, with sentinels, or a cluster.

    See storage/connection/address.py.
    """
    durability: Durability | None = None
    """When a heartbeat counts as stored: memory, fsync or replicas:N (see storage/guarantees/durability.py).
    Default: fsync on the embedded store, memory on another."""
    key_prefix: str = Field(default="ph", pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    store_timeout_s: float = Field(default=5.0, gt=0, le=60)

    jwt_secret: SecretStr | None = None
    """Verify tokens by this shared secret (HS256): 32 random bytes or more, as `openssl rand -hex 32` makes them."""
    jwt_key_file: Path | None = None
    """Verify tokens by this public key (PEM): RSA, P-256 or Ed25519."""
    jwt_jwks_url: str | None = None
    """Verify tokens by the key set at this https URL."""
    jwt_algorithm: Literal["HS256", "RS256", "ES256", "EdDSA"] | None = None
    """The one algorithm that is accepted. A secret means HS256, a key file what its key is for; a key set needs it."""
    jwt_issuer: str | None = None
    """If set, the `iss` that every token must have."""
    jwt_audience: str | None = None
    """If set, an `aud` that every token must have. A key set needs this or the issuer."""
    jwt_any_audience: bool = False
    """Accept whatever the issuer of a key set or key file signs, also what it signs for other services."""
    jwt_leeway_s: float = Field(default=5.0, ge=0, le=120)
    """How far the clock of the issuer may be off."""
    token_notice_s: float = Field(default=60.0, gt=0, le=3_600)
    """How long before its token expires a connection is told so; half of what is left, where that is less."""
    allowed_origins: Origins = ()
    """Pages that may connect, such as https://academy.example; our own may always."""
    trusted_proxies: Networks = ()
    """Addresses or networks whose X-Forwarded-For and X-Forwarded-Proto are believed."""
    demo: bool | None = None
    """Serve the demo player at `/`. Default: only on a loopback address that no trusted proxy serves to others."""
    frame_ancestors: Ancestors = ()
    """Pages that may show ours in a frame: `self`, or origins such as https://academy.example. Default: none."""

    heartbeat_interval_s: float = Field(default=5.0, ge=0.1, le=60)
    """What players are told to keep."""
    flush_interval_s: float = Field(default=1.0, ge=0.01, le=60)
    completion_threshold: float = Field(default=0.9, gt=0, le=1)
    min_audience: int = Field(default=5, ge=1)
    """Callers without the scope `analytics` or `progress:any` see a video's summary from so many viewers on, and see it
    change only when so many more have come: else two summaries would tell what a single viewer watched. Set it above
    the number of accounts that one person may have. 1 shows everybody the figures of now. Without tokens everybody has
    these scopes."""
    max_rate: float = Field(default=4.0, ge=1, le=16)
    """The fastest playback that is believed."""

    max_connections: int = Field(default=20_000, ge=1)
    """WebSockets of one process that have said a valid hello."""
    max_connections_per_address: int = Field(default=2_000, ge=1)
    """The same of one address. An IPv6 address counts as its /64 network. A campus behind one address needs its number
    of players."""
    max_connections_per_user: int = Field(default=32, ge=1)
    max_newcomers: int = Field(default=5_000, ge=1)
    """WebSockets of one process that have not said a valid hello yet. Beyond it the oldest of them is closed."""
    max_newcomers_per_address: int = Field(default=2_000, ge=1)
    """The same of one address: as many as may come back at the same moment from behind it."""
    hellos_per_s: float = Field(default=500.0, gt=0)
    """New conversations of one process; players beyond `hellos_burst` are told when to come back."""
    hellos_burst: int = Field(default=1_000, ge=1)
    user_hellos_per_s: float = Field(default=5.0, gt=0)
    """New conversations of one user, in the long run. It is checked first, so one user can't use up what all share."""
    user_hellos_burst: int = Field(default=200, ge=1)
    frames_per_s: float = Field(default=20.0, gt=0)
    """Of one connection, in the long run."""
    frames_burst: int = Field(default=200, ge=1)
    requests_per_s: float = Field(default=20.0, gt=0)
    """REST requests of one user, in the long run; services with the scope progress:any are not counted."""
    requests_burst: int = Field(default=200, ge=1)
    address_requests_per_s: float = Field(default=100.0, gt=0)
    """REST requests without a valid token, of one address."""
    address_requests_burst: int = Field(default=1_000, ge=1)
    public_requests_per_s: float = Field(default=200.0, gt=0)
    """Requests for files of one address, in the long run; and again for `/livez` and `/readyz`."""
    public_requests_burst: int = Field(default=4_000, ge=1)
    """A school behind one address loads the SDK once for each learner."""
    max_pending_videos: int = Field(default=256, ge=1)
    """Videos that one connection may report on between two flushes."""
    max_videos_per_user: int = Field(default=10_000, ge=1)
    """Videos that one learner may have records of. Deleted ones count: a tombstone must be kept, or late reports would
    bring the record back. Records beyond it, from an import or a larger limit, stay and are updated as ever."""
    max_pending_reports: int = Field(default=200_000, ge=1)
    """Reports that may wait for the store in one process; beyond it, players are asked to come back later."""
    max_pending_reports_per_user: int = Field(default=4_000, ge=1)
    """The same of one user, and never more than a quarter of all, so that a store outage leaves room for others.
    Below 48, a player that comes back with a longer outbox may be refused again and again.
    A request with more reports than that is refused however often it comes; syncs have up to 1,000."""
    max_frame_bytes: int = Field(default=16_384, ge=1_024, le=1_048_576)
    max_head_bytes: int = Field(default=32_768, ge=1_024)
    """Request line and headers."""
    max_body_bytes: int = Field(default=1_048_576, ge=1_024)
    max_arriving_bytes: int = Field(default=67_108_864, ge=1_024)
    """Request bodies of one process that are arriving at the same time. Beyond it the one that began first is refused.
    Here and in the next two there is always room for one of the largest bodies."""
    max_arriving_bytes_per_user: int = Field(default=2_097_152, ge=1_024)
    """The same of one user, whose further bodies are refused; services with the scope progress:any are not counted."""
    max_arriving_bytes_per_address: int = Field(default=16_777_216, ge=1_024)
    """The same of one address, for bodies with their token inside, and where there are no tokens."""
    max_queue_bytes: int = Field(default=1_048_576, ge=524_288)
    """What may wait for a slow reader of one connection; two of the largest frames must fit."""
    max_unread_bytes: int = Field(default=268_435_456, ge=1_048_576)
    """Answers in memory that their clients have not taken yet, of one process: in the buffers of connections, in queues
    as above, and large ones that are being made. Beyond it requests are refused, and slow readers are closed."""
    max_unread_bytes_per_user: int = Field(default=33_554_432, ge=1_048_576)
    """The same of one user; services with the scope progress:any are not counted. Never less than max_queue_bytes."""
    hello_timeout_s: float = Field(default=10.0, gt=0, le=120)
    head_timeout_s: float = Field(default=10.0, gt=0, le=120)
    body_timeout_s: float = Field(default=15.0, gt=0, le=120)
    keep_alive_s: float = Field(default=125.0, gt=0, le=3_600)
    """How long a connection stays open between two requests. Longer than the proxy in front keeps one (nginx 60 s,
    Traefik 90 s, Caddy 120 s by default): else the proxy sends a request into a connection that is being closed."""
    write_timeout_s: float = Field(default=20.0, gt=0, le=120)
    ping_interval_s: float = Field(default=20.0, gt=0, le=120)
    ping_timeout_s: float = Field(default=20.0, gt=0, le=120)
    """How long a connection may leave a ping unanswered."""
    drain_notice_s: float = Field(default=1.0, ge=0, le=75)
    """At the end: how long `/readyz` says so before anybody is sent away, for balancers to see it."""
    drain_timeout_s: float = Field(default=30.0, ge=1, le=300)
    """At the end: until the process is gone, whatever its peers and its store do."""

    @model_validator(mode="after")
    def _one_key_source(self) -> Self:
        sources = {"jwt_secret": self.jwt_secret, "jwt_key_file": self.jwt_key_file, "jwt_jwks_url": self.jwt_jwks_url}
        given = [name for name, value in sources.items() if value is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other: give one source of keys")
        if self.jwt_secret is not None:
            _refuse_weak(self.jwt_secret.get_secret_value())
            if self.jwt_algorithm not in (None, "HS256"):
                raise ValueError(f"jwt_algorithm {self.jwt_algorithm} needs a public key, not jwt_secret")
        elif self.jwt_algorithm == "HS256":
            raise ValueError("jwt_algorithm HS256 needs jwt_secret, and no public key may serve as one")
        if self.jwt_jwks_url is not None and self.jwt_algorithm is None:
            raise ValueError("jwt_jwks_url needs jwt_algorithm: RS256, ES256 or EdDSA")
        if self.jwt_any_audience and self.jwt_audience is not None:
            raise ValueError("jwt_any_audience and jwt_audience exclude each other")
        if self.jwt_jwks_url is not None and not (self.jwt_issuer or self.jwt_audience or self.jwt_any_audience):
            raise ValueError(
                "jwt_jwks_url needs jwt_audience, or at least jwt_issuer (such as https://issuer.example): without "
                "them, tokens for any other service are accepted here; if that is meant, set jwt_any_audience"
            )
        unused = [name for name in ("jwt_algorithm", "jwt_issuer", "jwt_audience") if getattr(self, name) is not None]
        if unused and not given:
            raise ValueError(f"{unused[0]} is given but no key: set jwt_secret, jwt_key_file or jwt_jwks_url")
        return self

    @model_validator(mode="after")
    def _notice_within_the_drain(self) -> Self:
        if self.drain_notice_s > self.drain_timeout_s / 4:
            raise ValueError(f"drain_notice_s {self.drain_notice_s:g} is more than a quarter of drain_timeout_s")
        return self

    @model_validator(mode="after")
    def _replicas_of_a_store_of_their_own(self) -> Self:
        if self.redis_url is None and self.durability is not None and Level.parse(self.durability).replicas:
            raise ValueError(f"durability {self.durability} needs redis_url: the embedded store has no replicas")
        return self

    @model_validator(mode="after")
    def _open_to_loopback_only(self) -> Self:
        """Whoever can be reached by others knows who they are, and which pages may speak to it."""
        if not self.loopback and not self.auth:
            raise ValueError(
                f"host {self.host} can be reached by others and needs authentication: "
                "set jwt_secret, jwt_key_file or jwt_jwks_url (or serve 127.0.0.1)"
            )
        if not self.loopback and not self.allowed_origins:
            raise ValueError(
                f"host {self.host} can be reached by others and needs allowed_origins: "
                "the origins of the pages that may connect, such as https://academy.example"
            )
        return self

    @property
    def auth(self) -> bool:
        """Whether tokens are asked for."""
        return (self.jwt_secret or self.jwt_key_file or self.jwt_jwks_url) is not None

    @property
    def foreign_tokens(self) -> bool:
        """Whether tokens for other services of the same issuer are accepted without anybody having asked for it."""
        public_key = self.jwt_key_file is not None or self.jwt_jwks_url is not None
        return public_key and self.jwt_audience is None and not self.jwt_any_audience

    @property
    def user_pending_reports(self) -> int:
        """Reports of one user that may wait for the store."""
        return min(self.max_pending_reports_per_user, max(1, self.max_pending_reports // 4))

    @property
    def loopback(self) -> bool:
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def serves_demo(self) -> bool:
        return self.demo if self.demo is not None else self.loopback and not self.trusted_proxies

    @property
    def threshold_permille(self) -> int:
        return round(self.completion_threshold * 1_000)
