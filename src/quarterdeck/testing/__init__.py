"""For tests of code that runs agents: the scripted model, as a context manager."""

from __future__ import annotations

from quarterdeck.gateway.exchange import RecordedRequest
from quarterdeck.testing.scripted_model import ScriptedModel, ScriptedModelThread

__all__ = ["RecordedRequest", "ScriptedModel", "ScriptedModelThread"]
