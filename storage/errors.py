"""What storage raises, besides ValueError for arguments that are wrong."""


class StoreUnavailable(Exception):
    """The store can't be reached, or refuses to write. Try again; nothing of a failed commit is half true."""


class NotDurable(StoreUnavailable):
    """The store has it, but not yet where it must be. The text is for everybody: it names no address."""


class TimeNotAllowed(StoreUnavailable):
    """The store's user may not run TIME."""
