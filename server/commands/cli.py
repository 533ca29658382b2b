"""The program `playhead`: parses the command line, and reports an error at startup as one sentence."""

import argparse
import logging.config
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from playhead.server.commands import logs, options
from playhead.server.commands import maintenance as operators
from playhead.server.commands.errors import CommandError
from playhead.server.commands.serve import serve
from playhead.server.security.tokens import mint
from playhead.server.settings import ENV_PREFIX, Settings
from playhead.storage.store import UMASK

USAGE_ERROR = 2
INTERRUPTED = 130
"""128 + SIGINT, as in shells."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        The exit code; 2 where the command could not start, with the reason as one sentence on stderr.
    """
    parser = argparse.ArgumentParser(prog="playhead", description="Live video progress for many devices.")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_token(commands)
    operators.add_commands(commands)
    command = commands.add_parser(
        "serve",
        help="run the service",
        usage="playhead serve [options]",
        formatter_class=argparse.RawTextHelpFormatter,
        description="Run the service until SIGINT, SIGTERM or SIGHUP. Every option can also be set by\n"
        "the environment variable that follows its text; options take precedence.",
        epilog=f"The secret that verifies tokens is read from {options.variable(options.NO_OPTION)} only,\n"
        "because other users of the machine can read command lines.",
    )
    options.add_all(command)
    given = vars(parser.parse_args(arguments))
    chosen = given.pop("command")
    if unknown := _unknown(os.environ):
        return _fail(f"the environment has {', '.join(unknown)}, which is not a setting: see `playhead serve --help`")
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
        return _fail(_reasons(error, given))
    except CommandError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return 0 if chosen == "serve" else INTERRUPTED
    return 0


def _add_token(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser(
        "token",
        help="make a token, for trying the service out",
        description="Print a token that is signed with PLAYHEAD_JWT_SECRET.",
    )
    subject, scopes = "subject: the learner's userId, or the name of a service", "scopes, separated by spaces"
    command.add_argument("--sub", metavar="TEXT", required=True, help=subject)
    command.add_argument("--scope", metavar="TEXT", default="", help=f"{scopes}, such as progress:any or analytics")
    command.add_argument("--ttl", metavar="SECONDS", type=float, default=3_600, help="lifetime [default 3600 s]")


def _token(sub: str, scope: str, ttl: float) -> int:
    try:
        print(mint(Settings(), sub, scope, ttl))
    except ValidationError as error:
        return _fail(_reasons(error, {}))
    except ValueError as error:
        return _fail(str(error))
    return 0


def _unknown(environment: Iterable[str]) -> list[str]:
    """Variables with our prefix that are no settings: most likely misspelt, and otherwise ignored in silence."""
    ours = (name for name in environment if name.upper().startswith(ENV_PREFIX))
    return sorted(name for name in ours if name[len(ENV_PREFIX) :].lower() not in Settings.model_fields)


def _reasons(error: ValidationError, given: Mapping[str, Any]) -> str:
    """Each wrong value, by the option or the environment variable that it comes from, and what is wrong with it."""
    return "; ".join(_reason(item, given) for item in error.errors())


def _reason(item: ErrorDetails, given: Mapping[str, Any]) -> str:
    message = item["msg"].removeprefix("Value error, ").replace("Input should", "should")
    if not item["loc"]:
        return message
    name = str(item["loc"][0])
    where = options.option(name) if given.get(name) is not None else options.variable(name)
    is_secret = name == options.NO_OPTION or not Settings.model_fields[name].repr
    value = "" if is_secret else f" {item['input']}"
    return f"{where}{value}: {message}"


def _fail(sentence: str) -> int:
    print(f"playhead: {sentence}", file=sys.stderr)
    return USAGE_ERROR
