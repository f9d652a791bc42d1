"""For tests of code that runs agents: the scripted model, and a clock that moves by hand."""

from __future__ import annotations

from quarterdeck.gateway.exchange import RecordedRequest
from quarterdeck.testing.clock import FakeClock
from quarterdeck.testing.scripted_model import ScriptedModel, ScriptedModelThread

__all__ = ["FakeClock", "RecordedRequest", "ScriptedModel", "ScriptedModelThread"]
