"""Which right the store's user lacks, as far as the store's errors tell.

Inside a script Redis 7.0 names the script and the line, and not the command that it refuses there.
"""

import importlib.resources
import re

from redis.exceptions import RedisError

from playhead.storage.scripts import Script

_COMMAND = re.compile(r"no permissions to run the '([^']+)' command")
_LINE = re.compile(r"can't run this command or subcommand script: ([0-9a-f]{40}), on @user_script:(\d+)")
_ARGUMENT = re.compile(r"(?:(?:No|no) permissions to access|can't access|can't publish to) .*?(key|channel)")
_CALL = re.compile(r"call\('([A-Z]+)'")


def lacked_right(error: BaseException | None) -> str | None:
    """A command in capitals, or what it was refused for; None where `error` says nothing of rights.

    Args:
        error: the store's own, or one that it is the cause of.
    """
    while error is not None and not isinstance(error, RedisError):
        error = error.__cause__
    text = str(error)
    if found := _COMMAND.search(text):
        return found[1].upper().replace("|", " ")
    if found := _LINE.search(text):
        return _command_at(found[1], int(found[2]))
    if found := _ARGUMENT.search(text):
        return f"a {found[1]}"
    return None


def _command_at(sha: str, line: int) -> str:
    for file in importlib.resources.files("playhead.storage").joinpath("lua").iterdir():
        script = Script(file.name.removesuffix(".lua"))
        if script.sha == sha:
            found = _CALL.search(script.text.splitlines()[line - 1])
            return found[1] if found else f"a command of {file.name}, line {line}"
    return "a command of a script"
