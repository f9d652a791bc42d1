"""Hooks: functions of yours that the engine calls at fixed points, and what they may answer.

Claude Code takes a broken answer, or an error, for consent. So an answer is checked before it is sent,
and a hook that raises, takes too long or answers nonsense refuses what it was asked about.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import msgspec

from quarterdeck.clock import SYSTEM_CLOCK, Clock, within
from quarterdeck.errors import OptionError, UsageError
from quarterdeck.session.callbacks import call
from quarterdeck.session.decisions import Allow, Deny
from quarterdeck.session.hook_events import HOOK_EVENTS, HookEvent, HookInput, decode

__all__ = [
    "HOOK_EVENTS",
    "HookCallback",
    "HookEvent",
    "HookInput",
    "HookMatcher",
    "HookOutput",
    "HookRegistry",
    "failure_output",
]

log = logging.getLogger(__name__)

TIMEOUT = 60.0  # seconds one hook may take
MARGIN = 5  # seconds that the engine waits longer than we do, so that our answer comes first
MAX_TIMEOUT = 24 * 3600.0

HookCallback = Callable[[Any], Any]
"""Takes the event's HookInput; returns a HookOutput or None, or is async and does."""


# -- what a hook answers ----------------------------------------------------------------------------


class HookOutput(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of a hook; everything left out means no opinion.

    For every event: `continue_=False` ends the turn (on PreToolUse the tool still runs first), with
    `stop_reason` for the person; `suppress_output`; `system_message` is shown to the person;
    `decision="block"` with `reason` refuses a tool or a prompt, and makes a stopping agent go on.

    PreToolUse: `permission_decision` allow (nobody is asked), deny, ask or defer (ends the turn), with
    `permission_decision_reason`; `updated_input` replaces the tool's input completely.
    PermissionRequest: `permission`, an Allow or a Deny. PostToolUse: `updated_tool_output` replaces
    what the model sees. Where there is a next model request: `additional_context`.

    `async_=True` means that no answer is coming and allows nothing else beside it.
    """

    continue_: bool | None = None
    stop_reason: str | None = None
    suppress_output: bool | None = None
    system_message: str | None = None
    decision: Literal["approve", "block"] | None = None
    reason: str | None = None

    permission_decision: Literal["allow", "deny", "ask", "defer"] | None = None
    permission_decision_reason: str | None = None
    updated_input: dict[str, Any] | None = None
    additional_context: str | None = None
    updated_tool_output: Any = msgspec.UNSET
    permission: Allow | Deny | None = None
    retry: bool | None = None
    session_title: str | None = None
    suppress_original_prompt: bool | None = None
    initial_user_message: str | None = None
    reload_skills: bool | None = None
    watch_paths: Sequence[str] | None = None
    action: Literal["accept", "decline", "cancel"] | None = None
    content: dict[str, Any] | None = None
    worktree_path: str | None = None
    display_content: str | None = None

    async_: bool = False
    async_timeout: float | None = None

    def to_wire(self, event: HookEvent) -> dict[str, Any]:
        """The engine's own form, as an answer to `event`.

        Raises OptionError for a value that the engine would not take, a field that this event does
        not have, and fields that contradict each other.
        """
        if event not in HOOK_EVENTS:
            raise OptionError("event", event, f"must be one of {', '.join(HOOK_EVENTS)}")
        defaults = zip(self.__struct_fields__, self.__struct_defaults__, strict=True)
        said = {name for name, default in defaults if getattr(self, name) is not default}
        if said & {"async_", "async_timeout"}:
            return self._async_to_wire(said)
        wire = {
            _COMMON[name].wire: _COMMON[name].check(name, getattr(self, name))
            for name in _COMMON
            if name in said
        }
        specific: dict[str, Any] = {}
        for name in sorted(said - _COMMON.keys()):
            rule = _SPECIFIC[name]
            if event not in rule.events:
                raise OptionError(name, getattr(self, name), f"has no meaning for {event}")
            specific[rule.wire] = rule.check(name, getattr(self, name))
        if self.decision == "block" and self.permission_decision in ("allow", "ask", "defer"):
            raise OptionError("decision", "block", f"contradicts {self.permission_decision}")
        if specific:
            wire["hookSpecificOutput"] = {"hookEventName": event, **specific}
        return _json(wire)

    def _async_to_wire(self, said: set[str]) -> dict[str, Any]:
        if said - {"async_", "async_timeout"} or self.async_ is not True:
            raise OptionError("async_", self.async_, "cannot be combined with an answer")
        wire: dict[str, Any] = {"async": True}
        if self.async_timeout is not None:
            wire["asyncTimeout"] = _number("async_timeout", self.async_timeout)
        return wire


def _json(wire: dict[str, Any]) -> dict[str, Any]:
    try:
        return cast(dict[str, Any], msgspec.json.decode(msgspec.json.encode(wire)))
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise OptionError("hook output", wire, f"has no JSON form: {error}") from None


def _is(kind: type, word: str) -> Callable[[str, Any], Any]:
    def check(name: str, value: Any) -> Any:
        if not isinstance(value, kind):
            raise OptionError(name, value, f"must be {word}")
        return value

    return check


def _among(*allowed: str) -> Callable[[str, Any], Any]:
    def check(name: str, value: Any) -> Any:
        if not isinstance(value, str) or value not in allowed:
            raise OptionError(name, value, f"must be one of {', '.join(allowed)}")
        return value

    return check


def _number(name: str, value: Any) -> Any:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not 0 < value <= MAX_TIMEOUT
    ):
        raise OptionError(name, value, f"must be seconds, over 0 and at most {MAX_TIMEOUT:.0f}")
    return value


def _texts(name: str, value: Any) -> Any:
    listed = isinstance(value, Sequence) and not isinstance(value, str | bytes)
    if not listed or not all(isinstance(text, str) for text in value):
        raise OptionError(name, value, "must be a list of texts")
    return list(value)


def _permission(name: str, value: Any) -> Any:
    if isinstance(value, Allow):
        wire: dict[str, Any] = {"behavior": "allow"}
        if value.updated_input is not None:
            wire["updatedInput"] = _is(dict, "a dict")("updated_input", value.updated_input)
        if value.updated_permissions:
            wire["updatedPermissions"] = [u.to_wire() for u in value.updated_permissions]
        return wire
    if isinstance(value, Deny):
        wire = {"behavior": "deny", "message": value.message}
        return {**wire, "interrupt": True} if value.interrupt else wire
    raise OptionError(name, value, "must be Allow or Deny")


@dataclass(frozen=True)
class _Rule:
    """How one field is spelt and checked, and which events have it (none given: all)."""

    wire: str
    check: Callable[[str, Any], Any]
    events: frozenset[str] = frozenset()


_bool, _str, _dict = _is(bool, "true or false"), _is(str, "text"), _is(dict, "a dict")

_COMMON: dict[str, _Rule] = {
    "continue_": _Rule("continue", _bool),
    "stop_reason": _Rule("stopReason", _str),
    "suppress_output": _Rule("suppressOutput", _bool),
    "system_message": _Rule("systemMessage", _str),
    "decision": _Rule("decision", _among("approve", "block")),
    "reason": _Rule("reason", _str),
}

_PRE = frozenset({"PreToolUse"})
_START = frozenset({"SessionStart"})
_ELICIT = frozenset({"Elicitation", "ElicitationResult"})
_CONTEXT = _PRE | _START | {
    "UserPromptSubmit", "UserPromptExpansion", "Setup", "SubagentStart", "PostToolUse",
    "PostToolUseFailure", "PostToolBatch", "Stop", "SubagentStop", "Notification",
}  # fmt: skip

_SPECIFIC: dict[str, _Rule] = {
    "permission_decision": _Rule(
        "permissionDecision", _among("allow", "deny", "ask", "defer"), _PRE
    ),
    "permission_decision_reason": _Rule("permissionDecisionReason", _str, _PRE),
    "updated_input": _Rule("updatedInput", _dict, _PRE),
    "additional_context": _Rule("additionalContext", _str, _CONTEXT),
    "updated_tool_output": _Rule("updatedToolOutput", lambda _, v: v, frozenset({"PostToolUse"})),
    "permission": _Rule("decision", _permission, frozenset({"PermissionRequest"})),
    "retry": _Rule("retry", _bool, frozenset({"PermissionDenied"})),
    "session_title": _Rule("sessionTitle", _str, _START | {"UserPromptSubmit"}),
    "suppress_original_prompt": _Rule(
        "suppressOriginalPrompt", _bool, frozenset({"UserPromptSubmit"})
    ),
    "initial_user_message": _Rule("initialUserMessage", _str, _START),
    "reload_skills": _Rule("reloadSkills", _bool, _START),
    "watch_paths": _Rule("watchPaths", _texts, _START | {"CwdChanged", "FileChanged"}),
    "action": _Rule("action", _among("accept", "decline", "cancel"), _ELICIT),
    "content": _Rule("content", _dict, _ELICIT),
    "worktree_path": _Rule("worktreePath", _str, frozenset({"WorktreeCreate"})),
    "display_content": _Rule("displayContent", _str, frozenset({"MessageDisplay"})),
}


def failure_output(event: str, message: str) -> dict[str, Any]:
    """The answer of a hook that failed: it refuses where the event can be refused, else no opinion."""
    match event:
        case "PreToolUse":
            decision = {"permissionDecision": "deny", "permissionDecisionReason": message}
            return {"hookSpecificOutput": {"hookEventName": event, **decision}}
        case "PermissionRequest":
            refusal = {"behavior": "deny", "message": message}
            return {"hookSpecificOutput": {"hookEventName": event, "decision": refusal}}
        case "UserPromptSubmit":
            return {"decision": "block", "reason": message}
    return {}


# -- which hooks there are --------------------------------------------------------------------------


@dataclass(frozen=True)
class HookMatcher:
    """Hooks for the tools that `matcher` names (`"Bash"`, `"Write|Edit"`, a pattern; None = all).

    What `matcher` is compared with depends on the event; the engine does it. Each hook may take
    `timeout` seconds. Raises OptionError.
    """

    matcher: str | None = None
    hooks: Sequence[HookCallback] = field(default=())
    timeout: float = TIMEOUT

    def __post_init__(self) -> None:
        if self.matcher is not None and (
            not isinstance(self.matcher, str) or not self.matcher.isprintable()
        ):
            raise OptionError("matcher", self.matcher, "must be text without control characters")
        if not isinstance(self.hooks, Sequence) or not self.hooks:
            raise OptionError("hooks", self.hooks, "must be a list of at least one function")
        for hook in self.hooks:
            if not callable(hook):
                raise OptionError("hooks", hook, "must be a function")
        _number("timeout", self.timeout)


@dataclass(frozen=True)
class _Hook:
    event: HookEvent
    function: HookCallback
    timeout: float


class HookRegistry:
    """The hooks of one session. Raises OptionError for an event that does not exist.

    Sync hooks run in a worker thread; one that outlives its time limit runs on there, unheard.
    """

    def __init__(
        self, hooks: Mapping[str, Sequence[HookMatcher]], *, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._clock = clock
        self._hooks: dict[str, _Hook] = {}
        self._wire: dict[str, list[dict[str, Any]]] = {}
        for event, matchers in hooks.items():
            if event not in HOOK_EVENTS:
                raise OptionError(
                    "hooks", event, "is not a hook event", remedy=f"one of {', '.join(HOOK_EVENTS)}"
                )
            if not isinstance(matchers, Sequence):
                raise OptionError("hooks", matchers, "must be a list of HookMatcher")
            for matcher in matchers:
                if not isinstance(matcher, HookMatcher):
                    raise OptionError("hooks", matcher, "must be a HookMatcher")
                self._add(event, matcher)

    def _add(self, event: HookEvent, matcher: HookMatcher) -> None:
        ids = []
        for function in matcher.hooks:
            ids.append(f"{event}-{len(self._hooks)}")
            self._hooks[ids[-1]] = _Hook(event, function, matcher.timeout)
        self._wire.setdefault(event, []).append(
            {
                "matcher": matcher.matcher,
                "hookCallbackIds": ids,
                "timeout": math.ceil(matcher.timeout) + MARGIN,
            }
        )

    @property
    def empty(self) -> bool:
        """Whether there is no hook at all."""
        return not self._hooks

    def to_initialize(self) -> dict[str, Any]:
        """What the engine is told at its start, and only then; `{}` without hooks."""
        return {event: [dict(matcher) for matcher in wire] for event, wire in self._wire.items()}

    async def call(
        self, callback_id: str, input: Mapping[str, Any], tool_use_id: str | None = None
    ) -> dict[str, Any]:
        """Run a hook and return its answer in the engine's form. Never raises.

        A hook that fails in any way is logged and gives `failure_output`. Cancelling stops an async
        hook.
        """
        hook = self._hooks.get(callback_id)
        if hook is None:
            log.error("the engine called a hook that does not exist: %s", callback_id)
            named = input.get("hook_event_name") if isinstance(input, Mapping) else None
            return failure_output(str(named), "This hook does not exist.")
        try:
            return await self._run(hook, input, tool_use_id)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return self._failed(hook, error)
        except Exception as error:
            return self._failed(hook, error)

    async def _run(
        self, hook: _Hook, fields: Mapping[str, Any], tool_use_id: str | None
    ) -> dict[str, Any]:
        if not isinstance(fields, Mapping):
            raise UsageError("the engine sent no hook input")
        typed = decode(hook.event, fields, tool_use_id)
        output = await within(self._clock, hook.timeout, call(hook.function, typed))
        if output is None:
            return {}
        if not isinstance(output, HookOutput):
            raise UsageError(
                f"a hook returned {type(output).__name__}", remedy="return a HookOutput"
            )
        return output.to_wire(hook.event)

    def _failed(self, hook: _Hook, error: BaseException) -> dict[str, Any]:
        name = getattr(hook.function, "__qualname__", repr(hook.function))
        log.error("hook %s for %s failed", name, hook.event, exc_info=error)
        what = "took too long" if isinstance(error, TimeoutError) else "failed"
        return failure_output(hook.event, f"Refused: the {hook.event} hook {what}.")
