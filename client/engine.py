"""The background task of a client, `run`: connects, reconnects, and falls back to HTTP.

The server's close codes carry the policy. Codes x500-x999 end the client with a typed error. After all others it
reconnects with a random delay, never sooner than a `goodbye` asks for. An expired token is renewed once.
"""

import asyncio
import contextlib
import logging
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from playhead.client.connection import Conversation, Ended
from playhead.client.credentials import Credentials
from playhead.client.errors import (
    ClientError,
    RestError,
    Terminal,
    TokenExpired,
    is_terminal,
    terminal_answer,
    terminal_close,
)
from playhead.client.outbox import WINDOW, Outbox
from playhead.client.pace import Backoff, Pace
from playhead.client.records import Records
from playhead.client.rest import Rest
from playhead.client.waiting import Waiting
from playhead.protocol.codecs import Codec
from playhead.protocol.errors import CloseCode, PlayheadError
from playhead.protocol.messages import Ack, Hello, RecordView

logger = logging.getLogger(__name__)

FAILURES = 3
"""Consecutive attempts without a welcome before HTTP is tried."""
STABLE_MS = 10_000
"""A conversation that lasted this long was a success, even if nothing was acked."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where the service is, and by which transports it is reached. Intervals in s."""

    ws_url: str
    codec: Codec
    tls: ssl.SSLContext | None
    websocket: bool
    http: bool
    websocket_retry_s: float
    """Time between attempts to return to the WebSocket, while HTTP is used."""
    poll_s: float
    """Time between requests for changes, while HTTP is used."""


class Engine:
    """The owner of the outbox, the records and the conversations.

    Args:
        clock: monotonic, ms since 1970.
    """

    def __init__(
        self,
        route: Route,
        hello: Hello,
        outbox: Outbox,
        credentials: Credentials,
        rest: Rest,
        backoff: Backoff,
        clock: Callable[[], int],
    ) -> None:
        self._route = route
        self._hello = hello
        self._credentials = credentials
        self._rest = rest
        self._backoff = backoff
        self._clock = clock
        self.outbox = outbox
        self.waiting = Waiting(outbox)
        self.records = Records()
        self.pace = Pace()
        self.wake = asyncio.Event()
        self.syncs: deque[asyncio.Future[None]] = deque()
        self.state = "connecting"
        self.trouble = ""
        self.retries = 0
        """Connections that ended or failed, and failed HTTP requests; each is retried."""
        self.error: ClientError | None = None
        self._failures = 0
        self._renew = False
        """The token has expired; the next attempt fetches a fresh one first."""
        self._renewed = False
        """A fresh token was fetched, and no conversation has begun since."""

    async def run(self) -> None:
        """Run until the server refuses this client for good; then `error` has the reason."""
        try:
            while True:
                await self._attempt()
        except Terminal as terminal:
            self._end(terminal)
        except Exception as bug:
            logger.exception("The client ends because of a bug in it")
            error = ClientError(f"{type(bug).__name__}: {bug}")
            error.__cause__ = bug
            self._end(error)

    def _end(self, error: ClientError) -> None:
        self.error, self.state, self.trouble = error, "ended", str(error)
        self.fail(error)
        self.records.close()

    def fail(self, error: ClientError) -> None:
        """Raise an error in every waiter; nothing more is sent."""
        self.waiting.fail(error)
        for future in self.syncs:
            if not future.done():
                future.set_exception(error)
        self.syncs.clear()

    async def up_to_date(self) -> None:
        """Ask the service for all changes, and wait for the answer."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.syncs.append(future)
        self.wake.set()
        await future

    def hello(self) -> Hello:
        """The next hello. It has no token: clients other than browsers send it in a header of the handshake."""
        return self._hello.model_copy(update={"since": self.records.rev, "epoch": self.records.epoch})

    def online(self) -> None:
        self.state, self.trouble = "online", ""
        self._failures = 0
        self._renewed = False

    def settle(self, ack: Ack) -> None:
        if self.waiting.settle(ack):
            self._backoff.reset()

    async def fresh_token(self) -> str | None:
        if not self._credentials.renewable:
            return None
        try:
            return await self._credentials.fresh()
        except Exception as error:  # from the user's function: keep the current token while it is valid
            logger.warning("get_token failed with %s; the current token is used until it expires", type(error).__name__)
            return None

    async def _attempt(self) -> None:
        """Hold one conversation, then wait until the next may begin. Raises Terminal."""
        ended, began = Ended(0, "", refused=True), self._clock()
        if self._route.websocket:
            ended = await self._converse()
            self._judge(ended)
            self.retries += 1
            if ended.greeted and self._clock() - began >= STABLE_MS:
                self._backoff.reset()
            self.state, self.trouble = "offline", ended.reason
            logger.info("Not connected: %s", ended.reason)
        delay_s = self._backoff.next_s(ended.retry_after_s)
        if self._route.http and self._rest.user_id is not None and (ended.refused or self._failures >= FAILURES):
            await self._by_http(delay_s)
        else:
            await asyncio.sleep(delay_s)
        if self.state != "http":
            self.state = "connecting"

    async def _converse(self) -> Ended:
        try:
            token = await (self._credentials.fresh() if self._renew else self._credentials.token())
        except Exception as error:  # from the user's function, which may need the network too
            return Ended(0, f"get_token: {type(error).__name__}")
        self._renewed, self._renew = self._renewed or self._renew, False
        route = self._route
        conversation = Conversation(route.ws_url, route.codec, self, self._clock, route.tls)
        return await conversation.run(self._credentials.headers(token))

    def _judge(self, ended: Ended) -> None:
        """Decide by the end of a conversation how to go on. Raises Terminal if the client must not reconnect."""
        if ended.code == CloseCode.TOKEN_EXPIRED:
            if not self._credentials.renewable or self._renewed:
                raise TokenExpired(ended.code, ended.reason)
            self._renew = True
        elif is_terminal(ended.code):
            raise terminal_close(ended.code, ended.reason)
        elif ended.code == CloseCode.RATE:
            self.pace.slow_down(self._clock() / 1_000)
        if not ended.greeted:
            self._failures += 1

    async def _by_http(self, delay_s: float) -> None:
        """Send reports and ask for changes by HTTP, until it is time to try the WebSocket. Raises Terminal."""
        loop = asyncio.get_running_loop()
        until = loop.time() + max(delay_s, self._route.websocket_retry_s)
        poll_at = 0.0
        while (now := loop.time()) < until:
            self.wake.clear()
            try:
                while self.outbox.has_work:
                    await self._post()
                if now >= poll_at or self.syncs:
                    await self._poll()
                    poll_at = loop.time() + self._route.poll_s
            except RestError as error:
                terminal = terminal_answer(error)
                if terminal is not None:
                    raise terminal from error
                self.state, self.trouble = "offline", str(error)
                self.retries += 1
                await asyncio.sleep(self._backoff.next_s(error.retry_after_s))
                continue
            except (OSError, PlayheadError) as error:
                self.state, self.trouble = "offline", f"{type(error).__name__}: {error}"
                self.retries += 1
                await asyncio.sleep(delay_s)
                return
            self.state, self.trouble = "http", ""
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, min(poll_at, until) - loop.time())):
                    await self.wake.wait()

    async def _post(self) -> None:
        heartbeats = self.outbox.take(self._clock(), WINDOW)
        try:
            acks = await self._rest.heartbeats(self.outbox.session, heartbeats)
            self.state, self.trouble = "http", ""
            before = len(self.outbox)
            for ack in acks:
                self.settle(ack)
            if len(self.outbox) == before:
                raise ConnectionError("the service acked none of the heartbeats")
        finally:
            self.outbox.disconnected()

    async def _poll(self) -> None:
        waiting, records = list(self.syncs), self.records
        self.syncs.clear()
        try:
            changes = await self._rest.changes(records.rev, records.epoch)
        except BaseException:
            self.syncs.extend(waiting)
            raise
        records.welcome(changes.epoch or "", changes.rev or 0)
        records.update([each for each in changes.progress_data if isinstance(each, RecordView)], changes.rev or 0)
        records.synced(changes.rev or 0)
        for future in waiting:
            if not future.done():
                future.set_result(None)
