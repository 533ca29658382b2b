"""The internals of uvicorn, websockets and redis-py that Playhead uses, by name.

None of them is documented, so any release may rename them; pyproject.toml therefore bounds the three libraries above.
When a bound is raised, these tests say which names are gone. `make test` against the new release shows the rest.
"""

import ast
import asyncio
import inspect
import re
import signal
import textwrap
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Connection, ConnectionPool, Redis
from uvicorn import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from uvicorn.supervisors import Multiprocess
from websockets.asyncio.client import connect
from websockets.server import ServerProtocol

from playhead.client.connection import _Direct
from playhead.server.commands.workers import Workers
from playhead.server.transport.config import ServiceConfig
from playhead.server.transport.fast_path import DirectWebSocket
from playhead.server.transport.http import BoundedHttp
from playhead.server.transport.websocket import BoundedWebSocket
from playhead.storage.connection.pipeline import _PipelineConnection

ROOT = Path(__file__).parents[1]


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Never called."""


def uvicorn_config() -> Config:
    return Config(app, ws="websockets-sansio")


def supervisor() -> Multiprocess:
    """A supervisor of uvicorn without processes; its constructor installs signal handlers."""
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    try:
        return Multiprocess(uvicorn_config(), [])
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is not handler and handler is not None:
                signal.signal(number, handler)


def cycle() -> RequestResponseCycle:
    given: dict[str, Any] = dict.fromkeys(inspect.signature(RequestResponseCycle).parameters)
    return RequestResponseCycle(**given)


LIBRARY: dict[str, Callable[[], object]] = {
    "uvicorn.Config": uvicorn_config,
    "uvicorn HttpToolsProtocol": lambda: HttpToolsProtocol(uvicorn_config(), ServerState(), {}),
    "uvicorn RequestResponseCycle": cycle,
    "uvicorn FlowControl": lambda: FlowControl(asyncio.Transport()),
    "uvicorn WebSocketsSansIOProtocol": lambda: WebSocketsSansIOProtocol(uvicorn_config(), ServerState(), {}),
    "uvicorn Multiprocess": supervisor,
    "websockets ServerProtocol": ServerProtocol,
    "websockets connect": lambda: connect,
    "redis Connection": Connection,
    "redis ConnectionPool": ConnectionPool,
    "redis Redis": Redis,
}
"""How to make one of each, without any I/O."""

NAMES = {
    "uvicorn.Config": "",
    "uvicorn HttpToolsProtocol": (
        "_start_asgi_task _unset_keepalive_if_required app_state client config connections cycle flow headers loop "
        "on_header on_headers_complete on_message_begin on_message_complete on_response_complete parser pipeline scope "
        "send_400_response server_state transport url ws_protocol_class"
    ),
    "uvicorn RequestResponseCycle": (
        "body disconnected keep_alive message_event response_complete response_started transport"
    ),
    "uvicorn FlowControl": "pause_reading resume_reading write_paused",
    "uvicorn WebSocketsSansIOProtocol": (
        "app_state asgi_version client close_sent close_timeout close_timer conn connections default_headers "
        "disconnected frames handle_bytes handle_cont handle_ping handle_pong handle_text handshake_complete "
        "handshake_initiated loop on_task_complete queue read_paused root_path run_asgi scheme scope send server "
        "start_keepalive tasks transport writable"
    ),
    "uvicorn Multiprocess": "config handle_hup handle_term handle_ttin handle_ttou join_all keep_subprocess_alive "
    "processes signal_queue",
    "websockets ServerProtocol": "data_to_send parse parser send_close state",
    "websockets connect": "process_redirect",
    "redis Connection": (
        "_connect _send_packed_command _writer connect disconnect pack_commands read_response retry send_command "
        "socket_timeout"
    ),
    "redis ConnectionPool": "connection_class connection_kwargs get_connection make_connection release",
    "redis Redis": "connection_pool response_callbacks",
}

FUNCTIONS = [
    "redis.asyncio.connection.RedisSSLContext",
    "redis.asyncio.connection.parse_ssl_verify_flags",
    "redis.asyncio.sentinel.SentinelConnectionPool",
    "redis.crc.key_slot",
    "uvicorn.protocols.utils.ClientDisconnected",
    "websockets.utils.apply_mask",
]

SUBCLASSES: dict[str, tuple[type, ...]] = {
    "uvicorn.Config": (ServiceConfig,),
    "uvicorn HttpToolsProtocol": (BoundedHttp,),
    "uvicorn WebSocketsSansIOProtocol": (BoundedWebSocket, DirectWebSocket),
    "uvicorn Multiprocess": (Workers,),
    "websockets connect": (_Direct,),
    "redis Connection": (_PipelineConnection,),
}

LATER = {"url", "scope"}
"""Attributes that exist only once a request has begun; the library's source is searched for their assignment."""


@pytest.mark.parametrize(("library", "name"), [(kind, name) for kind, names in NAMES.items() for name in names.split()])
async def test_an_internal_that_is_used_exists(library: str, name: str) -> None:
    made = LIBRARY[library]()
    kind = made if isinstance(made, type) else type(made)
    exists = hasattr(made, name) or (name in LATER and re.search(rf"self\.{name}(:| =)", inspect.getsource(kind)))
    assert exists, f"{library} has no {name} any more: see the places that use it before the bound is raised"


@pytest.mark.parametrize("path", FUNCTIONS)
def test_an_internal_function_that_is_used_exists(path: str) -> None:
    module, _, name = path.rpartition(".")
    assert hasattr(import_module(module), name), f"{module} has no {name} any more"


@pytest.mark.parametrize("library", SUBCLASSES)
async def test_the_list_has_every_inherited_name_that_a_subclass_uses(library: str) -> None:
    made = LIBRARY[library]()
    of_asyncio = set(dir(asyncio.Protocol))
    used = {name for ours in SUBCLASSES[library] for name in names_in(inspect.getsource(ours), ("self", "super()"))}
    inherited = {name for name in used - of_asyncio if hasattr(made, name) or name in LATER}
    assert {name for name in inherited if not name.startswith("__")} - set(NAMES[library].split()) == set()


def test_the_list_has_no_name_that_is_not_used() -> None:
    sources = [path.read_text() for folder in ("server", "storage", "client") for path in (ROOT / folder).rglob("*.py")]
    used = {name for source in sources for name in names_in(source)}
    assert [name for names in NAMES.values() for name in names.split() if name not in used] == []


def names_in(source: str, objects: tuple[str, ...] = ()) -> set[str]:
    """The methods that some code defines, and the attributes that it uses, of these objects alone if there are any."""
    tree = ast.walk(ast.parse(textwrap.dedent(source)))
    found = set[str]()
    for node in tree:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Attribute) and (not objects or ast.unparse(node.value) in objects):
            found.add(node.attr)
    return found
