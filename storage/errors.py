"""The exceptions of storage, besides ValueError for wrong arguments."""


class StoreUnavailable(Exception):
    """The store cannot be reached, or refuses to write. Try again; a failed commit leaves no record half written."""


class NotDurable(StoreUnavailable):
    """A commit is in the store, but not yet on the disk or the replicas that its durability requires.

    The text may be shown to anybody: it contains no address.
    """


class TimeNotAllowed(StoreUnavailable):
    """The store's user has no permission to run TIME."""
