"""The error by which a command reports that it cannot run."""


class CommandError(Exception):
    """A command cannot start or continue; the message is one sentence for the person who ran it."""
