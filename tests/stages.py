"""Stores that tests interrupt between stage 1 and stage 2 of a commit."""

import asyncio
from abc import abstractmethod
from typing import Any

from playhead.storage.parts import Parts
from playhead.storage.store import Store


class BetweenStages(Store):
    """A store that calls `between_stages` in each commit."""

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
    """A store whose commits wait between the stages until the test sets `go_on`."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.reached, self.go_on = asyncio.Event(), asyncio.Event()

    async def between_stages(self) -> None:
        self.reached.set()
        await self.go_on.wait()
