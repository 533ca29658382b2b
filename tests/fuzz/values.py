"""Ids, instants and numbers in a body, a path or a query: accepted within their bounds, or refused by name."""

import math
import re
from collections.abc import Callable
from typing import Any

from pydantic import TypeAdapter, ValidationError
from starlette.requests import Request

from playhead.protocol import scalars
from playhead.protocol.codecs import read_json
from playhead.protocol.errors import FieldError, FrameError
from playhead.server.problems import MAX_NAME, RestError
from playhead.server.rest.parameters import MAX_NAMED, check_query, path_id, query_choice, query_int

_HEX = "[0-9a-f]"
_SHAPES = {
    "Id": f"{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}}",
    "SessionId": "[A-Za-z0-9_-]{1,64}",
    "DeviceId": "[A-Za-z0-9 ._:-]{1,64}",
    "Title": r"(?s:.){1,300}",
}
_BOUNDS = {
    "Seq": (1, 2**53 - 1),
    "Rev": (0, 2**53 - 1),
    "WholeSeconds": (0, 172_800),
    "Seconds": (0, 172_800),
    "AgeMs": (0, 366 * 86_400_000),
    "SpanMs": (0, 172_800_000),
}
_WHOLE = ("Seq", "Rev", "WholeSeconds")
_types: dict[str, TypeAdapter[Any]] = {name: TypeAdapter(getattr(scalars, name)) for name in (*_SHAPES, *_BOUNDS)}
_instant: TypeAdapter[int] = TypeAdapter(scalars.InstantIn)
LAST_INSTANT = scalars.MAX_INSTANT
NOTHING = object()


def value(data: bytes) -> None:
    """Use the input as text, as a JSON value, as a path segment and as a query."""
    text = data.decode("utf-8", "surrogateescape")
    _text(text)
    try:
        tree = read_json(data)
    except FrameError:
        pass
    else:
        if isinstance(tree, str):
            _text(tree)
        _number(tree)
    _parameters(data, text)


def _accepted(adapter: TypeAdapter[Any], sent: Any) -> Any:
    """Validate a value in strict mode, as in all messages; NOTHING if it is refused."""
    try:
        return adapter.validate_python(sent, strict=True)
    except ValidationError:
        return NOTHING


def _text(text: str) -> None:
    for name, shape in _SHAPES.items():
        accepted = _accepted(_types[name], text)
        if accepted is not NOTHING:
            assert re.fullmatch(shape, accepted), name
            assert accepted == (text.lower() if name == "Id" else text)
            assert _accepted(_types[name], accepted) == accepted
    ms = _accepted(_instant, text)
    if ms is not NOTHING:
        assert type(ms) is int
        assert 1 <= ms <= LAST_INSTANT
        assert scalars.parse_instant(scalars.format_instant(ms)) == ms


def _number(sent: Any) -> None:
    for name, (low, high) in _BOUNDS.items():
        accepted = _accepted(_types[name], sent)
        if accepted is not NOTHING:
            assert type(accepted) is (int if name in _WHOLE else float)
            assert type(sent) in ((int,) if name in _WHOLE else (int, float))
            assert math.isfinite(accepted)
            assert low <= accepted <= high
            assert accepted == sent
    assert _accepted(_instant, sent) is NOTHING or isinstance(sent, str)
    if type(sent) is int and 0 < sent <= LAST_INSTANT:
        assert scalars.parse_instant(scalars.format_instant(sent)) == sent


def _parameters(data: bytes, text: str) -> None:
    scope = {"type": "http", "headers": [], "path_params": {"userId": text}, "query_string": data}
    request = Request(scope)
    unknown: tuple[FieldError, ...] = ()
    try:
        check_query(request, "limit")
    except RestError as error:
        unknown = error.fields
    assert len(unknown) <= MAX_NAMED
    assert all(field.pointer.startswith("/") and len(field.pointer) <= 2 * MAX_NAME + 1 for field in unknown)
    user_id = _refused_as("/userId", lambda: path_id(request, "userId"))
    assert user_id is NOTHING or re.fullmatch(_SHAPES["Id"], user_id)
    choice = _refused_as("/limit", lambda: query_choice(request, "limit", ("full",)))
    assert choice in (NOTHING, None, "full")
    limit = _refused_as("/limit", lambda: query_int(request, "limit", 1, 100))
    assert limit in (NOTHING, None) or (type(limit) is int and 1 <= limit <= 100)


def _refused_as(pointer: str, read: Callable[[], Any]) -> Any:
    """Return the value, or NOTHING if it is refused with this pointer."""
    try:
        return read()
    except RestError as error:
        refusal = error
    assert [field.pointer for field in refusal.fields] == [pointer]
    return NOTHING
