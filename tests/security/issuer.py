"""An issuer of valid and invalid tokens: keys of every kind, tokens of every shape, a key set served over HTTP."""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

SECRET = "a-secret-of-the-tests-long-enough-for-any-hash-of-the-hmac-family"
ISSUER, AUDIENCE = "https://issuer.example", "playhead"
KINDS = ("RS256", "ES256", "EdDSA")
"""The algorithms whose signatures are verified with a public key."""


def private_key(kind: str, name: str = "first") -> Any:
    """A private key for each kind and name, generated once per run."""
    return _made(kind, name)


@cache
def _made(kind: str, name: str) -> Any:
    if kind == "ES256":
        return ec.generate_private_key(ec.SECP256R1())
    if kind == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(65_537, 1_024 if name == "short" else 2_048)


def public_bytes(key: Any, encoding: Encoding = Encoding.PEM) -> bytes:
    return bytes(key.public_key().public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo))


def key_file(directory: Path, kind: str) -> Path:
    """The PEM file with the key that a server verifies tokens with."""
    path = directory / f"{kind}.pem"
    path.write_bytes(public_bytes(private_key(kind)))
    return path


def jwk(kind: str, kid: str, name: str = "first", **members: Any) -> dict[str, Any]:
    """A public key as an entry of a key set."""
    algorithm = jwt.get_algorithm_by_name(kind)
    return {**algorithm.to_jwk(private_key(kind, name).public_key(), as_dict=True), "kid": kid, **members}


def claims(sub: object, **more: Any) -> dict[str, Any]:
    """The claims of a valid token, for an hour; `more` replaces or adds claims, None removes one."""
    now = int(time.time())
    all_claims = {"sub": sub, "iat": now, "exp": now + 3_600, "iss": ISSUER, "aud": AUDIENCE, **more}
    return {name: value for name, value in all_claims.items() if value is not None}


def token(
    sub: object, *, kind: str = "HS256", key: Any = SECRET, headers: dict[str, Any] | None = None, **more: Any
) -> str:
    """A signed token; `headers` are added, None removes one."""
    chosen = private_key(kind) if kind in KINDS and key is SECRET else key
    return jwt.encode(claims(sub, **more), chosen, algorithm=kind, headers=headers)


def encoded(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()


def by_hand(header: str, payload: str, secret: bytes = SECRET.encode(), digest: Any = hashlib.sha256) -> str:
    """A token with exactly these bytes and a valid HMAC, which no library would produce."""
    signed = f"{encoded(header.encode())}.{encoded(payload.encode())}"
    return f"{signed}.{encoded(hmac.new(secret, signed.encode(), digest).digest())}"


@dataclass
class KeyServer:
    """A key set (JWKS) served over HTTP, in the event loop of the test."""

    keys: list[dict[str, Any]] = field(default_factory=list)
    port: int = 0
    fetches: int = 0
    status: int = 200
    location: str = ""
    """The target of a redirect, with status 302."""
    answers: asyncio.Event = field(default_factory=asyncio.Event)
    """While cleared, requests are accepted but not answered."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/keys.json"

    async def respond(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            body = json.dumps({"keys": self.keys}).encode()  # the current keys, however late the answer is sent
            self.fetches += 1
            await self.answers.wait()
            location = f"location: {self.location}\r\n" if self.location else ""
            head = f"HTTP/1.1 {self.status} x\r\n{location}content-length: {len(body)}\r\nconnection: close\r\n\r\n"
            writer.write(head.encode() + body)
            await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def key_server(*keys: dict[str, Any], port: int = 0) -> AsyncIterator[KeyServer]:
    """Serve these keys until the block ends."""
    serves = KeyServer(list(keys))
    serves.answers.set()
    listener = await asyncio.start_server(serves.respond, "127.0.0.1", port)
    serves.port = listener.sockets[0].getsockname()[1]
    try:
        yield serves
    finally:
        serves.answers.set()
        listener.close()
        await listener.wait_closed()
