"""The settings: read once, validated, immutable. Unsafe combinations are refused.

A setting's docstring is also its text in `playhead serve --help`: its first paragraph says what the setting does, with
its unit; name, default and environment variable are added there. Further paragraphs are for readers of this file.
"""

from ipaddress import IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from playhead.server.origin import parse_origin
from playhead.server.secret_strength import MIN_BITS, entropy_bits, is_placeholder
from playhead.storage.store import Level

ENV_PREFIX = "PLAYHEAD_"
MIN_SECRET_BYTES = 32
"""The length of HS256's hash, which RFC 7518, 3.2 requires of its keys."""


def _split(value: Any) -> Any:
    """Split `a, b`, which is how the environment and the command line write a list."""
    return [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value


def _ancestor(value: str) -> str:
    return "'self'" if value.strip("'") == "self" else parse_origin(value)


def _network(value: str) -> str:
    """A network; one that is IPv4 mapped into IPv6 becomes plain IPv4, as the addresses of peers do."""
    network = ip_network(value)
    if isinstance(network, IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return str(ip_network((mapped, network.prefixlen - 96)))
    return str(network)


def _durability(value: str) -> str:
    return Level.parse(value).name


def _refuse_weak(secret: str) -> None:
    """Raises ValueError: the secret is too short or not random."""
    remedy = "`openssl rand -hex 32` makes one"
    if len(secret.encode()) < MIN_SECRET_BYTES:
        raise ValueError(f"jwt_secret is shorter than {MIN_SECRET_BYTES} bytes: {remedy}")
    if is_placeholder(secret):
        raise ValueError(f"jwt_secret is the placeholder of an example: {remedy}")
    if entropy_bits(secret.encode()) < MIN_BITS:
        raise ValueError(f"jwt_secret repeats itself or follows a pattern and can be guessed: {remedy}")


Durability = Annotated[str, AfterValidator(_durability)]
Origins = Annotated[tuple[Annotated[str, AfterValidator(parse_origin)], ...], NoDecode, BeforeValidator(_split)]
Ancestors = Annotated[tuple[Annotated[str, AfterValidator(_ancestor)], ...], NoDecode, BeforeValidator(_split)]
Networks = Annotated[tuple[Annotated[str, AfterValidator(_network)], ...], NoDecode, BeforeValidator(_split)]


class Settings(BaseSettings):
    """The settings of one service, from keyword arguments and the environment. Units are in the names."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )

    host: str = "127.0.0.1"
    """Address to serve. Addresses other than loopback require authentication and allowed_origins."""
    port: int = Field(default=8000, ge=0, le=65_535)
    """Port to serve; 0 takes a free one."""
    workers: int = Field(default=1, ge=1, le=64)
    """Number of processes that serve the port."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest level of Playhead's own log lines; of libraries, warnings and errors are logged."""
    demo: bool | None = None
    """Serve the demo player at `/`. Default: only on a loopback address without trusted_proxies."""
    frame_ancestors: Ancestors = ()
    """Pages that may embed the demo player in a frame: `self` or origins, separated by commas. Default: none."""

    data_dir: Path = Path("data")
    """Directory of the embedded store."""
    redis_url: str | None = Field(default=None, repr=False)
    """Redis or Valkey to use instead of the embedded store: redis://HOST:PORT/0, or a URL that begins with rediss://,
    unix://, redis+sentinel:// or redis+cluster://. Pass a URL with a password in the environment: other users of the
    machine can read command lines.

    storage/connection/address.py has the syntax.
    """
    durability: Durability | None = None
    """When a heartbeat counts as stored: memory (the store has it), fsync (it is on the store's disk) or replicas:N
    (and on N replicas). Default: fsync with the embedded store, memory with another.

    storage/guarantees/durability.py says what each level survives.
    """
    key_prefix: str = Field(default="ph", pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    """Prefix of all keys and channels in the store, for stores that other programs use too."""
    store_timeout_s: float = Field(default=5.0, gt=0, le=60)
    """Time limit for a reply of the store."""
    flush_interval_s: float = Field(default=1.0, ge=0.01, le=60)
    """Time between two writes of the collected heartbeats to the store, which are acknowledged after the write."""

    jwt_secret: SecretStr | None = None
    """Shared secret that verifies tokens (HS256): 32 random bytes or more, such as from `openssl rand -hex 32`."""
    jwt_key_file: Path | None = None
    """File with the public key (PEM: RSA, P-256 or Ed25519) that verifies tokens."""
    jwt_jwks_url: str | None = None
    """https URL of the key set that verifies tokens. It requires jwt_algorithm, and jwt_audience or jwt_issuer."""
    jwt_algorithm: Literal["HS256", "RS256", "ES256", "EdDSA"] | None = None
    """The only signature algorithm that is accepted. Default: HS256 with a secret, else the algorithm of the key in
    the key file."""
    jwt_issuer: str | None = None
    """The `iss` claim that every token must have. Default: any."""
    jwt_audience: str | None = None
    """The `aud` claim that every token must have. Default: any, with a warning at startup."""
    jwt_any_audience: bool = False
    """Accept every token of the issuer, including those for other services, without the warning."""
    jwt_leeway_s: float = Field(default=5.0, ge=0, le=120)
    """Clock difference to the issuer that is tolerated when a token's times are checked."""
    token_notice_s: float = Field(default=60.0, gt=0, le=3_600)
    """Time before its token expires at which a connection is asked for a new one; never more than half of what is left
    of the token's lifetime."""
    allowed_origins: Origins = ()
    """Origins of the pages that may connect, separated by commas, such as https://academy.example. The service's own
    pages always may."""
    trusted_proxies: Networks = ()
    """Addresses or networks, separated by commas, whose X-Forwarded-For and X-Forwarded-Proto are believed."""

    heartbeat_interval_s: float = Field(default=5.0, ge=0.1, le=60)
    """Time between two heartbeats of a playing player, sent to each player when it connects."""
    completion_threshold: float = Field(default=0.9, gt=0, le=1)
    """Fraction of a video that must have been watched for it to count as completed."""
    min_audience: int = Field(default=5, ge=1)
    """Viewers that a video's summary needs before learners may read it, and by which it grows from then on. 1 shows
    every change.

    It applies to callers with neither of the scopes `analytics` and `progress:any`, which everybody has in a service
    without tokens. With smaller steps, two summaries would disclose what a single viewer watched; set it above the
    number of accounts that one person may have.
    """
    max_rate: float = Field(default=4.0, ge=1, le=16)
    """Highest playback rate that is credited; a report of more media than that is cut."""

    max_connections: int = Field(default=20_000, ge=1)
    """WebSockets of one process that have sent a valid hello."""
    max_connections_per_address: int = Field(default=2_000, ge=1)
    """WebSockets of one client address, per process, that have sent a valid hello. A campus behind one address needs
    as many as it has players; an IPv6 address counts as its /64 network."""
    max_connections_per_user: int = Field(default=32, ge=1)
    """WebSockets of one user, per process."""
    max_newcomers: int = Field(default=5_000, ge=1)
    """WebSockets of one process that have not sent a valid hello yet; beyond it the oldest of them is closed."""
    max_newcomers_per_address: int = Field(default=2_000, ge=1)
    """WebSockets of one client address, per process, that have not sent a valid hello yet: as many as may reconnect
    from there at the same moment."""
    hellos_per_s: float = Field(default=500.0, gt=0)
    """New conversations per second of one process; players beyond hellos_burst get a time to reconnect."""
    hellos_burst: int = Field(default=1_000, ge=1)
    """New conversations of one process that may begin at once."""
    user_hellos_per_s: float = Field(default=5.0, gt=0)
    """New conversations per second of one user, per process.

    It is checked before `hellos_per_s`, so that one user can't use up what all share.
    """
    user_hellos_burst: int = Field(default=200, ge=1)
    """New conversations of one user that may begin at once."""
    frames_per_s: float = Field(default=20.0, gt=0)
    """Messages per second of one WebSocket."""
    frames_burst: int = Field(default=200, ge=1)
    """Messages of one WebSocket that may arrive at once."""
    requests_per_s: float = Field(default=20.0, gt=0)
    """REST requests per second of one user, per process. Services with the scope progress:any are not limited."""
    requests_burst: int = Field(default=200, ge=1)
    """REST requests of one user that may arrive at once."""
    address_requests_per_s: float = Field(default=100.0, gt=0)
    """REST requests per second without a valid token of one client address, per process."""
    address_requests_burst: int = Field(default=1_000, ge=1)
    """REST requests without a valid token of one client address that may arrive at once."""
    public_requests_per_s: float = Field(default=200.0, gt=0)
    """Requests per second for files of one client address, per process, and as many again for `/livez` and
    `/readyz`."""
    public_requests_burst: int = Field(default=4_000, ge=1)
    """Requests for files of one client address that may arrive at once: a school behind one address loads the SDK once
    for each learner."""
    max_pending_videos: int = Field(default=256, ge=1)
    """Videos that one connection may report on between two writes to the store."""
    max_videos_per_user: int = Field(default=10_000, ge=1)
    """Videos that one user may have records of, deleted records included.

    A tombstone must be kept, or late reports would bring the record back. Records beyond the limit, from an import or
    a larger limit, stay and can still be updated.
    """
    max_pending_reports: int = Field(default=200_000, ge=1)
    """Reports of one process that may wait for the store; beyond it, players are asked to reconnect later."""
    max_pending_reports_per_user: int = Field(default=4_000, ge=1)
    """Reports of one user that may wait for the store, and never more than a quarter of max_pending_reports. Below 48,
    a player with a longer outbox may be refused again and again.

    The quarter leaves room for other users during an outage of the store. A request with more reports than the limit
    is refused however often it is retried; syncs have up to 1,000 items.
    """
    max_frame_bytes: int = Field(default=16_384, ge=1_024, le=1_048_576)
    """Largest WebSocket message."""
    max_head_bytes: int = Field(default=32_768, ge=1_024)
    """Largest request line and headers of an HTTP request."""
    max_body_bytes: int = Field(default=1_048_576, ge=1_024)
    """Largest body of an HTTP request."""
    max_arriving_bytes: int = Field(default=67_108_864, ge=1_024)
    """Request bodies of one process that may be arriving at the same time; beyond it the one that began first is
    refused.

    This limit and the next two always leave room for one body of the largest size.
    """
    max_arriving_bytes_per_user: int = Field(default=2_097_152, ge=1_024)
    """Request bodies of one user that may be arriving at the same time; beyond it further ones are refused. Services
    with the scope progress:any are not limited."""
    max_arriving_bytes_per_address: int = Field(default=16_777_216, ge=1_024)
    """Request bodies of one client address that may be arriving at the same time, where the user is not known from the
    headers: bodies with their token inside, and services without tokens."""
    max_queue_bytes: int = Field(default=1_048_576, ge=524_288)
    """Messages that may wait for a slow reader of one connection.

    At least two messages of the largest size must fit.
    """
    max_unread_bytes: int = Field(default=268_435_456, ge=1_048_576)
    """Responses of one process that its clients have not read yet. Beyond it requests are refused and slow readers
    are disconnected.

    It counts the buffers of connections, the queues of `max_queue_bytes`, and large responses that are being built.
    """
    max_unread_bytes_per_user: int = Field(default=33_554_432, ge=1_048_576)
    """Responses of one user that its clients have not read yet, and never less than max_queue_bytes. Services with the
    scope progress:any are not limited."""
    hello_timeout_s: float = Field(default=10.0, gt=0, le=120)
    """Time limit for the hello of a new WebSocket."""
    head_timeout_s: float = Field(default=10.0, gt=0, le=120)
    """Time limit for the request line and headers of a request."""
    body_timeout_s: float = Field(default=15.0, gt=0, le=120)
    """Time limit for the body of a request."""
    keep_alive_s: float = Field(default=125.0, gt=0, le=3_600)
    """Time that an idle HTTP connection stays open. It should be longer than the same time of the proxy in front.

    nginx keeps an idle connection 60 s, Traefik 90 s, Caddy 120 s by default. A proxy that keeps it longer than we do
    sends requests into connections that are being closed.
    """
    write_timeout_s: float = Field(default=20.0, gt=0, le=120)
    """Time limit for a client to take bytes that were sent to it."""
    ping_interval_s: float = Field(default=20.0, gt=0, le=120)
    """Time between two pings of a WebSocket."""
    ping_timeout_s: float = Field(default=20.0, gt=0, le=120)
    """Time limit for the answer to a ping."""
    drain_notice_s: float = Field(default=1.0, ge=0, le=75)
    """At shutdown, time between `/readyz` reporting it and the first disconnect, for load balancers to notice. At most
    a quarter of drain_timeout_s."""
    drain_timeout_s: float = Field(default=30.0, ge=1, le=300)
    """At shutdown, time limit until the process has exited, whatever its clients and the store do."""

    @model_validator(mode="after")
    def _one_key_source(self) -> Self:
        sources = {"jwt_secret": self.jwt_secret, "jwt_key_file": self.jwt_key_file, "jwt_jwks_url": self.jwt_jwks_url}
        given = [name for name, value in sources.items() if value is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other: set one source of keys")
        if self.jwt_secret is not None:
            _refuse_weak(self.jwt_secret.get_secret_value())
            if self.jwt_algorithm not in (None, "HS256"):
                raise ValueError(f"jwt_algorithm {self.jwt_algorithm} needs a public key, not jwt_secret")
        elif self.jwt_algorithm == "HS256":
            raise ValueError("jwt_algorithm HS256 needs jwt_secret: a public key must not be used as a shared secret")
        if self.jwt_jwks_url is not None and self.jwt_algorithm is None:
            raise ValueError("jwt_jwks_url needs jwt_algorithm: RS256, ES256 or EdDSA")
        if self.jwt_any_audience and self.jwt_audience is not None:
            raise ValueError("jwt_any_audience and jwt_audience exclude each other")
        if self.jwt_jwks_url is not None and not (self.jwt_issuer or self.jwt_audience or self.jwt_any_audience):
            raise ValueError(
                "jwt_jwks_url needs jwt_audience, or at least jwt_issuer (such as https://issuer.example): without "
                "them, tokens for any other service are accepted here; to accept them, set jwt_any_audience"
            )
        unused = [name for name in ("jwt_algorithm", "jwt_issuer", "jwt_audience") if getattr(self, name) is not None]
        if unused and not given:
            raise ValueError(f"{unused[0]} is set without a key: set jwt_secret, jwt_key_file or jwt_jwks_url")
        return self

    @model_validator(mode="after")
    def _notice_is_part_of_the_drain(self) -> Self:
        if self.drain_notice_s > self.drain_timeout_s / 4:
            raise ValueError(
                f"drain_notice_s {self.drain_notice_s:g} is more than a quarter of drain_timeout_s "
                f"{self.drain_timeout_s:g}"
            )
        return self

    @model_validator(mode="after")
    def _replicas_need_a_store_of_your_own(self) -> Self:
        if self.redis_url is None and self.durability is not None and Level.parse(self.durability).replicas:
            raise ValueError(f"durability {self.durability} needs redis_url: the embedded store has no replicas")
        return self

    @model_validator(mode="after")
    def _others_need_tokens_and_origins(self) -> Self:
        """A service that others can reach must authenticate them and restrict the pages that may connect."""
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
        """Whether requests need a token."""
        return (self.jwt_secret or self.jwt_key_file or self.jwt_jwks_url) is not None

    @property
    def foreign_tokens(self) -> bool:
        """Whether tokens of the issuer for other services are accepted although nobody asked for that."""
        public_key = self.jwt_key_file is not None or self.jwt_jwks_url is not None
        return public_key and self.jwt_audience is None and not self.jwt_any_audience

    @property
    def user_pending_reports(self) -> int:
        """Reports of one user that may wait for the store: the setting, bounded by a quarter of all."""
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
