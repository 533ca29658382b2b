"""The program `playhead`: turns words of a shell into settings, and trouble at the start into one sentence."""

import argparse
import logging.config
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import ValidationError

from playhead.server.commands import logs
from playhead.server.commands import maintenance as operators
from playhead.server.commands.serve import CannotServe, serve
from playhead.server.security.tokens import mint
from playhead.server.settings import ENV_PREFIX, Settings
from playhead.storage.embedded.private_files import UMASK
from playhead.storage.guarantees.durability import Level

USAGE_ERROR = 2
INTERRUPTED = 130
"""As shells count it: 128 + SIGINT."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code. 2: it could not start, and stderr says why in one sentence."""
    parser = argparse.ArgumentParser(prog="playhead", description="Live video progress that loses no second.")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_token(commands)
    operators.add_commands(commands)
    command = commands.add_parser(
        "serve", help="run the service", description="Each option is also a setting: PLAYHEAD_ and its name."
    )
    command.add_argument("--host", help="address to serve (127.0.0.1); others than loopback want tokens and origins")
    command.add_argument("--port", type=int, help="port to serve (8000)")
    command.add_argument("--workers", type=int, help="processes (1)")
    command.add_argument("--data-dir", type=Path, help="where the embedded store keeps its files (data)")
    command.add_argument("--redis-url", help="use this Redis or Valkey, or cluster, instead of the embedded one")
    command.add_argument(
        "--durability", type=_durability, help="when a heartbeat counts as stored: memory, fsync or replicas:N"
    )
    command.add_argument("--flush-interval-s", type=float, help="seconds between flushes (1)")
    command.add_argument("--jwt-key-file", type=Path, help="public key (PEM) that tokens are verified by")
    command.add_argument("--jwt-jwks-url", help="https URL of the key set that tokens are verified by")
    command.add_argument("--jwt-algorithm", choices=["RS256", "ES256", "EdDSA"], help="how tokens are signed")
    command.add_argument("--jwt-issuer", help="iss that tokens must have")
    command.add_argument("--jwt-audience", help="aud that tokens must have")
    command.add_argument("--allowed-origins", help="pages that may connect: https://academy.example,…")
    command.add_argument("--trusted-proxies", help="addresses or networks whose X-Forwarded-* are believed")
    command.add_argument("--log-level", choices=["debug", "info", "warning", "error"], help="what is logged (info)")
    given = vars(parser.parse_args(arguments))
    chosen = given.pop("command")
    if unknown := _unknown(os.environ):
        return _fail(f"the environment has {', '.join(unknown)}, but there is no such setting")
    if chosen == "token":
        return _token(**given)
    logging.config.dictConfig(logs.config("info"))
    os.umask(UMASK)
    try:
        if chosen in operators.COMMANDS:
            return operators.run(chosen, given)
        settings = Settings(**{name: value for name, value in given.items() if value is not None})
        logging.config.dictConfig(logs.config(settings.log_level))
        serve(settings)
    except ValidationError as error:
        return _fail("; ".join(_sentence(tuple(item["loc"]), item["msg"]) for item in error.errors()))
    except CannotServe as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return 0 if chosen == "serve" else INTERRUPTED
    return 0


def _add_token(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser(
        "token", help="make a token, for trying out", description="Signed by PLAYHEAD_JWT_SECRET; printed alone."
    )
    command.add_argument("--sub", required=True, help="whom it is for: the learner's userId, or a service's name")
    command.add_argument("--scope", default="", help="such as progress:any or analytics, with spaces between")
    command.add_argument("--ttl", type=float, default=3_600, help="seconds that it is valid (3600)")


def _token(sub: str, scope: str, ttl: float) -> int:
    try:
        print(mint(Settings(), sub, scope, ttl))
    except ValidationError as error:
        return _fail("; ".join(_sentence(tuple(item["loc"]), item["msg"]) for item in error.errors()))
    except ValueError as error:
        return _fail(str(error))
    return 0


def _durability(text: str) -> str:
    try:
        return Level.parse(text).name
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _unknown(environment: Iterable[str]) -> list[str]:
    """Names that were meant for us and would be ignored: most likely misspelt, and then not what was wanted."""
    ours = (name for name in environment if name.upper().startswith(ENV_PREFIX))
    return sorted(name for name in ours if name[len(ENV_PREFIX) :].lower() not in Settings.model_fields)


def _sentence(where: tuple[int | str, ...], message: str) -> str:
    name = ".".join(str(step) for step in where)
    return f"{name}: {message}" if name else message.removeprefix("Value error, ")


def _fail(sentence: str) -> int:
    print(f"playhead: {sentence}", file=sys.stderr)
    return USAGE_ERROR
