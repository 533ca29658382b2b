"""Finds the permission that the store's user lacks, from the store's error messages.

For a command in a script, Redis 7.0 names the script and the line instead of the command.
"""

import re

from redis.exceptions import RedisError

from playhead.storage.scripts import PARTS, Script

_COMMAND = re.compile(r"no permissions to run the '([^']+)' command")
_LINE = re.compile(r"can't run this command or subcommand script: ([0-9a-f]{40}), on @user_script:(\d+)")
_ARGUMENT = re.compile(r"(?:(?:No|no) permissions to access|can't access|can't publish to) .*?(key|channel)")
_CALL = re.compile(r"call\('([A-Z]+)'")


def lacked_right(error: BaseException | None) -> str | None:
    """The command that was refused, in capitals, or the kind of argument; None if the error is not about permissions.

    Args:
        error: the store's error, or one that was raised from it.
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


def _command_at(sha: str, number: int) -> str:
    for script in map(Script, PARTS):
        if script.sha == sha:
            place, line = script.line(number)
            found = _CALL.search(line)
            return found[1] if found else f"a command of {place}"
    return "a command of a script"
