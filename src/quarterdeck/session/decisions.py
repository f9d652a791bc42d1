"""PURE. The values of permissions: updates of the engine's rules, decisions, and what a request says.

Everything the engine is sent is checked here first: an answer that it cannot read fails the tool, or
lets it run.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, cast, get_args

import msgspec

from quarterdeck.errors import OptionError, UsageError
from quarterdeck.model import PERMISSION_MODES, PermissionMode

UpdateKind = Literal[
    "addRules", "replaceRules", "removeRules", "setMode", "addDirectories", "removeDirectories"
]
Behavior = Literal["allow", "deny", "ask"]
Destination = Literal["userSettings", "projectSettings", "localSettings", "session", "cliArg"]

NO_REASON = "The request was denied."


# -- permission updates -----------------------------------------------------------------------------


class PermissionRule(msgspec.Struct, frozen=True):
    """A tool, or what of it: `PermissionRule("Bash", "git status:*")`."""

    tool_name: str
    rule_content: str | None = None


class PermissionUpdate(msgspec.Struct, frozen=True):
    """A change of the engine's own permission rules, sent with an Allow.

    The three rule kinds need `rules` and `behavior`, setMode needs `mode`, the two directory kinds
    need `directories`; other fields must be left out. `session` lasts as long as the engine's process;
    the three settings are files, written at once. Raises OptionError.
    """

    type: UpdateKind
    destination: Destination = "session"
    rules: tuple[PermissionRule, ...] = ()
    behavior: Behavior | None = None
    mode: PermissionMode | None = None
    directories: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _one_of("type", self.type, get_args(UpdateKind))
        _one_of("destination", self.destination, get_args(Destination))
        wanted = _UPDATE_FIELDS[self.type]
        for name, empty in (("rules", ()), ("behavior", None), ("mode", None), ("directories", ())):
            value = getattr(self, name)
            if name not in wanted and value != empty:
                raise OptionError(name, value, f"has no meaning for {self.type}")
        if "behavior" in wanted:
            _one_of("behavior", self.behavior, get_args(Behavior))
            _check_rules(self.rules, may_be_empty=self.type == "replaceRules")
        if "mode" in wanted:
            _one_of("mode", self.mode, PERMISSION_MODES)
        if "directories" in wanted:
            _check_texts("directories", self.directories)

    def to_wire(self) -> dict[str, Any]:
        """The engine's own form."""
        wire: dict[str, Any] = {"type": self.type}
        if self.behavior is not None:
            wire["rules"] = [_rule_to_wire(rule) for rule in self.rules]
            wire["behavior"] = self.behavior
        if self.mode is not None:
            wire["mode"] = self.mode
        if self.directories:
            wire["directories"] = list(self.directories)
        wire["destination"] = self.destination
        return wire

    @classmethod
    def from_wire(cls, wire: object) -> PermissionUpdate:
        """Read the engine's own form, for example a suggestion. Raises OptionError."""
        try:
            read = msgspec.convert(wire, _UpdateWire)
        except msgspec.ValidationError as error:
            raise OptionError("permission update", wire, str(error)) from None
        return cls(
            type=cast(UpdateKind, read.type),
            destination=cast(Destination, read.destination),
            rules=tuple(PermissionRule(r.toolName, r.ruleContent) for r in read.rules),
            behavior=cast(Behavior, read.behavior),
            mode=cast(PermissionMode, read.mode),
            directories=read.directories,
        )


class _RuleWire(msgspec.Struct):
    toolName: str  # noqa: N815 - the engine's spelling
    ruleContent: str | None = None  # noqa: N815


class _UpdateWire(msgspec.Struct):
    type: str
    destination: str
    rules: tuple[_RuleWire, ...] = ()
    behavior: str | None = None
    mode: str | None = None
    directories: tuple[str, ...] = ()


_RULE_FIELDS = frozenset({"rules", "behavior"})
_UPDATE_FIELDS: dict[str, frozenset[str]] = {
    "addRules": _RULE_FIELDS,
    "replaceRules": _RULE_FIELDS,
    "removeRules": _RULE_FIELDS,
    "setMode": frozenset({"mode"}),
    "addDirectories": frozenset({"directories"}),
    "removeDirectories": frozenset({"directories"}),
}


def _rule_to_wire(rule: PermissionRule) -> dict[str, Any]:
    wire = {"toolName": rule.tool_name}
    if rule.rule_content is not None:
        wire["ruleContent"] = rule.rule_content
    return wire


def _one_of(field: str, value: object, allowed: Sequence[str]) -> None:
    if not isinstance(value, str) or value not in allowed:
        raise OptionError(field, value, f"must be one of {', '.join(allowed)}")


def _check_rules(rules: object, *, may_be_empty: bool) -> None:
    if not isinstance(rules, tuple) or not all(isinstance(r, PermissionRule) for r in rules):
        raise OptionError("rules", rules, "must be a tuple of PermissionRule")
    if not rules and not may_be_empty:
        raise OptionError("rules", rules, "must name at least one rule")
    _check_texts("rules", tuple(r.tool_name for r in rules), may_be_empty=True)
    _check_texts(
        "rules",
        tuple(r.rule_content for r in rules if r.rule_content is not None),
        may_be_empty=True,
    )


def _check_texts(field: str, values: object, *, may_be_empty: bool = False) -> None:
    if not isinstance(values, tuple) or not (values or may_be_empty):
        raise OptionError(field, values, "must be a tuple with at least one text")
    for value in values:
        if not isinstance(value, str) or not value or not value.isprintable():
            raise OptionError(field, value, "must be text without control characters")


# -- decisions --------------------------------------------------------------------------------------


class Allow(msgspec.Struct, frozen=True):
    """Run the tool. `updated_input` replaces its input completely; None leaves it as it is."""

    updated_input: dict[str, Any] | None = None
    updated_permissions: tuple[PermissionUpdate, ...] = ()


class Deny(msgspec.Struct, frozen=True):
    """Do not run the tool; the model reads `message`. `interrupt` also ends the turn."""

    message: str = NO_REASON
    interrupt: bool = False


class Defer(msgspec.Struct, frozen=True):
    """Leave it to the permission queue; without a queue that is a denial."""


Decision = Allow | Deny


class PermissionContext(msgspec.Struct, frozen=True):
    """What the engine says about a request besides tool and input.

    `suggestions` are the engine's own proposals of permission updates, as it sent them; `updates` has
    those that can be sent back. `agent_id` names the sub-agent that asks.
    """

    request_id: str
    tool_use_id: str = ""
    suggestions: tuple[dict[str, Any], ...] = ()
    blocked_path: str | None = None
    reason: str = ""
    reason_type: str = ""
    agent_id: str | None = None
    description: str = ""
    session: str = ""

    @property
    def updates(self) -> tuple[PermissionUpdate, ...]:
        """The suggestions that we understand."""
        out = []
        for suggestion in self.suggestions:
            try:
                out.append(PermissionUpdate.from_wire(suggestion))
            except OptionError:
                continue
        return tuple(out)


CanUseTool = Callable[
    [str, dict[str, Any], PermissionContext],
    Allow | Deny | Defer | Awaitable[Allow | Deny | Defer],
]
"""Called as (tool_name, tool_input, context); what it raises is a denial."""


def decision_to_wire(decision: Decision, original_input: Mapping[str, Any]) -> dict[str, Any]:
    """The engine's own form of an answer.

    The input is always sent, for the engine fails the tool without it, and so is a message. Raises
    UsageError for a Defer or anything else that decides nothing.
    """
    if isinstance(decision, Allow):
        updated = decision.updated_input
        wire: dict[str, Any] = {
            "behavior": "allow",
            "updatedInput": dict(original_input if updated is None else updated),
        }
        if decision.updated_permissions:
            wire["updatedPermissions"] = [u.to_wire() for u in decision.updated_permissions]
        return wire
    if isinstance(decision, Deny):
        wire = {"behavior": "deny", "message": decision.message or NO_REASON}
        if decision.interrupt:
            wire["interrupt"] = True
        return wire
    raise UsageError(
        f"a permission cannot be answered with {type(decision).__name__}",
        remedy="answer with Allow or Deny",
    )
