"""PURE. How a turn ended: the one place that reads a result record's verdict."""

from __future__ import annotations

from quarterdeck.engine.claude.messages import ResultMessage
from quarterdeck.model import Boundary, LimitKind

_LIMIT_SUBTYPES: dict[str, LimitKind] = {
    "error_max_turns": "turns",
    "error_max_budget_usd": "budget",
}
_LIMIT_REASONS: dict[str, LimitKind] = {"max_turns": "turns", "prompt_too_long": "tokens"}
_STATUS_CODES = {
    400: "invalid_request",
    401: "authentication_failed",
    403: "permission_error",
    404: "model_not_found",
    413: "request_too_large",
    529: "overloaded",
}


def boundary_of(
    result: ResultMessage,
    *,
    model_spoke: bool = True,
    message_error: str = "",
    rate_reset: float | None = None,
) -> Boundary:
    """The boundary of a turn.

    `model_spoke` says whether the model answered in this turn, `message_error` is the error kind of
    the turn's last assistant message, `rate_reset` (Unix seconds) what the provider said of the rate
    limit's end. The subtype alone proves nothing: `success` also stands on turns that ended in an
    API failure.
    """
    reason = result.terminal_reason or result.stop_reason or result.subtype
    if result.terminal_reason in ("aborted_streaming", "aborted_tools"):
        return Boundary("interrupted", reason=reason)
    limit = _LIMIT_SUBTYPES.get(result.subtype) or _LIMIT_REASONS.get(result.terminal_reason or "")
    if limit is not None:
        return Boundary("limit", limit=limit, reason=reason)
    if result.is_error or result.subtype.startswith("error"):
        return _failed(result, reason, message_error, rate_reset)
    if model_spoke and _looks_truncated(result):
        return Boundary("errored", code="truncated", reason=reason)
    if result.stop_reason == "max_tokens":
        return Boundary("limit", limit="tokens", reason=reason)
    return Boundary("completed", reason=reason)


def _failed(
    result: ResultMessage, reason: str, message_error: str, rate_reset: float | None
) -> Boundary:
    status = result.api_error_status
    if status == 429 or message_error == "rate_limit":
        return Boundary(
            "limit", limit="rate", code="rate_limit", reason=reason, retry_at=rate_reset
        )
    if result.subtype == "error_max_structured_output_retries":
        code = "structured_output"
    elif result.stop_reason == "refusal":
        code = "refusal"
    elif message_error and message_error != "unknown":
        code = message_error
    elif status is not None:
        code = _STATUS_CODES.get(status, "server_error" if status >= 500 else f"http_{status}")
    else:
        code = message_error or (result.subtype if result.subtype != "success" else "unknown")
    return Boundary("errored", code=code, reason=reason)


def _looks_truncated(result: ResultMessage) -> bool:
    """A model stream that broke off after a whole block ends as success without a stop reason.

    Measured on 2.1.197: the half tool call vanishes, is_error is false, stop_reason null. Local
    commands have no stop reason either, but no terminal reason and no model turn.
    """
    return (
        result.stop_reason is None
        and result.terminal_reason == "completed"
        and result.num_turns > 0
        and result.origin is None
    )
