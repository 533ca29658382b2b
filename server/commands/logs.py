"""What is logged, and how: a line an event, made of what we say and never of what was sent.

A line can't be forged by what is in a message: control characters are escaped. An exception is told by its type and
where it came from, without its text: a library's text may repeat a token or a payload.
"""

import logging
import traceback
from typing import Any

FRAMES = 6
"""Of a stack, innermost last."""


class OneLine(logging.Formatter):
    """Time, level, logger, message; an exception in brackets at the end."""

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
    """For logging.config.dictConfig, in each process. `level` is ours; libraries speak at warnings only, audits always.

    At lower levels the WebSocket library would write down each frame and header.
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
