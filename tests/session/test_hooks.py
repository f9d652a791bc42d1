"""A hook that fails refuses, and what it answers is checked first."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from quarterdeck.errors import OptionError
from quarterdeck.session.decisions import Allow, Deny, PermissionUpdate
from quarterdeck.session.hook_events import HOOK_EVENTS, PreToolUseInput
from quarterdeck.session.hooks import HookMatcher, HookOutput, HookRegistry, failure_output

DENIED = "Refused: the PreToolUse hook failed."


def registry(*hooks: Any, event: str = "PreToolUse", **options: Any) -> HookRegistry:
    return HookRegistry({event: [HookMatcher(None, hooks)]}, **options)


def denial(wire: dict[str, Any]) -> str | None:
    specific = wire.get("hookSpecificOutput", {})
    return (
        specific.get("permissionDecisionReason")
        if specific.get("permissionDecision") == "deny"
        else None
    )


# -- answers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "fields", "wire"),
    [
        ("PreToolUse", {}, {}),
        (
            "PreToolUse",
            {
                "permission_decision": "allow",
                "permission_decision_reason": "fine",
                "updated_input": {"command": "echo UPDATED"},
            },
            {
                "hookSpecificOutput": {
                    "hookEventName": "PreToolUse",
                    "permissionDecision": "allow",
                    "permissionDecisionReason": "fine",
                    "updatedInput": {"command": "echo UPDATED"},
                }
            },
        ),
        (
            "PreToolUse",
            {"decision": "block", "reason": "no"},
            {"decision": "block", "reason": "no"},
        ),
        (
            "PreToolUse",
            {"continue_": False, "stop_reason": "halt now"},
            {"continue": False, "stopReason": "halt now"},
        ),
        ("Stop", {"system_message": "note"}, {"systemMessage": "note"}),
        ("Stop", {"suppress_output": False}, {"suppressOutput": False}),
        (
            "PostToolUse",
            {"updated_tool_output": None},
            {"hookSpecificOutput": {"hookEventName": "PostToolUse", "updatedToolOutput": None}},
        ),
        (
            "PermissionRequest",
            {"permission": Deny("hook denied", interrupt=True)},
            {
                "hookSpecificOutput": {
                    "hookEventName": "PermissionRequest",
                    "decision": {"behavior": "deny", "message": "hook denied", "interrupt": True},
                }
            },
        ),
        (
            "PermissionRequest",
            {"permission": Allow({"a": 1}, (PermissionUpdate("setMode", mode="plan"),))},
            {
                "hookSpecificOutput": {
                    "hookEventName": "PermissionRequest",
                    "decision": {
                        "behavior": "allow",
                        "updatedInput": {"a": 1},
                        "updatedPermissions": [
                            {"type": "setMode", "mode": "plan", "destination": "session"}
                        ],
                    },
                }
            },
        ),
        ("PreToolUse", {"async_": True, "async_timeout": 5}, {"async": True, "asyncTimeout": 5}),
    ],
)
def test_the_engines_form(event: Any, fields: dict[str, Any], wire: dict[str, Any]) -> None:
    assert HookOutput(**fields).to_wire(event) == wire


@pytest.mark.parametrize(
    ("event", "fields", "field"),
    [
        ("PreToolUse", {"permission_decision": "banana"}, "permission_decision"),
        ("PreToolUse", {"permission_decision": "allow", "decision": "block"}, "decision"),
        ("PreToolUse", {"decision": "deny"}, "decision"),
        ("PreToolUse", {"continue_": 0}, "continue_"),
        ("PreToolUse", {"updated_input": [1]}, "updated_input"),
        ("PreToolUse", {"updated_input": {"a": object()}}, "hook output"),
        ("PreToolUse", {"permission": Deny()}, "permission"),
        ("PostToolUse", {"permission_decision": "deny"}, "permission_decision"),
        ("PermissionRequest", {"permission": {"behavior": "allow"}}, "permission"),
        ("PermissionRequest", {"permission": Allow([1])}, "updated_input"),  # type: ignore[arg-type]
        ("SessionStart", {"watch_paths": "/a"}, "watch_paths"),
        ("SessionStart", {"watch_paths": 5}, "watch_paths"),
        ("Elicitation", {"action": "maybe"}, "action"),
        ("PreToolUse", {"async_": True, "permission_decision": "deny"}, "async_"),
        ("PreToolUse", {"async_": 0}, "async_"),
        ("PreToolUse", {"async_timeout": 4}, "async_"),
        ("Nonsense", {}, "event"),
    ],
)
def test_what_the_engine_would_take_for_consent_is_refused(
    event: Any, fields: dict[str, Any], field: str
) -> None:
    with pytest.raises(OptionError) as caught:
        HookOutput(**fields).to_wire(event)
    assert caught.value.field == field


def test_failures_refuse_what_can_be_refused() -> None:
    assert denial(failure_output("PreToolUse", "why")) == "why"
    permission = failure_output("PermissionRequest", "why")["hookSpecificOutput"]["decision"]
    assert permission == {"behavior": "deny", "message": "why"}
    assert failure_output("UserPromptSubmit", "why") == {"decision": "block", "reason": "why"}
    assert failure_output("Stop", "why") == {}


# -- the registry -----------------------------------------------------------------------------------


def test_the_handshake_names_every_hook_and_a_later_timeout() -> None:
    def hook(_: Any) -> None: ...

    hooks = HookRegistry(
        {
            "PreToolUse": [HookMatcher("Bash", [hook, hook], 2.5), HookMatcher(None, [hook])],
            "Stop": [HookMatcher(hooks=[hook])],
        }
    )
    wire = hooks.to_initialize()
    assert [m["matcher"] for m in wire["PreToolUse"]] == ["Bash", None]
    assert [m["timeout"] for m in wire["PreToolUse"]] == [8, 65]
    ids = [i for matchers in wire.values() for m in matchers for i in m["hookCallbackIds"]]
    assert len(set(ids)) == 4
    assert not hooks.empty
    assert HookRegistry({}).to_initialize() == {}
    assert HookRegistry({}).empty


@pytest.mark.parametrize(
    "make",
    [
        lambda: HookMatcher("Bash", []),
        lambda: HookMatcher("Bash", [5]),  # type: ignore[list-item]
        lambda: HookMatcher("Ba\nsh", [print]),
        lambda: HookMatcher(5, [print]),  # type: ignore[arg-type]
        lambda: HookMatcher("Bash", [print], 0),
        lambda: HookMatcher("Bash", [print], float("nan")),
        lambda: HookMatcher("Bash", [print], True),
        lambda: HookRegistry({"preToolUse": [HookMatcher(None, [print])]}),
        lambda: HookRegistry({"Stop": [print]}),  # type: ignore[list-item]
        lambda: HookRegistry({"Stop": HookMatcher(None, [print])}),  # type: ignore[dict-item]
    ],
)
def test_wrong_hooks_are_refused_before_anything_starts(make: Any) -> None:
    with pytest.raises(OptionError):
        make()


async def test_sync_and_async_hooks_get_the_typed_input() -> None:
    def sync(data: PreToolUseInput) -> HookOutput:
        return HookOutput(additional_context=data.tool_input["command"])

    async def later(data: PreToolUseInput) -> HookOutput:
        return HookOutput(additional_context=data.tool_use_id)

    hooks = registry(sync, later, lambda _: None)
    first, second, third = hooks.to_initialize()["PreToolUse"][0]["hookCallbackIds"]
    fields = {"tool_name": "Bash", "tool_input": {"command": "ls"}}
    answers = [await hooks.call(i, fields, "t9") for i in (first, second, third)]
    contexts = [a.get("hookSpecificOutput", {}).get("additionalContext") for a in answers]
    assert contexts == ["ls", "t9", None]
    assert answers[2] == {}


def fail(_: Any) -> None:
    raise ValueError("boom")


async def fail_later(_: Any) -> None:
    raise ValueError("boom")


async def cancelled(_: Any) -> None:
    raise asyncio.CancelledError


def leave(_: Any) -> None:
    raise SystemExit(3)


def reads_wrong_type(data: PreToolUseInput) -> None:
    data.tool_input.get("command")


@pytest.mark.parametrize(
    "hook",
    [
        fail,
        fail_later,
        cancelled,
        leave,
        reads_wrong_type,
        lambda: None,
        lambda _: True,
        lambda _: {"hookSpecificOutput": {}},
        lambda _: HookOutput(permission_decision="banana"),  # type: ignore[arg-type]
        lambda _: HookOutput(worktree_path="/a"),
        lambda _: HookOutput(updated_input={"a": "\ud800"}),
    ],
)
async def test_a_hook_that_fails_denies_and_is_logged(
    hook: Any, caplog: pytest.LogCaptureFixture
) -> None:
    hooks = registry(hook)
    wire = await hooks.call("PreToolUse-0", {"tool_input": "not a dict"})
    assert denial(wire) == DENIED
    assert len(caplog.records) == 1


@pytest.mark.parametrize("event", HOOK_EVENTS)
async def test_a_failure_of_any_event_has_its_own_answer(event: str) -> None:
    hooks = registry(fail, event=event)
    assert await hooks.call(f"{event}-0", {}) == failure_output(
        event, f"Refused: the {event} hook failed."
    )


async def test_unknown_hooks_and_broken_inputs_deny() -> None:
    hooks = registry(lambda _: None)
    assert denial(await hooks.call("other", {"hook_event_name": "PreToolUse"}))
    assert await hooks.call("other", {}) == {}
    assert denial(await hooks.call("PreToolUse-0", None)) == DENIED  # type: ignore[arg-type]


class Now:
    """A clock on which every wait is over at once."""

    def now(self) -> float:
        return 0.0

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)


async def test_a_slow_hook_denies_in_time_by_the_given_clock() -> None:
    stopped = asyncio.Event()

    async def forever(_: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    wire = await registry(forever, clock=Now()).call("PreToolUse-0", {})
    assert denial(wire) == "Refused: the PreToolUse hook took too long."
    assert stopped.is_set()


async def test_a_blocking_sync_hook_does_not_hold_up_the_loop() -> None:
    hooks = HookRegistry({"PreToolUse": [HookMatcher(None, [lambda _: time.sleep(0.2)], 0.02)]})
    began = time.monotonic()
    assert denial(await hooks.call("PreToolUse-0", {}))
    assert time.monotonic() - began < 0.15


async def test_cancelling_the_call_is_no_failure() -> None:
    async def forever(_: Any) -> None:
        await asyncio.Event().wait()

    task = asyncio.create_task(registry(forever).call("PreToolUse-0", {}))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
