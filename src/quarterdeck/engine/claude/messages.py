"""PURE. What Claude Code prints, typed: one Struct for each type and subtype.

Every field has a default, for a missing one must not cost the line. Verified on 2.1.197; other 2.x
releases add types and fields, which are kept in the raw line. `decode` makes them from lines.
"""

from __future__ import annotations

from typing import Any

import msgspec

from quarterdeck.engine.events import TextBlock, ThinkingBlock, ToolResultBlock, ToolUseBlock

WireBlock = TextBlock | ThinkingBlock | ToolUseBlock | ToolResultBlock


class Wire(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Fields that most lines share."""

    uuid: str = ""
    session_id: str = ""
    parent_tool_use_id: str | None = None


class ApiUsage(msgspec.Struct, frozen=True, gc=False):
    """Token counts as the API names them."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int | None = 0
    cache_creation_input_tokens: int | None = 0


class ApiMessage(msgspec.Struct, frozen=True, gc=False):
    """The inner `message`. On `assistant` lines it holds one block and stop_reason is null."""

    id: str = ""
    model: str = ""
    role: str = ""
    content: str | list[WireBlock] = ""  # other blocks come only through `block_of`
    stop_reason: str | None = None
    usage: ApiUsage | None = None


class AssistantMessage(Wire, frozen=True, gc=False, tag="assistant"):
    """One content block of the model (or of the CLI itself: model `<synthetic>`)."""

    message: ApiMessage = ApiMessage()
    request_id: str = ""
    error: str = ""
    subagent_type: str = ""
    task_description: str = ""


class UserMessage(Wire, frozen=True, gc=False, tag="user"):
    """Tool results, echoes of prompts (`isReplay`), and what the CLI writes in the user's name."""

    message: ApiMessage = ApiMessage()
    tool_use_result: Any = None
    timestamp: str = ""
    isSynthetic: bool = False  # noqa: N815
    isReplay: bool = False  # noqa: N815
    isMeta: bool = False  # noqa: N815
    subagent_type: str = ""
    origin: Any = None


class TextPiece(msgspec.Struct, frozen=True, gc=False, tag="text_delta"):
    text: str = ""


class ThinkingPiece(msgspec.Struct, frozen=True, gc=False, tag="thinking_delta"):
    thinking: str = ""


class InputPiece(msgspec.Struct, frozen=True, gc=False, tag="input_json_delta"):
    partial_json: str = ""


class SignaturePiece(msgspec.Struct, frozen=True, gc=False, tag="signature_delta"):
    signature: str = ""


class MessageStart(msgspec.Struct, frozen=True, gc=False, tag="message_start"):
    message: ApiMessage = ApiMessage()


class StartedBlock(msgspec.Struct, frozen=True, gc=False):
    type: str = ""
    id: str = ""
    name: str = ""


class BlockStart(msgspec.Struct, frozen=True, gc=False, tag="content_block_start"):
    index: int = 0
    content_block: StartedBlock = StartedBlock()


class BlockDelta(msgspec.Struct, frozen=True, gc=False, tag="content_block_delta"):
    delta: TextPiece | ThinkingPiece | InputPiece | SignaturePiece
    index: int = 0


class BlockStop(msgspec.Struct, frozen=True, gc=False, tag="content_block_stop"):
    index: int = 0


class MessageDeltaBody(msgspec.Struct, frozen=True, gc=False):
    stop_reason: str | None = None


class MessageDelta(msgspec.Struct, frozen=True, gc=False, tag="message_delta"):
    delta: MessageDeltaBody = MessageDeltaBody()
    usage: ApiUsage = ApiUsage()


class MessageStop(msgspec.Struct, frozen=True, gc=False, tag="message_stop"):
    pass


class Ping(msgspec.Struct, frozen=True, gc=False, tag="ping"):
    pass


ApiEvent = MessageStart | BlockStart | BlockDelta | BlockStop | MessageDelta | MessageStop | Ping


class StreamEvent(Wire, frozen=True, gc=False, tag="stream_event"):
    """One raw event of the model's stream (only the main thread's)."""

    event: ApiEvent = Ping()
    ttft_ms: float | None = None


class WireModelUsage(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    web_search_requests: int = 0
    cost_usd: float = msgspec.field(name="costUSD", default=0.0)
    context_window: int = 0
    max_output_tokens: int = 0


class WireDenial(msgspec.Struct, frozen=True, gc=False):
    tool_name: str = ""
    tool_use_id: str = ""
    tool_input: dict[str, Any] = {}


class ResultMessage(Wire, frozen=True, gc=False, tag="result"):
    """The end of a turn. `subtype` success does not mean success: see `boundary.boundary_of`."""

    subtype: str = ""
    is_error: bool = False
    result: str = ""
    errors: list[str] = []
    terminal_reason: str | None = None
    stop_reason: str | None = None
    api_error_status: int | None = None
    num_turns: int = 0
    duration_ms: float = 0
    duration_api_ms: float = 0
    total_cost_usd: float | None = None
    usage: ApiUsage = ApiUsage()
    modelUsage: dict[str, WireModelUsage] = {}  # noqa: N815
    permission_denials: list[WireDenial] = []
    structured_output: Any = None
    deferred_tool_use: dict[str, Any] | None = None
    origin: dict[str, Any] | None = None
    ttft_ms: float | None = None


class ToolProgressMessage(Wire, frozen=True, gc=False, tag="tool_progress"):
    """A running tool. Its real tool_use id is in `parent_tool_use_id`."""

    tool_use_id: str = ""
    tool_name: str = ""
    elapsed_time_seconds: float = 0
    task_id: str = ""


class ToolUseSummary(Wire, frozen=True, gc=False, tag="tool_use_summary"):
    summary: str = ""
    preceding_tool_use_ids: list[str] = []


class PromptSuggestion(Wire, frozen=True, gc=False, tag="prompt_suggestion"):
    suggestion: str = ""


class AuthStatus(Wire, frozen=True, gc=False, tag="auth_status"):
    isAuthenticating: bool = False  # noqa: N815
    output: list[str] = []
    error: str = ""


class TranscriptMirror(Wire, frozen=True, gc=False, tag="transcript_mirror"):
    filePath: str = ""  # noqa: N815
    entries: list[dict[str, Any]] = []


class RateLimitInfo(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    status: str = ""
    resets_at: float | None = None
    rate_limit_type: str = ""
    utilization: float | None = None


class RateLimitEvent(Wire, frozen=True, gc=False, tag="rate_limit_event"):
    rate_limit_info: RateLimitInfo = RateLimitInfo()


class KeepAlive(Wire, frozen=True, gc=False, tag="keep_alive"):
    pass


class ControlReplyBody(msgspec.Struct, frozen=True, gc=False):
    subtype: str = ""
    request_id: str = ""
    response: dict[str, Any] | None = None
    error: str = ""
    pending_permission_requests: list[dict[str, Any]] = []


class ControlResponse(Wire, frozen=True, gc=False, tag="control_response"):
    response: ControlReplyBody = ControlReplyBody()


class ControlRequest(Wire, frozen=True, gc=False, tag="control_request"):
    request_id: str = ""
    request: dict[str, Any] = {}


class ControlCancelRequest(Wire, frozen=True, gc=False, tag="control_cancel_request"):
    request_id: str = ""


class SystemMessage(Wire, frozen=True, gc=False, tag="system"):
    """First look at a `system` line; `SYSTEM` has the Struct for each subtype."""

    subtype: str = ""


class SystemInit(Wire, frozen=True, gc=False):
    cwd: str = ""
    tools: list[str] = []
    mcp_servers: list[dict[str, Any]] = []
    model: str = ""
    permissionMode: str = ""  # noqa: N815
    slash_commands: list[str] = []
    agents: list[str] = []
    skills: list[str] = []
    plugins: list[Any] = []
    apiKeySource: str = ""  # noqa: N815
    claude_code_version: str = ""
    output_style: str = ""
    fast_mode_state: str = ""


class SystemStatus(Wire, frozen=True, gc=False):
    status: str | None = None
    permissionMode: str | None = None  # noqa: N815
    compact_result: str = ""
    compact_error: str = ""


class ApiRetry(Wire, frozen=True, gc=False):
    attempt: int = 0
    max_retries: int = 0
    retry_delay_ms: float = 0
    error_status: int | None = None
    error: str = ""


class ModelFallback(Wire, frozen=True, gc=False):
    trigger: str = ""
    original_model: str = ""
    fallback_model: str = ""
    content: str = ""


class ModelRefusal(Wire, frozen=True, gc=False):
    original_model: str = ""
    fallback_model: str = ""
    api_refusal_category: str | None = None
    api_refusal_explanation: str | None = None
    refused_user_message_uuid: str = ""


class CompactMetadata(msgspec.Struct, frozen=True, gc=False):
    trigger: str = ""
    pre_tokens: int = 0
    post_tokens: int = 0
    duration_ms: float = 0


class CompactBoundary(Wire, frozen=True, gc=False):
    compact_metadata: CompactMetadata = CompactMetadata()


class SessionStateChanged(Wire, frozen=True, gc=False):
    state: str = ""


class TaskStartedMessage(Wire, frozen=True, gc=False):
    task_id: str = ""
    tool_use_id: str = ""
    description: str = ""
    task_type: str = ""
    subagent_type: str = ""
    prompt: str = ""


class TaskUsage(msgspec.Struct, frozen=True, gc=False):
    total_tokens: int = 0
    tool_uses: int = 0
    duration_ms: float = 0


class TaskProgressMessage(Wire, frozen=True, gc=False):
    task_id: str = ""
    tool_use_id: str = ""
    description: str = ""
    usage: TaskUsage = TaskUsage()
    last_tool_name: str = ""
    subagent_type: str = ""
    summary: str = ""


class TaskPatch(msgspec.Struct, frozen=True, gc=False):
    status: str = ""
    end_time: float | None = None
    is_backgrounded: bool = False
    error: str = ""


class TaskUpdated(Wire, frozen=True, gc=False):
    task_id: str = ""
    patch: TaskPatch = TaskPatch()


class TaskNotification(Wire, frozen=True, gc=False):
    task_id: str = ""
    tool_use_id: str = ""
    status: str = ""
    output_file: str = ""
    summary: str = ""
    usage: TaskUsage = TaskUsage()


class ThinkingTokens(Wire, frozen=True, gc=False):
    estimated_tokens: int = 0
    estimated_tokens_delta: int = 0


class HookStarted(Wire, frozen=True, gc=False):
    hook_id: str = ""
    hook_name: str = ""
    hook_event: str = ""


class HookResponse(Wire, frozen=True, gc=False):
    hook_id: str = ""
    hook_name: str = ""
    hook_event: str = ""
    output: str = ""
    stdout: str = ""
    stderr: str = ""
    exit_code: int | None = None
    outcome: str = ""


class PermissionDeniedMessage(Wire, frozen=True, gc=False):
    tool_name: str = ""
    tool_use_id: str = ""
    decision_reason_type: str = ""
    decision_reason: str = ""
    message: str = ""
    agent_id: str | None = None


class Informational(Wire, frozen=True, gc=False):
    content: str = ""
    level: str = ""
    prevent_continuation: bool = False
    tool_use_id: str = ""


class Notification(Wire, frozen=True, gc=False):
    key: str = ""
    text: str = ""
    priority: str = ""


class CommandsChanged(Wire, frozen=True, gc=False):
    commands: list[dict[str, Any]] = []


class GenericMessage(msgspec.Struct, frozen=True, gc=False):
    """A line of a type or subtype that we do not know."""

    type: str
    subtype: str
    fields: dict[str, Any]

    def __getitem__(self, key: str) -> Any:
        return self.fields[key]

    def get(self, key: str, default: Any = None) -> Any:
        """`fields.get`."""
        return self.fields.get(key, default)


SYSTEM: dict[str, type[Wire]] = {
    "init": SystemInit,
    "status": SystemStatus,
    "api_retry": ApiRetry,
    "model_fallback": ModelFallback,
    "model_refusal_no_fallback": ModelRefusal,
    "model_refusal_fallback": ModelRefusal,
    "compact_boundary": CompactBoundary,
    "session_state_changed": SessionStateChanged,
    "task_started": TaskStartedMessage,
    "task_progress": TaskProgressMessage,
    "task_updated": TaskUpdated,
    "task_notification": TaskNotification,
    "thinking_tokens": ThinkingTokens,
    "hook_started": HookStarted,
    "hook_progress": HookResponse,
    "hook_response": HookResponse,
    "permission_denied": PermissionDeniedMessage,
    "informational": Informational,
    "notification": Notification,
    "commands_changed": CommandsChanged,
}

TOP: dict[str, type[Wire]] = {
    "assistant": AssistantMessage,
    "user": UserMessage,
    "stream_event": StreamEvent,
    "result": ResultMessage,
    "tool_progress": ToolProgressMessage,
    "tool_use_summary": ToolUseSummary,
    "prompt_suggestion": PromptSuggestion,
    "auth_status": AuthStatus,
    "transcript_mirror": TranscriptMirror,
    "rate_limit_event": RateLimitEvent,
    "keep_alive": KeepAlive,
    "control_response": ControlResponse,
    "control_request": ControlRequest,
    "control_cancel_request": ControlCancelRequest,
}

TopMessage = (
    AssistantMessage
    | UserMessage
    | StreamEvent
    | ResultMessage
    | ToolProgressMessage
    | ToolUseSummary
    | PromptSuggestion
    | AuthStatus
    | TranscriptMirror
    | RateLimitEvent
    | KeepAlive
    | ControlResponse
    | ControlRequest
    | ControlCancelRequest
    | SystemMessage
)
