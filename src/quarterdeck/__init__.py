"""Run real coding agents dependably.

The client library, asyncio first::

    import quarterdeck as qd

    result = await qd.query_turn("fix the failing test", cwd="repo", allow=["Edit", "Bash"])

Ask once with `query` (events) or `query_turn` (a TurnResult); talk with `Conversation`; steer with
`Client`. `quarterdeck.sync` has the same names for programs without an event loop. All errors are in
`quarterdeck.errors`, all events in `quarterdeck.events`. Names load when first used: importing the
package is cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "quarterdeck.session.query": ("query", "query_turn", "run_setup", "SetupResult"),
    "quarterdeck.session.client": ("Client",),
    "quarterdeck.session.conversation": (
        "Conversation", "resume_conversation", "Session", "create_session",
    ),
    "quarterdeck.session.options": ("Options",),
    "quarterdeck.engine.options": ("Gateway", "SandboxSettings", "Subscription"),
    "quarterdeck.session.turns": ("TurnResult", "ToolActivity"),
    "quarterdeck.session.handle": ("TurnHandle",),
    "quarterdeck.session.handlers": ("EventHandlers",),
    "quarterdeck.session.permissions": (
        "Allow", "Deny", "Defer", "PermissionContext", "PermissionQueue", "PermissionRequest",
        "PermissionUpdate", "Policy",
    ),
    "quarterdeck.session.hooks": ("HookMatcher", "HookOutput"),
    "quarterdeck.session.mcp": ("tool", "McpServer", "ExternalServer", "ToolResult"),
    "quarterdeck.session.catalog": ("Catalog", "SessionInfo"),
    "quarterdeck.session.controls": (
        "AccountInfo", "ContextUsage", "McpChange", "McpServerStatus", "ModelInfo", "Rewind",
        "SlashCommand",
    ),
    "quarterdeck.errors": ("QuarterdeckError",),
    "quarterdeck.model": ("Boundary", "Exit", "ModelUsage", "PermissionDenial", "RateLimit", "Usage"),
}  # fmt: skip
_WHERE = {name: module for module, names in _HOME.items() for name in names}

__all__ = ["__version__", *_WHERE]

if TYPE_CHECKING:
    from quarterdeck import errors as errors
    from quarterdeck.engine import events as events
    from quarterdeck.engine.options import Gateway as Gateway
    from quarterdeck.engine.options import SandboxSettings as SandboxSettings
    from quarterdeck.engine.options import Subscription as Subscription
    from quarterdeck.errors import QuarterdeckError as QuarterdeckError
    from quarterdeck.model import Boundary as Boundary
    from quarterdeck.model import Exit as Exit
    from quarterdeck.model import ModelUsage as ModelUsage
    from quarterdeck.model import PermissionDenial as PermissionDenial
    from quarterdeck.model import RateLimit as RateLimit
    from quarterdeck.model import Usage as Usage
    from quarterdeck.session.catalog import Catalog as Catalog
    from quarterdeck.session.catalog import SessionInfo as SessionInfo
    from quarterdeck.session.client import Client as Client
    from quarterdeck.session.controls import AccountInfo as AccountInfo
    from quarterdeck.session.controls import ContextUsage as ContextUsage
    from quarterdeck.session.controls import McpChange as McpChange
    from quarterdeck.session.controls import McpServerStatus as McpServerStatus
    from quarterdeck.session.controls import ModelInfo as ModelInfo
    from quarterdeck.session.controls import Rewind as Rewind
    from quarterdeck.session.controls import SlashCommand as SlashCommand
    from quarterdeck.session.conversation import Conversation as Conversation
    from quarterdeck.session.conversation import Session as Session
    from quarterdeck.session.conversation import create_session as create_session
    from quarterdeck.session.conversation import resume_conversation as resume_conversation
    from quarterdeck.session.handle import TurnHandle as TurnHandle
    from quarterdeck.session.handlers import EventHandlers as EventHandlers
    from quarterdeck.session.hooks import HookMatcher as HookMatcher
    from quarterdeck.session.hooks import HookOutput as HookOutput
    from quarterdeck.session.mcp import ExternalServer as ExternalServer
    from quarterdeck.session.mcp import McpServer as McpServer
    from quarterdeck.session.mcp import ToolResult as ToolResult
    from quarterdeck.session.mcp import tool as tool
    from quarterdeck.session.options import Options as Options
    from quarterdeck.session.permissions import Allow as Allow
    from quarterdeck.session.permissions import Defer as Defer
    from quarterdeck.session.permissions import Deny as Deny
    from quarterdeck.session.permissions import PermissionContext as PermissionContext
    from quarterdeck.session.permissions import PermissionQueue as PermissionQueue
    from quarterdeck.session.permissions import PermissionRequest as PermissionRequest
    from quarterdeck.session.permissions import PermissionUpdate as PermissionUpdate
    from quarterdeck.session.permissions import Policy as Policy
    from quarterdeck.session.query import SetupResult as SetupResult
    from quarterdeck.session.query import query as query
    from quarterdeck.session.query import query_turn as query_turn
    from quarterdeck.session.query import run_setup as run_setup
    from quarterdeck.session.turns import ToolActivity as ToolActivity
    from quarterdeck.session.turns import TurnResult as TurnResult


_MODULES = {"errors": "quarterdeck.errors", "events": "quarterdeck.engine.events"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    module = _WHERE.get(name)
    if module is None:
        raise AttributeError(f"module 'quarterdeck' has no attribute {name!r}")
    return getattr(importlib.import_module(module), name)


def __dir__() -> list[str]:
    return sorted(__all__)
