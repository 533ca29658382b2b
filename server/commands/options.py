"""Command-line options made from the settings: name, help text, default and environment variable have one source."""

import argparse
import re
import textwrap
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from playhead.server.settings import ENV_PREFIX, Settings

NO_OPTION = "jwt_secret"
"""The one setting without an option: other users of the machine can read command lines."""
SECTIONS = {
    "host": "the server",
    "data_dir": "the store",
    "jwt_secret": "access",
    "heartbeat_interval_s": "progress",
    "max_connections": "limits",
    "hello_timeout_s": "timeouts",
}
"""Titles in `playhead serve --help`, by the first setting of each section."""
UNITS = {
    re.compile(r"_per_s$"): ("N", "/s"),
    re.compile(r"_s$"): ("SECONDS", " s"),
    re.compile(r"_bytes($|_per_)"): ("BYTES", " bytes"),
}
"""For the endings of settings' names: the placeholder for the value, and the unit of the default."""
WIDTH = 54
"""Columns of a help text: 80 without argparse's indentation and margin, which would also break lines inside options."""
METAVARS = {"host": "ADDRESS", "durability": "LEVEL", "data_dir": "DIR", "redis_url": "URL", "jwt_jwks_url": "URL"}


def add_all(parser: argparse.ArgumentParser) -> None:
    """Add an option for each setting but the secret, by sections in the order of the settings."""
    section: argparse.ArgumentParser | argparse._ArgumentGroup = parser
    for name in Settings.model_fields:
        if name in SECTIONS:
            section = parser.add_argument_group(SECTIONS[name])
        if name != NO_OPTION:
            add(section, name)


def add(parser: "argparse._ActionsContainer", name: str) -> None:
    """Add the option of one setting. Its value stays text: the settings convert and validate it."""
    field = Settings.model_fields[name]
    if bool in _types(field):
        parser.add_argument(option(name), action=argparse.BooleanOptionalAction, help=_help(name, field))
    else:
        parser.add_argument(option(name), metavar=_metavar(name, field), help=_help(name, field))


def option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def variable(name: str) -> str:
    return f"{ENV_PREFIX}{name.upper()}"


def _help(name: str, field: FieldInfo) -> str:
    """The first paragraph of the setting's docstring, its default with its unit, and its environment variable."""
    text = " ".join((field.description or "").split("\n\n")[0].split())
    text = re.sub(r"\b[a-z]+(_[a-z]+)+\b", lambda found: _mention(found[0]), text)
    notes = [variable(name)]
    if field.default not in (None, ()):
        notes.insert(0, f"default {_shown(field.default)}{_unit(name)[1]}")
    lines = [*_wrapped(text), *_wrapped(f"[{', '.join(notes)}]")]
    return "\n".join(lines).replace("%", "%%")


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, break_on_hyphens=False)


def _mention(word: str) -> str:
    """Another setting in a help text, as it is written on the command line."""
    if word == NO_OPTION:
        return variable(word)
    return option(word) if word in Settings.model_fields else word


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return "yes" if default else "no"
    return f"{default:g}" if isinstance(default, float) else str(default)


def _unit(name: str) -> tuple[str, str]:
    return next((shown for pattern, shown in UNITS.items() if pattern.search(name)), ("", ""))


def _metavar(name: str, field: FieldInfo) -> str:
    types = _types(field)
    for each in types:
        if get_origin(each) is Literal:
            return f"{{{','.join(get_args(each))}}}"
        if get_origin(each) is tuple:
            return "LIST"
    fallback = "N" if int in types or float in types else "FILE" if Path in types else "TEXT"
    return METAVARS.get(name) or _unit(name)[0] or fallback


def _types(field: FieldInfo) -> tuple[Any, ...]:
    """The members of a union, else the type itself."""
    annotation = field.annotation
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
