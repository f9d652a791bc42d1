"""The options that `run`, `resume` and `repl` share, and how they become `Options`."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from quarterdeck.errors import OptionError, UsageError
from quarterdeck.model import PermissionMode

if TYPE_CHECKING:
    from quarterdeck.session.catalog import Catalog
    from quarterdeck.session.options import Options

TOKEN_VARIABLE = "QUARTERDECK_GATEWAY_TOKEN"  # noqa: S105 (a name)
_MAX_SMALL_FILE = 4 * 1024 * 1024  # bytes of a schema
_MAX_TOKEN_FILE = 4096  # bytes
_ADVANCED = Group("Advanced", sort_key=10)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """What the command line can say about an engine."""

    cwd: Path | None = None
    """Working directory of the agent."""
    model: str | None = None
    """The engine's name of a model."""
    permission_mode: PermissionMode | None = None
    """default asks, acceptEdits lets files be edited, plan only reads, dontAsk denies."""
    bypass_is_safe: bool = False
    """With --permission-mode bypassPermissions: nothing is asked or denied. Only in a sandbox."""
    tools: list[str] | None = None
    """Tools that exist for the agent, by comma or repeated; "" for none."""
    allow: list[str] | None = None
    """Tool calls approved without asking: Edit, "Bash(git diff:*)"."""
    deny: list[str] | None = None
    """Tool calls refused."""
    max_turns: int | None = None
    """Model rounds for a prompt."""
    max_budget_usd: float | None = None
    """US dollars for the process."""
    timeout: float | None = None
    """Seconds for a turn; then it is interrupted."""
    resume: str | None = None
    """Go on with this session: title, id or the beginning of an id."""
    fork: bool = False
    """With --resume or --continue: leave that session as it is and work in a copy."""
    continue_last: Annotated[bool, Parameter(name="--continue")] = False
    """Go on with the newest session of the directory."""
    schema: Path | None = None
    """JSON Schema file; the agent then answers with a value of that form."""
    gateway_url: Annotated[str | None, Parameter(group=_ADVANCED)] = None
    """Reach the model through a gateway on loopback, such as `quarterdeck model`."""
    gateway_token_file: Annotated[Path | None, Parameter(group=_ADVANCED)] = None
    """File (mode 0600) with the gateway's token; else the variable QUARTERDECK_GATEWAY_TOKEN."""
    engine_path: Annotated[str | None, Parameter(group=_ADVANCED)] = None
    """The engine's program."""
    config_dir: Annotated[Path | None, Parameter(group=_ADVANCED)] = None
    """The engine's configuration and session directory."""


def to_options(given: EngineOptions, **more: Any) -> Options:
    """Options of a session. Raises OptionError, UsageError, SessionNotFound, SessionAmbiguous."""
    from quarterdeck.engine.options import Gateway, Subscription
    from quarterdeck.session.options import Options

    if given.resume is not None and given.continue_last:
        raise UsageError("--resume and --continue exclude each other", remedy="use one of the two")
    if given.fork and given.resume is None and not given.continue_last:
        raise UsageError("--fork has nothing to fork", remedy="add --resume NAME or --continue")
    auth: Subscription | Gateway = Subscription()
    if given.gateway_url is not None:
        auth = Gateway(given.gateway_url, gateway_token(given.gateway_token_file))
    elif given.gateway_token_file is not None:
        raise UsageError("--gateway-token-file needs --gateway-url")
    options = Options(
        cwd=str(given.cwd.absolute()) if given.cwd is not None else None,
        executable=given.engine_path,
        auth=auth,
        config_dir=str(given.config_dir.absolute()) if given.config_dir is not None else None,
        model=given.model,
        permission_mode=given.permission_mode,
        bypass_is_safe=given.bypass_is_safe,
        tools=split_rules(given.tools) if given.tools is not None else None,
        allow=split_rules(given.allow or ()),
        deny=split_rules(given.deny or ()),
        max_turns=given.max_turns,
        max_budget_usd=given.max_budget_usd,
        turn_timeout=given.timeout,
        fork=given.fork,
        continue_last=given.continue_last,
        output_schema=read_schema(given.schema) if given.schema is not None else None,
        **more,
    )
    if given.resume is not None:
        found = open_catalog(given.config_dir).get(given.resume)
        cwd = options.cwd
        if cwd is None and found.cwd and Path(found.cwd).is_dir():
            cwd = found.cwd  # the engine finds a session only in the directory where it was made
        options = replace(options, resume=found.engine_session_id, cwd=cwd)
    return options


def open_catalog(config_dir: Path | None) -> Catalog:
    """The catalog of the sessions in this configuration directory; None = the user's own."""
    from quarterdeck.session.catalog import Catalog

    return Catalog(config_dir=config_dir.absolute()) if config_dir is not None else Catalog()


def existing_catalog(config_dir: Path | None) -> Catalog:
    """The catalog of a directory that somebody named; the user's own need not exist."""
    if config_dir is not None and not config_dir.is_dir():
        raise OptionError("config_dir", str(config_dir), "is not a directory")
    return open_catalog(config_dir)


def split_rules(values: Sequence[str]) -> list[str]:
    """Rules by comma or repetition; commas in parentheses belong to the rule. "" is no rule."""
    return [rule for value in values for rule in _split(value) if rule]


def _split(value: str) -> Iterator[str]:
    depth, start = 0, 0
    for i, char in enumerate(value):
        if char == "(":
            depth += 1
        elif char == ")":
            depth = max(0, depth - 1)
        elif char == "," and not depth:
            yield value[start:i].strip()
            start = i + 1
    yield value[start:].strip()


def read_schema(path: Path) -> dict[str, Any]:
    """The JSON Schema in a file. Raises OptionError."""
    data = _read(path, "schema", _MAX_SMALL_FILE)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise OptionError("schema", str(path), f"is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise OptionError("schema", str(path), "must hold a JSON object")
    return value


def gateway_token(path: Path | None) -> str:
    """The gateway's token. Never an argument, for every user of the machine sees those.

    Raises OptionError for a file that others can read, UsageError when there is no token.
    """
    if path is None:
        token = os.environ.get(TOKEN_VARIABLE, "")
        if not token:
            raise UsageError(
                "--gateway-url needs the gateway's token",
                remedy=f"set {TOKEN_VARIABLE}, or give --gateway-token-file FILE",
            )
        return token
    fd = _open(path)
    with os.fdopen(fd, "rb") as file:
        mode = os.fstat(fd)
        if not stat.S_ISREG(mode.st_mode):
            raise OptionError("gateway_token_file", str(path), "is not a file")
        if mode.st_uid != os.geteuid() or mode.st_mode & 0o077:
            raise OptionError(
                "gateway_token_file", str(path), "others could read it",
                remedy=f"chmod 600 {path}, as its owner",
            )  # fmt: skip
        data = file.read(_MAX_TOKEN_FILE + 1)
    token = data.decode("utf-8", "replace").strip()
    if not token or len(data) > _MAX_TOKEN_FILE:
        raise OptionError("gateway_token_file", str(path), "holds no token")
    return token


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise OptionError(
            "gateway_token_file", str(path), f"cannot be read: {error.strerror}"
        ) from None


def _read(path: Path, field: str, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise OptionError(field, str(path), f"cannot be read: {error.strerror}") from None
    if len(data) > limit:
        raise OptionError(field, str(path), f"is larger than {limit} bytes")
    return data
