"""Any bytes on a learner's channel in the store."""

from functools import cache
from typing import Any

from playhead.protocol.codecs import CODECS
from playhead.protocol.errors import PeerError
from playhead.protocol.messages import Message, Progress
from playhead.server.limits.large_reads import LargeRead
from playhead.server.push.hub import Hub
from playhead.server.push.learner import Learner
from playhead.storage.events import _Followed
from playhead.storage.keys import Keys
from playhead.storage.store import open_store
from tests.serving import FakeClock

USER = "00000000-0000-4000-8000-000000000001"


def push(data: bytes) -> None:
    """Nothing is raised. The message is either damaged and counted as such, and nothing is sent to the device; or the
    device is sent valid progress messages, and its revision does not decrease.
    """
    hub, name = _hub()
    device = _Device()
    hub._learners[USER].devices = [device]
    before = hub._store.damaged_values["push"]
    hub._events._received(name, data)
    is_damaged = hub._store.damaged_values["push"] > before
    assert type(device.rev) is int
    assert not is_damaged or (device.sent, device.rev, device.missed) == ([], _Device.rev, 0)
    assert device.rev >= _Device.rev
    for message in device.sent:
        assert isinstance(message, Progress)
        assert message.rev <= device.rev
        for codec in CODECS.values():
            codec.encode(message)


class _Device:
    """A connected device, up to date as of revision 5."""

    user_id = USER
    rev: int = 5
    since = 0
    missed: int | None = None

    def __init__(self) -> None:
        self.sent: list[Message] = []

    def send(self, *messages: Message) -> None:
        self.sent.extend(messages)

    def large_read(self) -> LargeRead:
        raise NotImplementedError

    async def drained(self) -> None: ...

    def restart(self) -> None: ...

    def refuse(self, error: PeerError) -> None: ...


@cache
def _hub() -> tuple[Hub, str]:
    """A hub that follows one learner and reads nothing from the store, as if it was about to stop."""
    keys = Keys("fuzz")
    hub = Hub(open_store("unix:///nowhere", worker="w", key_prefix=keys.prefix), FakeClock())
    name = keys.push(USER)
    hub._events._followed[USER] = _Followed(name)
    hub._learners[USER] = Learner(USER, hub._reader)
    hub._reader._stopped, hub._reader._tasks = True, _NO_TASKS
    return hub, name


_NO_TASKS: Any = object()
