"""Deciding tool calls: the requests that wait for a decision, and their queue.

A request is answered exactly once: by a callback, by whoever took it from the queue (any thread, or
asyncio), by its expiry, or by the engine that no longer wants to know. Nobody answers = denied. The
decisions themselves are in `decisions`, rules that decide without a person in `policy`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast

import msgspec

from quarterdeck.errors import AlreadyResolved, OptionError, SessionClosed, UsageError
from quarterdeck.session.decisions import (
    NO_REASON,
    Allow,
    Behavior,
    CanUseTool,
    Decision,
    Defer,
    Deny,
    Destination,
    PermissionContext,
    PermissionRule,
    PermissionUpdate,
    UpdateKind,
    decision_to_wire,
)
from quarterdeck.session.policy import Policy

__all__ = [
    "ABORTED",
    "EXPIRY",
    "MAX_PENDING",
    "Allow",
    "Behavior",
    "CanUseTool",
    "Decision",
    "Defer",
    "Deny",
    "Destination",
    "PermissionContext",
    "PermissionQueue",
    "PermissionRequest",
    "PermissionRule",
    "PermissionUpdate",
    "Policy",
    "RequestState",
    "UpdateKind",
    "decision_to_wire",
]

log = logging.getLogger(__name__)

RequestState = Literal["pending", "allowed", "denied", "expired", "cancelled"]

EXPIRY = 15 * 60.0  # seconds until a request nobody answers is denied
MAX_PENDING = 1000  # requests without an answer in one queue
ABORTED = "Operation aborted"


# -- requests ---------------------------------------------------------------------------------------


class PermissionRequest:
    """A tool call that waits for a decision. Thread-safe; resolved exactly once.

    `created_at` and `expires_at` are seconds on one clock; None never expires. `on_resolved` is
    called exactly once, with the request, in the thread that resolved it.
    """

    def __init__(
        self,
        tool_name: str,
        input: dict[str, Any],
        context: PermissionContext,
        *,
        created_at: float,
        expires_at: float | None = None,
        on_resolved: Callable[[PermissionRequest], None] | None = None,
    ) -> None:
        self.tool_name = tool_name
        self.input = input
        self.context = context
        self.created_at = created_at
        self.expires_at = expires_at
        self._on_resolved = on_resolved
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._state: RequestState = "pending"
        self._decision: Decision | None = None
        self._watchers: list[Callable[[PermissionRequest], None]] = []
        self._queue: PermissionQueue | None = None

    def __repr__(self) -> str:
        return f"<PermissionRequest {self.request_id} {self.tool_name} {self.state}>"

    @property
    def request_id(self) -> str:
        """The engine's name for this request."""
        return self.context.request_id

    @property
    def state(self) -> RequestState:
        """Where it stands; everything but `pending` is final."""
        return self._state

    @property
    def decision(self) -> Decision | None:
        """The answer, None while there is none. Expired and cancelled requests have a Deny."""
        return self._decision

    @property
    def questions(self) -> tuple[dict[str, Any], ...]:
        """What AskUserQuestion asks; empty for other tools."""
        found = self.input.get("questions") if self.tool_name == "AskUserQuestion" else None
        return tuple(q for q in found if isinstance(q, dict)) if isinstance(found, list) else ()

    def allow(
        self,
        updated_input: dict[str, Any] | None = None,
        updated_permissions: Sequence[PermissionUpdate] = (),
    ) -> None:
        """Run the tool. Raises AlreadyResolved, OptionError for an input that is not JSON."""
        updates = tuple(updated_permissions)
        for update in updates:
            if not isinstance(update, PermissionUpdate):
                raise OptionError("updated_permissions", update, "must be a PermissionUpdate")
        copied = None if updated_input is None else _json_object("updated_input", updated_input)
        self._must("allowed", Allow(copied, updates))

    def deny(self, message: str = NO_REASON, interrupt: bool = False) -> None:
        """Do not run it; the model reads `message`. Raises AlreadyResolved."""
        self._must("denied", Deny(str(message), bool(interrupt)))

    def answer(self, answers: Mapping[str, str | Sequence[str]]) -> None:
        """Answer AskUserQuestion: the text of each question and a label, or several.

        Questions may be left out, but not all. Labels of a multi-select question are joined by ", ".
        Raises OptionError for a question that was not asked, several labels for a question that takes
        one, or an empty answer; UsageError when this request asks nothing; AlreadyResolved.
        """
        asked = {q["question"]: q for q in self.questions if isinstance(q.get("question"), str)}
        if not asked:
            raise UsageError(f"{self.tool_name} asks nothing", remedy="use allow() or deny()")
        if not answers:
            raise OptionError("answers", answers, "is empty", remedy="use deny() to dismiss")
        given: dict[str, str] = {}
        for question, labels in answers.items():
            if question not in asked:
                raise OptionError("answers", question, f"was not asked; asked: {list(asked)}")
            chosen = [labels] if isinstance(labels, str) else list(labels)
            if not chosen or not all(isinstance(label, str) and label for label in chosen):
                raise OptionError("answers", labels, "must be a label or a list of labels")
            if len(chosen) > 1 and asked[question].get("multiSelect") is not True:
                raise OptionError("answers", labels, f"{question!r} takes one label only")
            given[question] = ", ".join(chosen)
        self.allow({**self.input, "answers": given})

    def defer(self) -> Defer:
        """Leave it to somebody else: one taken from a queue goes to the queue's end.

        Raises AlreadyResolved.
        """
        if self._state != "pending":
            raise AlreadyResolved(f"{self!r} needs no answer any more")
        if self._queue is not None:
            self._queue._put_back(self)
        return Defer()

    def cancel(self, reason: str = "The agent no longer waits for an answer.") -> bool:
        """The engine withdrew the question. False when it was already resolved."""
        return self._settle("cancelled", Deny(reason))

    def expire(self, reason: str = "Nobody answered in time.") -> bool:
        """Its time is over. False when it was already resolved."""
        return self._settle("expired", Deny(reason))

    def settle(self, decision: Decision) -> bool:
        """Resolve it unless somebody else was faster; says whether this was the answer."""
        state: RequestState = "allowed" if isinstance(decision, Allow) else "denied"
        return self._settle(state, decision)

    def wait(self, timeout: float | None = None) -> Decision:
        """Block this thread until it is resolved. Raises TimeoutError after `timeout` seconds."""
        if not self._done.wait(timeout):
            raise TimeoutError(f"{self.tool_name} was not decided within {timeout} s")
        assert self._decision is not None
        return self._decision

    async def wait_async(self) -> Decision:
        """Wait until it is resolved, by whatever thread. Cancelling stops the waiting only."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()

        def wake(_: PermissionRequest) -> None:
            _wake(loop, future)

        self._watch(wake)
        try:
            await future
        finally:
            self._unwatch(wake)
        assert self._decision is not None
        return self._decision

    def _must(self, state: RequestState, decision: Decision) -> None:
        if not self._settle(state, decision):
            raise AlreadyResolved(f"{self!r} has its answer", remedy="look at request.decision")

    def _settle(self, state: RequestState, decision: Decision) -> bool:
        with self._lock:
            if self._state != "pending":
                return False
            self._decision = decision
            self._state = state
            watchers, self._watchers = self._watchers, []
        self._done.set()
        if self._on_resolved is not None:
            watchers.append(self._on_resolved)
        for watcher in watchers:
            try:
                watcher(self)
            except Exception:
                log.exception("a watcher of %r failed", self)
        return True

    def _watch(self, watcher: Callable[[PermissionRequest], None]) -> None:
        """Call it once when resolved, at once if that has happened."""
        with self._lock:
            if self._state == "pending":
                self._watchers.append(watcher)
                return
        watcher(self)

    def _unwatch(self, watcher: Callable[[PermissionRequest], None]) -> None:
        with self._lock:
            if watcher in self._watchers:
                self._watchers.remove(watcher)


def _json_object(field: str, value: object) -> dict[str, Any]:
    """A copy that is certainly JSON, so that nobody can change it or break the protocol with it."""
    if not isinstance(value, dict):
        raise OptionError(field, value, "must be a dict")
    try:
        copied = msgspec.json.decode(msgspec.json.encode(value))
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise OptionError(field, value, f"has no JSON form: {error}") from None
    return cast(dict[str, Any], copied)


def _wake(loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]) -> None:
    """Let a waiter in `loop` go on; from any thread."""

    def finish() -> None:
        if not future.done():
            future.set_result(None)

    try:
        loop.call_soon_threadsafe(finish)
    except RuntimeError:
        log.debug("an event loop that waited for a permission is closed")


# -- the queue --------------------------------------------------------------------------------------


class PermissionQueue:
    """Requests that wait for somebody, first in first out. Usable from any thread and from asyncio.

    Taking a request (`poll`, `pop`, `get`) does not answer it: it stays in `pending()` until it is
    resolved. At most `limit` may be without an answer; one more is denied at once.
    """

    def __init__(self, *, limit: int = MAX_PENDING) -> None:
        if not isinstance(limit, int) or limit < 1:
            raise OptionError("limit", limit, "must be at least 1")
        self._limit = limit
        self._changed = threading.Condition()
        self._open: OrderedDict[int, PermissionRequest] = OrderedDict()
        self._fifo: OrderedDict[int, PermissionRequest] = OrderedDict()
        self._getters: set[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = set()
        self._closed = ""

    def __len__(self) -> int:
        """How many nobody has taken."""
        with self._changed:
            return len(self._fifo)

    def __bool__(self) -> bool:
        """A queue is true even when it is empty, so that `if queue` asks whether there is one."""
        return True

    @property
    def empty(self) -> bool:
        """Whether there is nothing to take."""
        return len(self) == 0

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return bool(self._closed)

    def pending(self) -> list[PermissionRequest]:
        """Every request without an answer, taken or not, oldest first."""
        with self._changed:
            return list(self._open.values())

    def push(self, request: PermissionRequest) -> bool:
        """Add a request. False when it was denied at once (the queue is full or closed)."""
        with self._changed:
            refusal = self._closed
            if not refusal and len(self._open) >= self._limit:
                refusal = f"more than {self._limit} permission requests are waiting"
            if not refusal:
                request._queue = self
                self._open[id(request)] = request
                self._fifo[id(request)] = request
        if refusal:
            request.settle(Deny(refusal))
            return False
        request._watch(self._forget)
        self._notify()
        return True

    def poll(self) -> PermissionRequest | None:
        """Take the oldest, without waiting; None when there is none."""
        with self._changed:
            return self._take()

    def pop(self, timeout: float | None = None) -> PermissionRequest | None:
        """Take the oldest; block this thread up to `timeout` seconds for one.

        None when the time is over or the queue is closed. Not for use in an event loop: see `get`.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._fifo or self._closed, timeout)
            return self._take()

    async def get(self) -> PermissionRequest:
        """Take the oldest, waiting for one. Raises SessionClosed when the queue is closed.

        Cancelling loses no request.
        """
        loop = asyncio.get_running_loop()
        while True:
            future: asyncio.Future[None] = loop.create_future()
            getter = (loop, future)
            with self._changed:
                request = self._take()
                if request is not None:
                    return request
                if self._closed:
                    raise SessionClosed(self._closed)
                self._getters.add(getter)
            try:
                await future
            finally:
                with self._changed:
                    self._getters.discard(getter)

    def drain(self, reason: str = ABORTED) -> int:
        """Deny everything that has no answer, taken or not; the queue goes on. Returns how many."""
        return sum(request.settle(Deny(reason)) for request in self.pending())

    def close(self, reason: str = "The session is closed.") -> int:
        """Drain, and deny from now on what is pushed. Wakes everybody who waits. Idempotent."""
        with self._changed:
            self._closed = self._closed or reason
        self._notify()
        return self.drain(reason)

    def expire(self, now: float) -> list[PermissionRequest]:
        """Deny what is past its time, by the clock that the requests were made with."""
        late = [r for r in self.pending() if r.expires_at is not None and r.expires_at <= now]
        return [request for request in late if request.expire()]

    def next_expiry(self) -> float | None:
        """When `expire` next has something to do; None when never."""
        return min((r.expires_at for r in self.pending() if r.expires_at is not None), default=None)

    def _take(self) -> PermissionRequest | None:
        while self._fifo:
            request = self._fifo.popitem(last=False)[1]
            if request.state == "pending":
                return request
        return None

    def _put_back(self, request: PermissionRequest) -> None:
        with self._changed:
            if id(request) not in self._open:
                return
            self._fifo[id(request)] = request
        self._notify()

    def _forget(self, request: PermissionRequest) -> None:
        with self._changed:
            self._open.pop(id(request), None)
            self._fifo.pop(id(request), None)

    def _notify(self) -> None:
        """Wake everybody: a waiter that was cancelled meanwhile cannot swallow the news."""
        with self._changed:
            self._changed.notify_all()
            getters, self._getters = self._getters, set()
        for loop, future in getters:
            _wake(loop, future)
