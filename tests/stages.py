"""A store in whose commits something happens after stage 1 and before stage 2."""

import asyncio
from abc import abstractmethod
from typing import Any

from playhead.storage.parts import Parts
from playhead.storage.store import Store


class BetweenStages(Store):
    """What happens is up to the kind of store."""

    def __init__(self, *args: Any, kind: type[Parts] = Parts, **more: Any) -> None:
        super().__init__(kind(*args, **more))
        commits = self._parts.commits
        finish = commits.finish

        async def interrupted(commands: list[tuple[Any, ...]], written: set[str]) -> None:
            await self.between_stages()
            await finish(commands, written)

        commits.finish = interrupted  # type: ignore[method-assign]

    @abstractmethod
    async def between_stages(self) -> None: ...


class WaitsBetweenStages(BetweenStages):
    """Waits there until it may go on."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.reached, self.go_on = asyncio.Event(), asyncio.Event()

    async def between_stages(self) -> None:
        self.reached.set()
        await self.go_on.wait()
