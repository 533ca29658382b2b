"""A real nginx in front of a server, as operators run one."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

from tests.device import PATIENCE_S
from tests.missing import program
from tests.ports import free_port

CONFIG = """
daemon off;
{user}
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    map $http_upgrade $connection_upgrade {{ default upgrade; "" ""; }}
    upstream playhead {{
        server 127.0.0.1:{upstream};
        keepalive 64;
        keepalive_timeout {kept};
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            limit_except GET POST {{ deny all; }}
            proxy_pass http://playhead;
            proxy_http_version 1.1;
            proxy_request_buffering off;
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
        }}
    }}
}}
"""
"""DELETE is refused: one that reaches the server nevertheless was smuggled."""


@contextlib.asynccontextmanager
async def nginx(directory: Path, upstream: int, kept: str = "60s") -> AsyncIterator[int]:
    """Run nginx, and yield its port.

    Args:
        kept: how long it keeps an idle connection to the server.
    """
    port, path = free_port(), directory / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""
    path.write_text(CONFIG.format(directory=directory, upstream=upstream, port=port, kept=kept, user=user))
    binary = program("nginx")
    process = await asyncio.create_subprocess_exec(binary, "-e", f"{directory}/error.log", "-c", str(path))
    try:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                assert process.returncode is None, (directory / "error.log").read_text()
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.02)
                else:
                    writer.close()
                    await writer.wait_closed()
                    break
        yield port
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
