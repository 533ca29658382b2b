"""Runs every Python peer on the same uvicorn as the service; the store's address is a command-line option."""

import argparse
import logging
from typing import Any

import uvicorn


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--store", default="")
    return parser.parse_args()


def serve(app: Any, port: int) -> None:
    logging.basicConfig(level=logging.WARNING)
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=port,
        loop="uvloop",
        http="httptools",
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        ws_ping_interval=20,
        ws_ping_timeout=20,
        access_log=False,
        log_level="warning",
        backlog=2_048,
    )
