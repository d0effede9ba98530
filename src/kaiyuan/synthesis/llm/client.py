"""Asking: from the journal if the answer is there, else from the endpoint with limits, patience and a breaker."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from kaiyuan.errors import ConfigError, KaiyuanError
from kaiyuan.progress import say
from kaiyuan.synthesis.llm.calls import Answer, Call, EndpointFailed, Message, RowFailed
from kaiyuan.synthesis.llm.config import Asking, Client, Endpoint
from kaiyuan.synthesis.llm.journal import Journal
from kaiyuan.synthesis.llm.limits import Breaker, Bucket
from kaiyuan.synthesis.llm.meter import Meter
from kaiyuan.synthesis.llm.tokens import count_messages, guess
from kaiyuan.synthesis.llm.wire import Failure, send

if TYPE_CHECKING:
    import httpx

_PATIENCE = 5
"""Refusals for asking too much (429) that count as one failed try."""
_POOL = 4
"""Connections of one pool."""
_LOOPBACK = ("http://127.", "http://localhost", "http://[::1]")


class EndpointClient:
    """One endpoint: its connections, limits and health."""

    def __init__(
        self, name: str, endpoint: Endpoint, settings: Client, meter: Meter, budget: float | None = None
    ) -> None:
        self.name, self.endpoint, self.settings, self.meter, self.budget = name, endpoint, settings, meter, budget
        self._key = _api_key(name, endpoint)
        self._pools = _pools(endpoint, self._key)
        self._places: asyncio.LifoQueue[httpx.AsyncClient] = asyncio.LifoQueue()
        for place in range(endpoint.concurrency):
            self._places.put_nowait(self._pools[place % len(self._pools)])
        self._requests, self._tokens = Bucket(endpoint.requests_per_minute), Bucket(endpoint.tokens_per_minute)
        self.breaker = Breaker(
            f"{name} ({endpoint.base_url})", settings.breaker, settings.probe_every, settings.give_up
        )
        self._random = Random()
        self.sending: set[asyncio.Task[Any] | None] = set()
        """Tasks whose request is under way, and so paid for."""
        self.closing = False
        self._usual_out = float(endpoint.max_tokens)
        self._fatal = ""

    async def answer(self, call: Call, key: str) -> Answer:
        """One paid answer. ``RowFailed`` if this call gets none, ``EndpointFailed`` if none ever will."""
        http = await self._places.get()
        try:
            tries = crowded = 0
            while True:
                probing = await self.breaker.ready()
                if self._fatal:
                    raise EndpointFailed(self._fatal)
                self._check_budget()
                try:
                    answer = await self._once(http, call, key)
                except Failure as failure:
                    tries += not (probing or failure.crowded)
                    crowded += failure.crowded
                    await self._think_over(call, failure, max(tries, crowded // _PATIENCE), probing)
                else:
                    self.breaker.succeeded()
                    return answer
        finally:
            self._places.put_nowait(http)

    def _check_budget(self) -> None:
        """Asked as late as can be: what is under way at the end goes beyond the budget, what waits does not."""
        if self.budget is not None and self.meter.cost >= self.budget:
            raise EndpointFailed(f"the budget of {self.budget:g} is spent ({self.meter.cost:.4g}): nothing is lost; "
                                 "raise run.budget and run the same command to go on")  # fmt: skip

    async def _once(self, http: httpx.AsyncClient, call: Call, key: str) -> Answer:
        prompt = count_messages(call.messages, guess)
        expected = prompt + self._usual_out
        await asyncio.sleep(max(self._requests.take(1), self._tokens.take(expected)))
        body = {"model": self.endpoint.model, "messages": list(call.messages), **call.parameters}
        if self.endpoint.send_seed:
            body["seed"] = int(key[:7], 16)
        task = asyncio.current_task()
        self.sending.add(task)
        try:
            answer = await send(http, body, self.endpoint.timeout, self.settings.answer_bytes, key)
        except Failure as failure:
            self._tokens.settle(expected)
            failure.reason = self._without_key(failure.reason)
            raise
        finally:
            self.sending.discard(task)
        if not answer.tokens_in:  # some servers do not say what they used
            answer = replace(answer, tokens_in=prompt, tokens_out=guess(answer.text))
        self._tokens.settle(expected - answer.tokens_in - answer.tokens_out)
        self._usual_out += 0.05 * (answer.tokens_out - self._usual_out)
        return answer

    async def _think_over(self, call: Call, failure: Failure, tries: int, probing: bool) -> None:
        """Return when another try is due; raise if none is."""
        self.meter.failed(call.role, failure.reason)
        if failure.fatal:
            self._fatal = (
                f"endpoint {self.name} ({self.endpoint.base_url}) refuses us: {failure}{self._advice(failure)}"
            )
            raise EndpointFailed(self._fatal)
        if not failure.again or self.closing:
            raise RowFailed("endpoint", f"{self.name}: {failure}")
        if failure.unwell:
            self.breaker.failed(failure.reason)
        else:
            self.breaker.succeeded()
        wait = self._wait(failure, tries)
        if tries >= self.settings.tries and not self.breaker.is_open:
            raise RowFailed("endpoint", f"{self.name}: {failure} ({tries} tries)")
        if not probing and not self.breaker.is_open:
            await asyncio.sleep(wait)

    def _wait(self, failure: Failure, tries: int) -> float:
        """Seconds before the next try; a server that says when to come back is obeyed by all requests."""
        if failure.retry_after is not None:
            if failure.retry_after > self.settings.longest_retry_after:
                self.breaker.failed(f"it asks to wait {failure.retry_after:.0f} s", rest=failure.retry_after)
            else:
                self.breaker.pause(failure.retry_after)
            return failure.retry_after * self._random.uniform(1.0, 1.1)
        full = min(self.settings.longest_backoff, self.settings.backoff * 2 ** max(tries - 1, 0))
        return full * self._random.uniform(0.5, 1.0)

    def _advice(self, failure: Failure) -> str:
        if "401" in failure.reason or "403" in failure.reason:
            named = self.endpoint.api_key_env
            return f"; check the key in ${named}" if named else f"; set endpoints.{self.name}.api_key_env"
        return "; mend that and run the same command to go on"

    def _without_key(self, text: str) -> str:
        """``text`` without the API key, should a server repeat it, whole or its beginning."""
        if self._key:
            text = text.replace(self._key, "[key]").replace(self._key[:8], "[key]")
        return text

    async def close(self) -> None:
        for pool in self._pools:
            await pool.aclose()


def _api_key(name: str, endpoint: Endpoint) -> str:
    if not endpoint.api_key_env:
        return ""
    key = os.environ.get(endpoint.api_key_env, "").strip()
    if not key:
        raise ConfigError(
            f"endpoints.{name}: the environment variable {endpoint.api_key_env} is not set; put the key there"
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(f"endpoints.{name}: the key in {endpoint.api_key_env} cannot be sent: not printable ASCII")
    return key


def _pools(endpoint: Endpoint, key: str) -> list[httpx.AsyncClient]:
    """Small pools of connections, one place each for as many requests as may be under way.

    One large pool would look through all of its connections for every request (httpcore 1.0): with 256 of them it
    answers 49 requests a second where small ones answer ten times as many.
    """
    try:
        import httpx
    except ImportError:
        raise KaiyuanError("asking models needs httpx: pip install 'kaiyuan[synthesis]'") from None
    context = httpx.create_ssl_context()
    limits = httpx.Limits(max_connections=_POOL, max_keepalive_connections=_POOL)
    return [
        httpx.AsyncClient(
            base_url=endpoint.base_url + "/",
            headers={"authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(endpoint.timeout, connect=min(endpoint.timeout, 30.0)),
            limits=limits,
            verify=context,
            trust_env=not endpoint.base_url.startswith(_LOOPBACK),
        )
        for _ in range(-(-endpoint.concurrency // _POOL))
    ]


class Asker:
    """Answers for roles, each paid for once: what the journal has, or another task waits for, is not asked again."""

    def __init__(self, config: Asking, journal: Journal, meter: Meter) -> None:
        self.config, self.journal, self.meter = config, journal, meter
        used = {role.endpoint for _, role in config.named()}
        self._clients = {
            name: EndpointClient(name, endpoint, config.client, meter, config.budget)
            for name, endpoint in config.endpoints.items()
            if name in used
        }
        self._flying: dict[str, asyncio.Task[Answer]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Answers that are under way are waited for and kept; what only waits to be sent is dropped."""
        for client in self._clients.values():
            client.closing = True
        sending = {task for client in self._clients.values() for task in client.sending}
        for task in self._flying.values():
            if task not in sending:
                task.cancel()
        if self._flying:
            say(f"waiting for {len(sending)} answers that are under way")
            await asyncio.gather(*self._flying.values(), return_exceptions=True)
        await self.journal.flush()
        for client in self._clients.values():
            await client.close()

    async def ask(
        self, role: str, messages: Sequence[Message], sample: int = 0, schema: dict[str, Any] | None = None
    ) -> Answer:
        """The answer of ``role``. ``schema`` (JSON schema) is sent along if the endpoint knows structured output."""
        settings = self.config.role(role)
        endpoint = self.config.endpoint_of(settings)
        call = Call(role, messages, parameters_of(self.config, role, schema), sample)
        key = call.key(endpoint.model)
        record = self.journal.get(key)
        if record is not None:
            answer = Answer.from_record(record)
        else:
            answer = await self._shared(call, key, settings.endpoint)
        self.meter.count(role, endpoint, answer)
        return answer

    async def _shared(self, call: Call, key: str, endpoint: str) -> Answer:
        """Ask, or wait for the task that asks the same. A caller may be cancelled; a paid answer is kept."""
        task = self._flying.get(key)
        if task is None:
            task = self._flying[key] = asyncio.create_task(self._pay(call, key, endpoint))
            task.add_done_callback(lambda done: self._landed(key, done))
        return await asyncio.shield(task)

    async def _pay(self, call: Call, key: str, endpoint: str) -> Answer:
        answer = await self._clients[endpoint].answer(call, key)
        self.meter.count(call.role, self.config.endpoints[endpoint], answer)  # before the next request looks at it
        await self.journal.append(answer.record())
        return answer

    def _landed(self, key: str, task: asyncio.Task[Answer]) -> None:
        del self._flying[key]
        if not task.cancelled():
            task.exception()  # a caller that was cancelled does not look at it


def parameters_of(config: Asking, role_name: str, schema: dict[str, Any] | None) -> dict[str, Any]:
    """What is sent beside model and messages; part of the answer's address."""
    role = config.role(role_name)
    endpoint = config.endpoint_of(role)
    parameters: dict[str, Any] = {
        "temperature": endpoint.temperature if role.temperature is None else role.temperature,
        "max_tokens": endpoint.max_tokens if role.max_tokens is None else role.max_tokens,
    }
    top_p = endpoint.top_p if role.top_p is None else role.top_p
    if top_p is not None:
        parameters["top_p"] = top_p
    if schema is not None and endpoint.structured == "json_object":
        parameters["response_format"] = {"type": "json_object"}
    elif schema is not None and endpoint.structured == "json_schema":
        parameters["response_format"] = {
            "type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}
        }  # fmt: skip
    return parameters
