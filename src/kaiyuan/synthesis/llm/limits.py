"""What an endpoint can take: requests and tokens a minute, and when to leave it alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from kaiyuan.progress import duration, say
from kaiyuan.synthesis.llm.calls import EndpointFailed

Clock = Callable[[], float]


class Bucket:
    """At most ``per_minute`` units in any minute, evenly: a second's worth may come at once, the rest flows in.

    Takes and refills add up to no more than ``per_minute`` in any 60 seconds. ``settle`` corrects a taking that was
    an estimate; a debt is waited off by those who come next. 0 is no limit.
    """

    def __init__(self, per_minute: float, clock: Clock = time.monotonic) -> None:
        self.clock = clock
        self.capacity = max(per_minute / 60, 1.0)
        self.rate = max(per_minute - self.capacity, per_minute / 60) / 60
        self.limited = per_minute > 0
        self.level, self.when = self.capacity, clock()

    def take(self, amount: float) -> float:
        """Take ``amount`` now or later: the seconds to wait before using it. Takers are served in order."""
        if not self.limited:
            return 0.0
        now = self.clock()
        self.level = min(self.capacity, self.level + (now - self.when) * self.rate)
        self.when = now
        wait = max(0.0, (min(amount, self.capacity) - self.level) / self.rate)
        self.level -= amount
        return wait

    def settle(self, amount: float) -> None:
        """Give back what was not used (or, below 0, take what was used beyond the estimate)."""
        if self.limited:
            self.level = min(self.capacity, self.level + amount)


class Breaker:
    """Notices that an endpoint is down, says so once, lets one request at a time try, and says when it is back."""

    def __init__(
        self, name: str, threshold: int, probe_every: float, give_up: float, clock: Clock = time.monotonic
    ) -> None:
        self.name, self.threshold, self.probe_every, self.give_up, self.clock = (
            name,
            threshold,
            probe_every,
            give_up,
            clock,
        )
        self.failures = 0
        self.down_since: float | None = None
        self._pause_until = 0.0
        self._next_probe = 0.0
        self._changed = asyncio.Event()

    @property
    def is_open(self) -> bool:
        return self.down_since is not None

    async def ready(self) -> bool:
        """Return when a request may be sent; true if it is the one that tries whether a lost endpoint is back."""
        while True:
            now = self.clock()
            if self.down_since is None:
                until = self._pause_until
                if now >= until:
                    return False
            else:
                gives_up = self.down_since + self.give_up
                if now >= gives_up:
                    raise EndpointFailed(f"endpoint {self.name} has been down for {duration(now - self.down_since)}: "
                                         "nothing is lost, run the same command to go on")  # fmt: skip
                if now >= self._next_probe:
                    self._next_probe = now + self.probe_every
                    return True
                until = min(self._next_probe, gives_up)
            await self._sleep(until - now)

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(max(seconds, 0.001)):
                await self._changed.wait()
        except TimeoutError:
            pass

    def pause(self, seconds: float) -> None:
        """Nobody sends for so long: the server asked for it."""
        self._pause_until = max(self._pause_until, self.clock() + seconds)

    def succeeded(self) -> None:
        self.failures = 0
        if self.down_since is not None:
            say(f"endpoint {self.name} is back after {duration(self.clock() - self.down_since)}")
            self.down_since = None
            self._changed.set()
            self._changed = asyncio.Event()

    def failed(self, reason: str, rest: float = 0.0) -> None:
        """Count a failure that says the endpoint itself is unwell; after one with ``rest`` it is down at once."""
        self.failures += 1
        if self.down_since is None and (self.failures >= self.threshold or rest):
            self.down_since = self.clock()
            self._next_probe = self.down_since + max(self.probe_every, rest)
            say(f"endpoint {self.name} is down ({reason}, {self.failures} failures in a row): "
                f"tried again every {duration(self.probe_every)}, for {duration(self.give_up)}")  # fmt: skip
