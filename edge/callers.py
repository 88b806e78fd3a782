"""Limits what each caller takes of the edge, so that one caller cannot use up what the others need: its calls in a
time window, its calls in flight and their bytes in memory, and its reads that the workers have at once."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from math import ceil

from edge.identity import Identity
from edge.settings import HttpSettings
from schemas.faults import RateLimited, Unavailable
from topics import names

WINDOW_SECONDS = 10
"""A rate limit counts the calls of windows of this length, so that a caller may send some of its calls in bursts."""
WAITING_SHARE = 0.5
"""Share of the time of a read in which it may wait for its turn. The rest is left for the answer."""
BYTES_OF_CALLER = 32 * 2**20
"""Bytes of bodies and of answers that the edge holds for one caller: four of the largest answers."""
BYTES_OF_ALL = 64 * 2**20
"""Bytes of bodies and of answers that the edge holds for all callers together."""
UNTIL_SENT = "visitor.until_sent"
"""The key of a scope with an ExitStack, which is closed when the answer is sent, or the client has left."""
CALLERS_LIMIT = 10_000
"""Callers that are remembered. Bearer tokens may have any number of subjects."""


@dataclass
class _Caller:
    """What a caller takes now. `calls_left` may follow until `window_end`."""

    reads: asyncio.Semaphore
    in_flight: int = 0
    held_bytes: int = 0
    calls_left: int = 0
    window_end: float = 0.0


class Held:
    """The bytes that the edge holds for one call until it ends: of its headers, of its body while it arrives, of its
    message, and of its answer until the client has read it."""

    def __init__(self, callers: "Callers", caller: _Caller) -> None:
        self._callers = callers
        self._caller = caller
        self._count = 0

    def add(self, count: int) -> None:
        """Raises RateLimited if the caller, and Unavailable if all callers together have too many."""
        if self._caller.held_bytes + count > BYTES_OF_CALLER:
            raise _too_many_bytes()
        if self._callers.held_bytes + count > BYTES_OF_ALL:
            raise Unavailable("edge_full", "The edge has no memory left for this call. Try again in a moment.")
        self._change(count)

    def release(self) -> None:
        self._change(-self._count)

    def _change(self, count: int) -> None:
        self._count += count
        self._caller.held_bytes += count
        self._callers.held_bytes += count


def _require_room(caller: _Caller) -> None:
    """Raises RateLimited if the largest answer might not be held. So the workers do nothing in vain for most calls."""
    if caller.held_bytes > BYTES_OF_CALLER - names.REPLY_LIMIT:
        raise _too_many_bytes()


def _too_many_bytes() -> RateLimited:
    message = "The edge holds too much of your calls. Send fewer or smaller ones at once, and read the answers."
    return RateLimited("too_many_bytes", message)


class Callers:
    """The callers by their sources. `held_bytes` are those of all callers."""

    def __init__(self, settings: HttpSettings) -> None:
        self.held_bytes = 0
        self._settings = settings
        self._callers: dict[str, _Caller] = {}

    def count(self, identity: Identity, fields: dict[str, str]) -> None:
        """Count a call, and add the caller's limit to the headers of its answer
        (draft-ietf-httpapi-ratelimit-headers-10). Raises RateLimited."""
        rate = identity.rate
        if rate is None:
            return
        caller, now = self._caller(identity), time.monotonic()
        if now >= caller.window_end:
            caller.window_end, caller.calls_left = now + WINDOW_SECONDS, rate * WINDOW_SECONDS
        reset = ceil(caller.window_end - now)
        is_exceeded = caller.calls_left == 0
        if not is_exceeded:
            caller.calls_left -= 1
        fields["RateLimit-Policy"] = f'"caller";q={rate * WINDOW_SECONDS};w={WINDOW_SECONDS}'
        fields["RateLimit"] = f'"caller";r={caller.calls_left};t={reset}'
        if is_exceeded:
            fields["Retry-After"] = str(reset)
            raise RateLimited("rate_exceeded", f"At most {rate} calls per second are allowed. Retry-After says when.")

    @contextmanager
    def in_flight(self, identity: Identity) -> Iterator[Held]:
        """Count one call of this caller as in flight. Raises RateLimited."""
        caller, limit = self._caller(identity), self._settings.in_flight
        if caller.in_flight >= limit:
            raise RateLimited("too_many_calls", f"At most {limit} calls may be in flight. Wait for their answers.")
        _require_room(caller)
        caller.in_flight += 1
        held = Held(self, caller)
        try:
            yield held
        finally:
            held.release()
            caller.in_flight -= 1

    @asynccontextmanager
    async def read_turn(self, identity: Identity, seconds: float) -> AsyncIterator[None]:
        """Wait until the workers may have one more read of this caller. `seconds` are left for its answer now. Raises
        RateLimited."""
        caller = self._caller(identity)
        try:
            async with asyncio.timeout(seconds * WAITING_SHARE):
                await caller.reads.acquire()
        except TimeoutError:
            raise RateLimited("too_many_reads", "Your other reads were in the way. Send fewer at once.") from None
        try:
            _require_room(caller)
            yield
        finally:
            caller.reads.release()

    def _caller(self, identity: Identity) -> _Caller:
        caller = self._callers.get(identity.source)
        if caller is None:
            if len(self._callers) >= CALLERS_LIMIT:
                self._forget_idle()
            caller = self._callers[identity.source] = _Caller(asyncio.Semaphore(self._settings.reads_at_once))
        return caller

    def _forget_idle(self) -> None:
        now = time.monotonic()
        self._callers = {
            source: caller for source, caller in self._callers.items() if caller.in_flight or caller.window_end > now
        }
