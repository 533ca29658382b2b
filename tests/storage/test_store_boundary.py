"""What crosses the boundary between server/ and storage/: typed records, and no bytes, key names or commands."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any, get_args, get_type_hints

from playhead.storage import store as facade
from playhead.storage.maintenance.transfer import Export, Import

EXPORTED = {name: getattr(facade, name) for name in facade.__all__}
FILES = (Export, Import)
"""They make and read the lines of an export, which are bytes of a file."""
CLASSES = [thing for thing in EXPORTED.values() if inspect.isclass(thing)]
INTERNAL = {"playhead.storage.connection.pipeline", "playhead.storage.connection.link", "playhead.storage.keys"}
"""Modules of commands and key names."""
FOR_THE_FLUSHER = {"Committed.results", "Committed.damage"}
"""Stored values as the commit answered them; the server reads them by `Committed.record`."""


def public_callables(cls: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    """The methods of a class that the server may call, and the getters of its properties; only of classes of
    storage."""
    for name, member in inspect.getmembers(cls):
        function: Any = member.fget if isinstance(member, property) else member
        if not name.startswith("_") and getattr(function, "__module__", "").startswith("playhead.storage"):
            yield f"{cls.__name__}.{name}", function


def types_in(hint: Any) -> Iterator[Any]:
    """The types that an annotation is made of."""
    parts = get_args(hint)
    if not parts:
        yield hint
    for part in parts:
        for each in part if isinstance(part, list) else [part]:
            yield from types_in(each)


def boundary() -> Iterator[tuple[str, Any]]:
    """(method, type) of all arguments and return values of the exported classes and functions."""
    functions: list[tuple[str, Callable[..., Any]]] = [
        (name, thing) for name, thing in EXPORTED.items() if inspect.isfunction(thing)
    ]
    methods = [item for cls in CLASSES if cls not in FILES for item in public_callables(cls)]
    for name, function in [*functions, *methods]:
        for hint in get_type_hints(inspect.unwrap(function)).values():
            yield from ((name, each) for each in types_in(hint))
    for cls in CLASSES:
        for field, hint in get_type_hints(cls).items():
            if not field.startswith("_") and f"{cls.__name__}.{field}" not in FOR_THE_FLUSHER:
                yield from ((f"{cls.__name__}.{field}", each) for each in types_in(hint))


def test_no_bytes_keys_or_commands_cross() -> None:
    """Everything is decoded inside storage, so damaged values are handled in one place."""
    crossing = list(boundary())
    assert len({name for name, _ in crossing}) > 50, "the methods were found"
    leaks = {
        (name, each)
        for name, each in crossing
        if each in (bytes, bytearray, memoryview)
        or getattr(each, "__module__", "").startswith(("redis", "msgpack"))
        or getattr(each, "__module__", "") in INTERNAL
    }
    assert leaks == set()


def test_every_type_that_crosses_is_exported() -> None:
    """The server can import the type of everything it gets from storage from the facade."""
    ours = {each for _, each in boundary() if getattr(each, "__module__", "").startswith("playhead.storage")}
    missing = {each for each in ours if inspect.isclass(each)} - set(CLASSES)
    assert {each.__qualname__ for each in missing} == set()
