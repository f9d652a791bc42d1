"""Permission updates and decisions in the engine's own form."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.errors import OptionError, UsageError
from quarterdeck.session.decisions import (
    Allow,
    Defer,
    Deny,
    PermissionContext,
    PermissionRule,
    PermissionUpdate,
    decision_to_wire,
)

# As the engine sent them (Claude Code 2.1.197).
RULES = {
    "type": "addRules",
    "rules": [{"toolName": "Bash", "ruleContent": "touch made.txt && echo first"}],
    "behavior": "allow",
    "destination": "localSettings",
}
DIRECTORIES = {"type": "addDirectories", "directories": ["/workspace"], "destination": "session"}
MODE = {"type": "setMode", "mode": "acceptEdits", "destination": "session"}


@pytest.mark.parametrize("wire", [RULES, DIRECTORIES, MODE])
def test_suggestions_come_back_as_they_were(wire: dict[str, Any]) -> None:
    assert PermissionUpdate.from_wire(wire).to_wire() == wire


@pytest.mark.parametrize("kind", ["addRules", "replaceRules", "removeRules"])
@pytest.mark.parametrize(
    "destination", ["userSettings", "projectSettings", "localSettings", "session", "cliArg"]
)
def test_every_kind_and_destination(kind: Any, destination: Any) -> None:
    update = PermissionUpdate(kind, destination, (PermissionRule("Read"),), "deny")
    assert update.to_wire() == {
        "type": kind,
        "rules": [{"toolName": "Read"}],
        "behavior": "deny",
        "destination": destination,
    }


def test_replacing_by_nothing_is_said_with_an_empty_list() -> None:
    assert PermissionUpdate("replaceRules", "session", (), "ask").to_wire()["rules"] == []


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"type": "addRule"}, "type"),
        ({"type": "setMode", "mode": "yolo"}, "mode"),
        ({"type": "setMode"}, "mode"),
        ({"type": "setMode", "mode": "plan", "destination": "everywhere"}, "destination"),
        ({"type": "addRules", "behavior": "allow"}, "rules"),
        ({"type": "addRules", "rules": (PermissionRule("Read"),)}, "behavior"),
        ({"type": "addRules", "rules": (PermissionRule(""),), "behavior": "allow"}, "rules"),
        (
            {"type": "addRules", "rules": (PermissionRule("B", "a\nb"),), "behavior": "allow"},
            "rules",
        ),
        ({"type": "addRules", "rules": ("Read",), "behavior": "allow"}, "rules"),
        ({"type": "addDirectories"}, "directories"),
        ({"type": "addDirectories", "directories": ("/a\0",)}, "directories"),
        ({"type": "addDirectories", "directories": ("/a",), "mode": "plan"}, "mode"),
        ({"type": "setMode", "mode": "plan", "rules": (PermissionRule("Read"),)}, "rules"),
    ],
)
def test_wrong_updates_are_refused(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(OptionError) as caught:
        PermissionUpdate(**fields)
    assert caught.value.field == field


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["type", "rules", "behavior", "mode", "directories", "destination"]
                ),
                inner,
            )
        ),
    )
)
def test_reading_anything_gives_an_update_or_an_option_error(wire: Any) -> None:
    try:
        update = PermissionUpdate.from_wire(wire)
    except OptionError:
        return
    assert PermissionUpdate.from_wire(update.to_wire()) == update


def test_the_context_offers_the_suggestions_it_understands() -> None:
    context = PermissionContext("r", suggestions=(MODE, {"type": "fromTheFuture"}))
    assert context.updates == (PermissionUpdate("setMode", "session", mode="acceptEdits"),)


def test_allow_always_sends_the_input() -> None:
    original = {"command": "ls"}
    assert decision_to_wire(Allow(), original) == {"behavior": "allow", "updatedInput": original}
    assert decision_to_wire(Allow({}), original)["updatedInput"] == {}
    update = PermissionUpdate.from_wire(MODE)
    assert decision_to_wire(Allow(None, (update,)), original)["updatedPermissions"] == [MODE]


def test_deny_always_sends_a_message() -> None:
    assert decision_to_wire(Deny("no"), {}) == {"behavior": "deny", "message": "no"}
    assert decision_to_wire(Deny(""), {})["message"]
    assert decision_to_wire(Deny("no", interrupt=True), {})["interrupt"] is True


@pytest.mark.parametrize("decision", [Defer(), None, True, {"behavior": "allow"}])
def test_what_decides_nothing_is_no_answer(decision: Any) -> None:
    with pytest.raises(UsageError):
        decision_to_wire(decision, {})
