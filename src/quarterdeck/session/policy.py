"""PURE. A small rule policy: which tool calls need no person.

Rules allow narrowly and deny widely. A rule that we cannot read is an error when the policy is made;
a command that we cannot read is never allowed by a rule about commands.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from quarterdeck.errors import OptionError
from quarterdeck.session.decisions import Allow, Defer, Deny, PermissionContext

Default = Literal["ask", "deny", "allow"]

_RULE = re.compile(r"(?P<name>[A-Za-z0-9_.*-]+)(?:\((?P<content>.*)\))?")
# Whatever lets one line run more than the one command it seems to be, in sh, bash and zsh.
_COMPOUND = re.compile(r"[;&|`$<>()]|[^ -~\u00a1-\U0010ffff]")
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\[[^\]]*\])?\+?=")
# The shell makes the program's name out of this, or these run whatever stands behind them.
_EXPANDED = re.compile(r"[*?\[{~!]")
_RUNNERS = frozenset({
    "command", "builtin", "exec", "eval", "time", "env", "nohup", "sudo", "doas", "nice", "timeout",
    "stdbuf", "setsid", "xargs", "coproc", "source", ".", "sh", "bash", "zsh", "dash", "ksh", "fish",
    "busybox",
})  # fmt: skip
_PERSONAL = frozenset({"AskUserQuestion"})


class Policy:
    """Usable as `can_use_tool`. Deny rules win over allow rules; what no rule names gets `default`.

    A rule is one of

    * `Read`: this tool, whatever its input;
    * `mcp__github__*`: every tool whose name fits, where `*` stands for any characters;
    * `Bash(git status)`: exactly this command; `Bash(git status:*)`: this command with any arguments.

    Only `Bash` takes a command. A command allows only if it is one simple command: with any of
    ``; & | ` $ < > ( )``, a line break or another control character, unbalanced quotes, or a request
    to leave the sandbox, no command rule allows it. For deny rules the words are compared after
    quotes are resolved, assignments in front left out and the program's folder dropped; a command
    that is not simple, or that runs another (`sudo`, `env`, `sh`, ...), may hide what a deny rule
    names, so it is not allowed either (it is asked for with `default="ask"`, else denied). Still, deny
    rules are no wall: a script or interpreter can run anything.

    AskUserQuestion is for a person: it is deferred, or denied by a rule or by `default="deny"`, never
    allowed. Raises OptionError for a rule it cannot read.
    """

    def __init__(
        self,
        allow: Sequence[str] = (),
        deny: Sequence[str] = (),
        default: Default = "ask",
    ) -> None:
        if default not in ("ask", "deny", "allow"):
            raise OptionError("default", default, "must be ask, deny or allow")
        self._allow = _parse("allow", allow)
        self._deny = _parse("deny", deny)
        self._default = default

    def __call__(
        self,
        tool_name: str,
        tool_input: Mapping[str, Any],
        context: PermissionContext | None = None,
    ) -> Allow | Deny | Defer:
        verdicts = [rule.denies(tool_name, tool_input) for rule in self._deny]
        if True in verdicts:
            return Deny(f"{tool_name}: a rule denies this.")
        if tool_name in _PERSONAL:
            return Deny("Nobody is there to answer.") if self._default == "deny" else Defer()
        if None in verdicts:
            text = (
                f"{tool_name}: this command is not simple enough to be checked against the rules."
            )
            return Defer() if self._default == "ask" else Deny(text)
        if any(rule.allows(tool_name, tool_input) for rule in self._allow):
            return Allow()
        if self._default == "ask":
            return Defer()
        return Allow() if self._default == "allow" else Deny(f"{tool_name}: no rule allows this.")


class _Rule:
    """One rule. `command` is None for a rule about the tool as such."""

    def __init__(self, name: str, content: str | None) -> None:
        pattern = ".*".join(re.escape(part) for part in name.split("*"))
        self._name = re.compile(pattern, re.DOTALL)
        self._prefix = content is not None and content.endswith(":*")
        self._command = content[:-2].rstrip() if self._prefix and content is not None else content

    def allows(self, tool_name: str, tool_input: Mapping[str, Any]) -> bool:
        if not self._name.fullmatch(tool_name):
            return False
        if self._command is None:
            return True
        command = _simple_command(tool_input)
        if command is None or _get(tool_input, "dangerouslyDisableSandbox"):
            return False
        return command == self._command or (
            self._prefix and command.startswith(self._command + " ")
        )

    def denies(self, tool_name: str, tool_input: Mapping[str, Any]) -> bool | None:
        """None when nobody can tell what the command runs."""
        if not self._name.fullmatch(tool_name):
            return False
        if self._command is None:
            return True
        command = _simple_command(tool_input)
        if command is None:
            return None
        said, ruled = _words(command), _words(self._command)
        if not said or _EXPANDED.search(said[0]):
            return None
        hidden = None if said[0] in _RUNNERS and said[:1] != ruled[:1] else False
        matched = said[: len(ruled)] == ruled if self._prefix else said == ruled
        return matched or hidden


def _parse(field: str, rules: Sequence[str]) -> tuple[_Rule, ...]:
    if isinstance(rules, str):
        raise OptionError(field, rules, "must be a list of rules, not one text")
    return tuple(_parse_rule(field, rule) for rule in rules)


def _parse_rule(field: str, rule: object) -> _Rule:
    found = _RULE.fullmatch(rule) if isinstance(rule, str) else None
    if found is None:
        raise OptionError(
            field, rule, "is not a rule", remedy="Tool, mcp__server__* or Bash(command:*)"
        )
    name, content = found["name"], found["content"]
    if content is not None:
        if name != "Bash":
            raise OptionError(field, rule, "only Bash takes something in parentheses")
        command = content.removesuffix(":*")
        if not command.strip() or command != command.strip() or not _is_simple(command):
            raise OptionError(
                field, rule, "must name one simple command", remedy="Bash(git status:*)"
            )
    return _Rule(name, content)


def _get(tool_input: object, key: str) -> object:
    return tool_input.get(key) if isinstance(tool_input, Mapping) else None


def _simple_command(tool_input: object) -> str | None:
    command = _get(tool_input, "command")
    if not isinstance(command, str) or not command.strip(" "):
        return None
    return command.strip(" ") if _is_simple(command) else None


def _is_simple(command: str) -> bool:
    if _COMPOUND.search(command):
        return False
    try:
        shlex.split(command)
    except ValueError:
        return False
    return True


def _words(command: str) -> list[str]:
    words = shlex.split(command)
    while words and _ASSIGNMENT.match(words[0]):
        words = words[1:]
    return [words[0].rpartition("/")[2].casefold(), *words[1:]] if words else []
