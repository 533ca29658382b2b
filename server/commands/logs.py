"""The format of the log: one line for each event, which never contains what a client sent.

Control characters are escaped, so that a message cannot forge a line. An exception is logged with its type and where it
was raised, but without its text, because the text of a library's exception may repeat a token or a payload.
"""

import logging
import traceback
from typing import Any

FRAMES = 6
"""Frames of a traceback that are shown."""


class OneLine(logging.Formatter):
    """Formats a record as time, level, logger and message, with an exception in brackets at the end."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        record.message = record.getMessage()
        record.asctime = self.formatTime(record)
        line = self.formatMessage(record).rstrip()
        if record.exc_info:
            line += f" {self.formatException(record.exc_info)}"
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)

    def formatException(self, ei: Any) -> str:
        kind, error, trace = ei
        if error is None:
            return ""
        while isinstance(error, BaseExceptionGroup) and error.exceptions:
            error = error.exceptions[0]
            kind, trace = type(error), error.__traceback__ or trace
        frames = traceback.extract_tb(trace)[-FRAMES:]
        where = " < ".join(f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in reversed(frames))
        return f"[{kind.__name__} at {where}]"


def config(level: str) -> dict[str, Any]:
    """The configuration of each process, for `logging.config.dictConfig`.

    Libraries log warnings and errors only, because below that the WebSocket library logs each frame and header. The
    audit log is always on.

    Args:
        level: of Playhead's own loggers.
    """
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": "playhead.server.commands.logs.OneLine"}},
        "filters": {"peers": {"()": "playhead.server.transport.config.PeerMistakeFilter"}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
        "loggers": {
            "playhead": {"level": level.upper()},
            "playhead.audit": {"level": "INFO"},
            "uvicorn": {"level": "WARNING"},
            "uvicorn.error": {"level": "WARNING", "filters": ["peers"]},
        },
        "root": {"level": "WARNING", "handlers": ["stderr"]},
    }
