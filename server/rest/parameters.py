"""Validates path and query parameters; an error names each invalid one."""

import re
from collections import Counter

from pydantic import TypeAdapter, ValidationError
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request

from playhead.protocol.scalars import Id
from playhead.server.problems import bad_parameter, bad_parameters

_id: TypeAdapter[str] = TypeAdapter(Id)
_DIGITS = re.compile(r"[0-9]{1,16}")
MAX_NAMED = 10
"""Invalid parameters that one error names at most."""


class SegmentConvertor(Convertor[str]):
    """A path segment that is none of the contract's keywords, so that GET /progress/update is 405, not a bad userId."""

    regex = r"(?!(?:update|sync|realtime|summary|engagement)(?:/|$))[^/]+"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:  # pragma: no cover - Starlette requires it; no URL is built here
        return value


register_url_convertor("segment", SegmentConvertor())


def path_id(request: Request, name: str) -> str:
    """A UUID in the path, in lower case."""
    try:
        return _id.validate_python(request.path_params[name])
    except ValidationError:
        raise bad_parameter(name, "should be a UUID", "path") from None


def check_query(request: Request, *names: str) -> None:
    """Refuse query parameters other than `names`, and those given more than once.

    Parameters that begin with `_` are ignored, because clients add them to get past caches. Pages, files and health
    checks ignore all parameters.

    Raises:
        RestError: 422, naming the parameters.
    """
    if not request.scope["query_string"]:
        return
    given = Counter(name for name, _ in request.query_params.multi_items() if not name.startswith("_"))
    known = f"expected: {', '.join(names)}" if names else "this endpoint has none"
    bad = {name: f"unknown parameter; {known}" for name in given if name not in names}
    bad |= {name: "should be given once" for name in names if given[name] > 1}
    if bad:
        raise bad_parameters({name: bad[name] for name in list(bad)[:MAX_NAMED]}, "query")


def query_choice(request: Request, name: str, choices: tuple[str, ...]) -> str | None:
    value = request.query_params.get(name) if request.scope["query_string"] else None
    if value is not None and value not in choices:
        raise bad_parameter(name, f"should be {' or '.join(choices)}", "query")
    return value


def query_int(request: Request, name: str, low: int, high: int) -> int | None:
    value = request.query_params.get(name) if request.scope["query_string"] else None
    if value is None:
        return None
    if not _DIGITS.fullmatch(value) or not low <= int(value) <= high:
        raise bad_parameter(name, f"should be an integer from {low} to {high}", "query")
    return int(value)
