"""Rules allow narrowly and deny widely."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.errors import OptionError
from quarterdeck.session.decisions import Allow, Defer, Deny
from quarterdeck.session.policy import Policy

GIT = Policy(
    allow=("Read", "mcp__github__*", "Bash(git status:*)", "Bash(make test)"), default="deny"
)


def verdict(policy: Policy, tool: str, command: object = None) -> str:
    decision = policy(tool, {} if command is None else {"command": command})
    return type(decision).__name__


@pytest.mark.parametrize(
    ("tool", "command", "expected"),
    [
        ("Read", None, "Allow"),
        ("ReadMe", None, "Deny"),
        ("read", None, "Deny"),
        ("mcp__github__list", None, "Allow"),
        ("mcp__gitlab__list", None, "Deny"),
        ("Bash", "git status", "Allow"),
        ("Bash", "  git status -s  ", "Allow"),
        ("Bash", "git status 'a b'", "Allow"),
        ("Bash", "git statusx", "Deny"),
        ("Bash", "git  status", "Deny"),
        ("Bash", "git", "Deny"),
        ("Bash", "make test", "Allow"),
        ("Bash", "make test all", "Deny"),
        ("Bash", "A=1 git status", "Deny"),
        ("Bash", "git status 'a", "Deny"),
        ("Bash", "git status \\", "Deny"),
        ("Bash", "", "Deny"),
        ("Bash", ["git", "status"], "Deny"),
        ("Bash", None, "Deny"),
        ("Write", None, "Deny"),
    ],
)
def test_allow_rules(tool: str, command: object, expected: str) -> None:
    assert verdict(GIT, tool, command) == expected


@pytest.mark.parametrize(
    "tail",
    [
        "; rm x",
        "&& rm x",
        "|| rm x",
        "| sh",
        "`rm x`",
        "$(rm x)",
        "\nrm x",
        "> f",
        "< f",
        "& rm x",
        "\rrm x",
        "${x@P}",
        "=(rm x)",
        "*(e:rm:)",
        "<(rm x)",
        "\x00",
        "\x85rm",
        "\trm",
    ],
)
def test_compound_commands_are_never_allowed_by_a_prefix(tail: str) -> None:
    assert verdict(GIT, "Bash", f"git status {tail}") == "Deny"


def test_leaving_the_sandbox_is_not_covered_by_a_command_rule() -> None:
    tool_input = {"command": "git status", "dangerouslyDisableSandbox": True}
    assert isinstance(GIT("Bash", tool_input), Deny)


SHELL = st.text(st.sampled_from("abrm -'\"\\;&|`$<>()\n{}*?#~!=/é\t"), max_size=30)


@given(SHELL)
def test_whatever_a_prefix_allows_has_no_shell_syntax(tail: str) -> None:
    command = f"git status{tail}"
    if isinstance(GIT("Bash", {"command": command}), Allow):
        assert not set(command) & set(";&|`$<>()\n\t")
        assert command.strip() == "git status" or tail.startswith(" ")


@given(SHELL, st.sampled_from([";", "&", "|", "`", "$", "<", ">", "(", ")", "\n"]), SHELL)
def test_no_rule_about_commands_allows_shell_syntax(before: str, mark: str, after: str) -> None:
    command = f"git {before}{mark}{after}"
    assert isinstance(
        Policy(allow=("Bash(git:*)",), default="deny")("Bash", {"command": command}), Deny
    )


@given(
    st.text(max_size=20),
    st.recursive(
        st.none() | st.integers() | st.text(max_size=20),
        lambda inner: st.dictionaries(st.sampled_from(["command", "x"]), inner, max_size=2),
    ),
)
def test_any_call_gets_a_decision(tool: str, tool_input: Any) -> None:
    policy = Policy(allow=("Bash(a:*)",), deny=("Bash(b:*)", "W*"))
    assert isinstance(policy(tool, tool_input), Allow | Deny | Defer)
    assert isinstance(policy("Bash", tool_input), Allow | Deny | Defer)


@pytest.mark.parametrize(
    "command",
    ["rm x", "/bin/rm x", "\\rm x", "'r'm x", "A=1 B[0]+=2 rm x", "RM x", "rm"],
)
@pytest.mark.parametrize("default", ["allow", "ask", "deny"])
def test_deny_wins_and_sees_through_spelling(command: str, default: Any) -> None:
    policy = Policy(allow=("*",), deny=("Bash(rm:*)",), default=default)
    assert verdict(policy, "Bash", command) == "Deny"


@pytest.mark.parametrize(
    "command",
    [
        "ls; rm x",
        "sudo rm x",
        "env rm x",
        "sh -c 'rm x'",
        "r? x",
        "{rm,x}",
        "! rm x",
        "ls 'a",
        "A=1",
    ],
)
def test_what_may_hide_a_denied_command_is_not_allowed(command: str) -> None:
    rules: dict[str, Any] = {"allow": ("Bash",), "deny": ("Bash(rm:*)",)}
    assert verdict(Policy(**rules, default="allow"), "Bash", command) == "Deny"
    assert verdict(Policy(**rules, default="ask"), "Bash", command) == "Defer"


def test_deny_rules_leave_other_commands_alone() -> None:
    policy = Policy(allow=("Bash",), deny=("Bash(rm:*)", "Bash(git push)"))
    assert verdict(policy, "Bash", "rmdir x") == "Allow"
    assert verdict(policy, "Bash", "git push") == "Deny"
    assert verdict(policy, "Bash", "git push origin") == "Allow"
    assert verdict(policy, "Bash", "git log") == "Allow"


def test_the_default() -> None:
    assert verdict(Policy(), "Write") == "Defer"
    assert verdict(Policy(default="allow"), "Write") == "Allow"
    assert verdict(Policy(default="deny"), "Write") == "Deny"
    assert verdict(Policy(deny=("W*",), default="allow"), "Write") == "Deny"


def test_questions_are_for_a_person() -> None:
    assert verdict(Policy(allow=("*",), default="allow"), "AskUserQuestion") == "Defer"
    assert verdict(Policy(allow=("*",), default="deny"), "AskUserQuestion") == "Deny"
    assert verdict(Policy(deny=("AskUserQuestion",)), "AskUserQuestion") == "Deny"


@pytest.mark.parametrize(
    "rule",
    [
        "",
        "Read(src/**)",
        "Bash()",
        "Bash(:*)",
        "Bash(a;b)",
        "Bash(a:*",
        "Ba sh",
        "Bash( a)",
        5,
        "Bash('a)",
        "Bash(a)b",
    ],
)
def test_a_rule_that_cannot_be_read_is_an_error(rule: Any) -> None:
    with pytest.raises(OptionError):
        Policy(allow=(rule,))
    with pytest.raises(OptionError):
        Policy(deny=(rule,))


def test_one_text_is_not_a_list_of_rules() -> None:
    with pytest.raises(OptionError):
        Policy(allow="Read")
    with pytest.raises(OptionError):
        Policy(default="maybe")  # type: ignore[arg-type]
