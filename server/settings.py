"""Every setting, once, validated, refusing what is unsafe. Environment: PLAYHEAD_ and the name in capitals."""

from ipaddress import ip_address
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

ENV_PREFIX = "PLAYHEAD_"


class Settings(BaseSettings):
    """Frozen; built once by whoever starts the service. Units are in the names."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65_535)
    workers: int = Field(default=1, ge=1, le=64)
    data_dir: Path = Path("data")
    """Where the embedded store keeps its files."""
    redis_url: str | None = None
    """A Redis or Valkey to use instead of the embedded one: redis://, rediss:// or unix://."""
    durability: Literal["memory", "fsync"] | None = None
    """When a heartbeat counts as stored. Default: fsync on the embedded store, memory on another."""
    key_prefix: str = Field(default="ph", pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    store_timeout_s: float = Field(default=5.0, gt=0, le=60)

    heartbeat_interval_s: float = Field(default=5.0, ge=0.1, le=60)
    """What players are told to keep."""
    flush_interval_s: float = Field(default=1.0, ge=0.01, le=60)
    completion_threshold: float = Field(default=0.9, gt=0, le=1)
    max_rate: float = Field(default=4.0, ge=1, le=16)
    """The fastest playback that is believed."""

    max_pending_reports: int = Field(default=200_000, ge=1)
    """Reports that may wait for the store in one process; beyond it, players are asked to come back later."""
    max_frame_bytes: int = Field(default=16_384, ge=1_024, le=1_048_576)
    max_body_bytes: int = Field(default=1_048_576, ge=1_024)
    max_queue_bytes: int = Field(default=1_048_576, ge=65_536)
    """What may wait for a slow reader of one connection."""
    hello_timeout_s: float = Field(default=10.0, gt=0, le=120)
    body_timeout_s: float = Field(default=15.0, gt=0, le=120)
    write_timeout_s: float = Field(default=20.0, gt=0, le=120)
    drain_timeout_s: float = Field(default=10.0, gt=0, le=300)
    """At the end: how long the last flush may take."""

    @model_validator(mode="after")
    def _loopback_only(self) -> Self:
        """There is no authentication yet, so nobody else may be let in."""
        try:
            loopback = ip_address(self.host).is_loopback
        except ValueError:
            loopback = self.host == "localhost"
        if not loopback:
            raise ValueError(
                f"host {self.host} is refused: without authentication only a loopback address such as "
                "127.0.0.1 may be served"
            )
        return self

    @property
    def threshold_permille(self) -> int:
        return round(self.completion_threshold * 1_000)
