"""Lets the examples run without an account: with the scripted model instead of your login.

quarterdeck model --script examples/scripts/by_prompt.yaml     # prints URL and token
QUARTERDECK_GATEWAY_URL=... QUARTERDECK_GATEWAY_TOKEN=... python examples/one_turn.py
"""

from __future__ import annotations

import os
from typing import Any

from quarterdeck import Gateway


def options() -> dict[str, Any]:
    """Nothing: the agent uses your login. With the two variables set: the gateway they name."""
    url, token = (
        os.environ.get("QUARTERDECK_GATEWAY_URL"),
        os.environ.get("QUARTERDECK_GATEWAY_TOKEN"),
    )
    return {"auth": Gateway(url, token)} if url and token else {}
