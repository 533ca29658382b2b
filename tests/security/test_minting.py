"""`playhead token`: its tokens are accepted by a server with the same secret, and its errors name the reason."""

import asyncio
import os
import sys
import time

import jwt
import pytest

from playhead.server.commands.cli import main
from tests.conftest import StoreServer
from tests.security.callers import ACCEPTED, REFUSED, USER, guarded, verdict
from tests.security.issuer import SECRET
from tests.server.program import ROOT, environment

pytestmark = pytest.mark.parametrize("store_server", ["valkey"], indirect=True)
"""Nothing here depends on the store."""


async def minted(*options: str, **env: str) -> tuple[int | None, str, str]:
    """Run `playhead token`; exit code, stdout and stderr."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "playhead.server", "token", *options),
        cwd=ROOT,
        env=environment(**env),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_a_server_with_the_same_secret_accepts_the_token(store_server: StoreServer, prefix: str) -> None:
    """It is printed alone on one line, with the requested subject, scope and lifetime."""
    env = {"PLAYHEAD_JWT_SECRET": SECRET, "PLAYHEAD_JWT_ISSUER": "https://issuer.example"}
    options = ("--sub", USER, "--scope", "analytics progress:any", "--ttl", "60")
    code, out, err = await minted(*options, PLAYHEAD_JWT_AUDIENCE="playhead", **env)
    assert (code, err, out.count("\n")) == (0, "", 1)
    made = out.strip()
    decoded = jwt.decode(made, SECRET, ["HS256"], audience="playhead")
    assert (decoded["sub"], decoded["scope"]) == (USER, "analytics progress:any")
    assert 0 < decoded["exp"] - time.time() <= 60
    async with guarded(store_server, prefix) as server:
        assert await verdict(server, made) == ACCEPTED
        assert await verdict(server, (await minted("--sub", USER, **env))[1].strip()) == REFUSED, "no audience"


MISTAKES = {
    "no secret": (("--sub", USER), {}, "jwt_secret"),
    "a short secret": (("--sub", USER), {"PLAYHEAD_JWT_SECRET": "too-short-to-be-one"}, "jwt_secret"),
    "no subject": (("--sub", ""), {"PLAYHEAD_JWT_SECRET": SECRET}, "--sub"),
    "a subject that is too long": (("--sub", "s" * 201), {"PLAYHEAD_JWT_SECRET": SECRET}, "--sub"),
    "no lifetime": (("--sub", USER, "--ttl", "0"), {"PLAYHEAD_JWT_SECRET": SECRET}, "--ttl"),
    "an invalid lifetime": (("--sub", USER, "--ttl", "nan"), {"PLAYHEAD_JWT_SECRET": SECRET}, "--ttl"),
    "an infinite lifetime": (("--sub", USER, "--ttl", "inf"), {"PLAYHEAD_JWT_SECRET": SECRET}, "--ttl"),
    "a misspelt setting": (("--sub", USER), {"PLAYHEAD_JWT_SECRETT": SECRET}, "PLAYHEAD_JWT_SECRETT"),
}


@pytest.mark.parametrize("name", MISTAKES)
async def test_each_mistake_is_reported_in_one_sentence(
    store_server: StoreServer, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code is 2, stdout is empty, and stderr contains no secret."""
    options, env, named = MISTAKES[name]
    for variable in [each for each in os.environ if each.startswith("PLAYHEAD_")]:
        monkeypatch.delenv(variable)
    for variable, value in env.items():
        monkeypatch.setenv(variable, value)
    code = main(["token", *options])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.startswith("playhead: ")
    assert err.count("\n") == 1
    assert named in err
    assert not [secret for secret in env.values() if secret in err]


async def test_the_process_exits_with_2_without_a_secret(store_server: StoreServer) -> None:
    """Run the command as a shell does."""
    code, out, err = await minted("--sub", USER)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "PLAYHEAD_JWT_SECRET" in err
