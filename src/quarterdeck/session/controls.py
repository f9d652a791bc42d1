"""Control calls of a running session, typed. Each has a time-out; see `Controls`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from quarterdeck.errors import ControlError
from quarterdeck.model import PermissionMode
from quarterdeck.session.mcp import ExternalServer, McpServer

S = TypeVar("S", bound=msgspec.Struct)


class SlashCommand(msgspec.Struct, frozen=True, rename="camel"):
    """A command the person can type after a slash."""

    name: str = ""
    description: str = ""
    argument_hint: str = ""
    aliases: tuple[str, ...] = ()


class ModelInfo(msgspec.Struct, frozen=True, rename="camel"):
    """A model that can be chosen; `value` is what `set_model` takes."""

    value: str = ""
    resolved_model: str = ""
    display_name: str = ""
    description: str = ""
    supports_effort: bool = False
    supported_effort_levels: tuple[str, ...] = ()
    supports_adaptive_thinking: bool = False


class AccountInfo(msgspec.Struct, frozen=True, rename="camel"):
    """Who pays. Without a login most fields are empty."""

    email: str = ""
    organization: str = ""
    subscription_type: str = ""
    token_source: str = ""
    api_key_source: str = ""
    api_provider: str = ""


class McpServerStatus(msgspec.Struct, frozen=True, rename="camel"):
    """An MCP server: pending, connected, failed, needs-auth or disabled."""

    name: str = ""
    status: str = ""
    error: str = ""
    scope: str = ""
    server_info: dict[str, Any] | None = None
    tools: tuple[dict[str, Any], ...] = ()


class McpChange(msgspec.Struct, frozen=True):
    """What `set_mcp_servers` did; `errors` maps names of servers that did not connect to the reason."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    errors: dict[str, str] = {}


class Rewind(msgspec.Struct, frozen=True, rename="camel"):
    """What `rewind_files` did or, as a dry run, would do."""

    can_rewind: bool = False
    error: str = ""
    files_changed: tuple[str, ...] = ()
    insertions: int = 0
    deletions: int = 0


class ConversationRewind(msgspec.Struct, frozen=True, rename="camel"):
    """What `rewind_conversation` did."""

    rewound: bool = False
    target_message_uuid: str = ""
    prefill_text: str = ""
    error: str = ""


class ContextUsage(msgspec.Struct, frozen=True, rename="camel"):
    """How full the model's context is; tokens."""

    total_tokens: int = 0
    max_tokens: int = 0
    percentage: float = 0.0
    model: str = ""
    categories: tuple[dict[str, Any], ...] = ()


class Controls(ABC):
    """The control calls of a connected session.

    Every call raises SessionClosed before `connect` and after the end, ControlError when the engine
    refuses, EngineDied when it is gone, and EngineWedged when it does not answer within
    `Options.control_timeout`; the process is then ended, for it does not recover from that. Claude
    Code works calls off one after another, so a slow one (`mcp_reconnect`) delays the next.
    """

    _sdk_servers: dict[str, McpServer]

    @abstractmethod
    async def control(
        self, subtype: str, fields: Mapping[str, Any] | None = None, *, timeout: float | None = None
    ) -> dict[str, Any]:
        """Any control request the engine is known to take, checked before it is sent.

        Raises InvalidCommand for unknown subtypes and fields of the wrong type: some of those would
        stop the engine's input for good.
        """

    async def set_model(self, model: str | None) -> None:
        """Use another model from the next request on; None = the engine's default.

        The name is not checked by the engine: a wrong one fails at the next turn.
        """
        await self.control("set_model", {"model": model})

    async def set_permission_mode(self, mode: PermissionMode) -> None:
        """Change the permission mode. Raises ControlError for bypass without permission at launch."""
        await self.control("set_permission_mode", {"mode": mode})

    async def set_max_thinking_tokens(self, tokens: int | None) -> None:
        """Limit thinking; 0 = off, None = the engine's default."""
        await self.control("set_max_thinking_tokens", {"max_thinking_tokens": tokens})

    async def mcp_status(self) -> tuple[McpServerStatus, ...]:
        """The MCP servers and their state."""
        answer = await self.control("mcp_status")
        return tuple(typed(McpServerStatus, s) for s in answer.get("mcpServers") or ())

    async def set_mcp_servers(self, servers: Mapping[str, McpServer | ExternalServer]) -> McpChange:
        """Replace the set of servers that were added while running; in-process ones go on too."""
        wire: dict[str, Any] = {}
        for name, server in servers.items():
            if isinstance(server, McpServer):
                self._sdk_servers[name] = server
                wire[name] = {"type": "sdk", "name": name}
            else:
                wire[name] = server.to_wire()
        for name in self._sdk_servers:
            wire.setdefault(name, {"type": "sdk", "name": name})
        return typed(McpChange, await self.control("mcp_set_servers", {"servers": wire}))

    async def mcp_reconnect(self, name: str) -> None:
        """Connect a server anew; waits for the connection."""
        await self.control("mcp_reconnect", {"serverName": name})

    async def mcp_toggle(self, name: str, enabled: bool) -> None:
        """Switch a server on or off."""
        await self.control("mcp_toggle", {"serverName": name, "enabled": enabled})

    async def mcp_call(
        self, tool: str, arguments: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Run a tool of an external server, without model and permissions: `mcp__server__tool`."""
        return await self.control("mcp_call", {"tool": tool, "arguments": dict(arguments or {})})

    async def mcp_authenticate(self, name: str, redirect_uri: str | None = None) -> dict[str, Any]:
        """Begin a server's login (http and sse servers): authUrl, requiresUserAction, ..."""
        fields = {"serverName": name}
        if redirect_uri is not None:
            fields["redirectUri"] = redirect_uri
        return await self.control("mcp_authenticate", fields)

    async def mcp_clear_auth(self, name: str) -> None:
        """Forget a server's login."""
        await self.control("mcp_clear_auth", {"serverName": name})

    async def rewind_files(self, user_message_uuid: str, *, dry_run: bool = False) -> Rewind:
        """Put files back to what they were before that prompt; needs `file_checkpointing`.

        A failure of a real run comes as `can_rewind=False` with its error, like that of a dry run.
        """
        # Only a dry run says what it would change; the real one answers with less.
        fields = {"user_message_id": user_message_uuid}
        made = typed(Rewind, await self.control("rewind_files", {**fields, "dry_run": True}))
        if dry_run or not made.can_rewind:
            return made
        try:
            await self.control("rewind_files", fields)
        except ControlError as error:
            return Rewind(error=error.error)
        return made

    async def rewind_conversation(
        self, message_uuid: str, *, interrupt: bool = False
    ) -> ConversationRewind:
        """Remove that prompt and everything after it from the engine's context."""
        fields = {"target_message_uuid": message_uuid, "interrupt_if_running": interrupt}
        return typed(ConversationRewind, await self.control("rewind_conversation", fields))

    async def cancel_queued(self, prompt_uuid: str) -> bool:
        """Take back a prompt that `inject` gave to the engine; False when it was too late."""
        answer = await self.control("cancel_async_message", {"message_uuid": prompt_uuid})
        return answer.get("cancelled") is True

    async def stop_task(self, task_id: str) -> None:
        """Stop a background command or sub-agent. Unknown ids are ignored by the engine."""
        await self.control("stop_task", {"task_id": task_id})

    async def background(self, tool_use_id: str | None = None) -> bool:
        """Send a running foreground command or agent to the background."""
        fields = {} if tool_use_id is None else {"tool_use_id": tool_use_id}
        return (await self.control("background_tasks", fields)).get("backgrounded") is True

    async def apply_flag_settings(self, settings: Mapping[str, Any]) -> None:
        """Merge into the settings layer above the files; None clears a key."""
        await self.control("apply_flag_settings", {"settings": dict(settings)})

    async def get_settings(self) -> dict[str, Any]:
        """The effective settings, and where each comes from."""
        return await self.control("get_settings")

    async def context_usage(self) -> ContextUsage:
        """How full the context is. The first call asks the provider to count tokens."""
        return typed(ContextUsage, await self.control("get_context_usage"))

    async def cost_text(self) -> str:
        """The engine's own cost report, as text."""
        return str((await self.control("get_session_cost")).get("text", ""))

    async def engine_usage(self) -> dict[str, Any]:
        """The engine's own usage report."""
        return await self.control("get_usage")

    async def rename(self, title: str) -> None:
        """Name the session; the name stands in its transcript."""
        await self.control("rename_session", {"title": title})

    async def generate_title(self, description: str, *, persist: bool = False) -> str:
        """Let the small model find a title."""
        fields = {"description": description, "persist": persist}
        return str((await self.control("generate_session_title", fields)).get("title") or "")

    async def side_question(self, question: str) -> str:
        """Ask something about the context without a trace in the history."""
        answer = await self.control("side_question", {"question": question})
        return str(answer.get("response") or "")


def typed(struct: type[S], value: Any) -> S:
    """A reply as a Struct; fields of an unexpected shape keep their defaults."""
    if not isinstance(value, dict):
        return struct()
    known: dict[str, Any] = {}
    for info in msgspec.structs.fields(struct):
        if value.get(info.encode_name) is not None:
            try:
                known[info.name] = msgspec.convert(value[info.encode_name], info.type, strict=False)
            except msgspec.ValidationError:
                continue
    return struct(**known)
