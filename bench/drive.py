"""One measured run of one side, in a process of its own: prints one JSON object.

python bench/drive.py ours|peer stream KIND COUNT CLI
python bench/drive.py ours|peer connect CLI URL TOKEN HOME
python bench/drive.py ours|peer hang CLI URL TOKEN HOME     (for the kill -9 of the host)
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import time
import uuid
from pathlib import Path
from typing import Any


def rss() -> int:
    """Resident bytes now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


async def ours_stream(kind: str, count: int, cli: str) -> dict[str, Any]:
    import quarterdeck as qd
    from quarterdeck.engine import events as ev

    seen = 0
    async with qd.Client(executable=cli, turn_timeout=300) as client:
        began, early = time.perf_counter(), 0
        async for event in client.stream(f"{kind} {count}"):
            if type(event) is ev.Message or type(event) is ev.TextDelta:
                seen += 1
                if seen == count // 10:
                    early = rss()
        took = time.perf_counter() - began
    return {"seen": seen, "seconds": took, "rss_early": early, "rss_end": rss(), "peak": peak()}


async def peer_stream(kind: str, count: int, cli: str) -> dict[str, Any]:
    import claude_agent_sdk as sdk

    options = sdk.ClaudeAgentOptions(cli_path=cli, include_partial_messages=True)
    seen = 0
    async with sdk.ClaudeSDKClient(options=options) as client:
        began, early = time.perf_counter(), 0
        await client.query(f"{kind} {count}")
        async for message in client.receive_response():
            if isinstance(message, sdk.AssistantMessage | sdk.StreamEvent):
                seen += 1
                if seen == count // 10:
                    early = rss()
        took = time.perf_counter() - began
    return {"seen": seen, "seconds": took, "rss_early": early, "rss_end": rss(), "peak": peak()}


async def ours_connect(cli: str, url: str, token: str, home: str) -> dict[str, Any]:
    import quarterdeck as qd
    import quarterdeck.session.client

    client = qd.Client(
        executable=cli, auth=qd.Gateway(url, token), config_dir=home, cwd=home, title=None
    )
    began = time.perf_counter()
    await client.connect()
    took = time.perf_counter() - began
    await client.close()
    return {"seconds": took}


def peer_options(cli: str, url: str, token: str, home: str, tools: list[str]) -> Any:
    """The peer with the flags that we use: without ours it would send an empty system prompt."""
    import claude_agent_sdk as sdk

    env = {
        "ANTHROPIC_BASE_URL": url, "ANTHROPIC_API_KEY": token, "CLAUDE_CONFIG_DIR": home,
        "DISABLE_AUTOUPDATER": "1", "DISABLE_TELEMETRY": "1",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }  # fmt: skip
    return sdk.ClaudeAgentOptions(
        cli_path=cli, env=env, cwd=home, include_partial_messages=True, setting_sources=["user"],
        strict_mcp_config=True, allowed_tools=tools,
        system_prompt={"type": "preset", "preset": "claude_code"},
        extra_args={"replay-user-messages": None, "session-id": str(uuid.uuid4())},
    )  # fmt: skip


async def peer_connect(cli: str, url: str, token: str, home: str) -> dict[str, Any]:
    import claude_agent_sdk as sdk

    client = sdk.ClaudeSDKClient(options=peer_options(cli, url, token, home, []))
    began = time.perf_counter()
    await client.connect()
    took = time.perf_counter() - began
    await client.disconnect()
    return {"seconds": took}


async def ours_hang(cli: str, url: str, token: str, home: str) -> dict[str, Any]:
    import quarterdeck as qd

    options: dict[str, Any] = {
        "executable": cli,
        "auth": qd.Gateway(url, token),
        "config_dir": home,
        "cwd": home,
    }
    async with qd.Client(allow=["Bash"], **options) as client:
        print(json.dumps({"pid": client.pid}), flush=True)
        await client.turn("go")
    return {}


async def peer_hang(cli: str, url: str, token: str, home: str) -> dict[str, Any]:
    import claude_agent_sdk as sdk

    async with sdk.ClaudeSDKClient(options=peer_options(cli, url, token, home, ["Bash"])) as client:
        print(json.dumps({}), flush=True)
        await client.query("go")
        async for _ in client.receive_response():
            pass
    return {}


def main() -> None:
    side, what, *rest = sys.argv[1:]
    args: list[Any] = [rest[0], int(rest[1]), rest[2]] if what == "stream" else rest
    print(json.dumps(asyncio.run(globals()[f"{side}_{what}"](*args))))


main()
