"""How a command reports that it cannot do what it was asked to."""


class CommandError(Exception):
    """A command cannot start or go on; the message is one sentence for the person who ran it."""
