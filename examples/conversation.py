"""Several turns, streamed, with a policy for the tools."""

import asyncio

from _offline import options

import quarterdeck as qd

POLICY = qd.Policy(allow=("Read", "Bash(echo:*)"), default="deny")


async def main() -> None:
    async with qd.Conversation(can_use_tool=POLICY, **options()) as talk:
        talk.on_text(lambda piece: print(piece, end="", flush=True))
        talk.on("tool_use", lambda tool: print(f"\n[{tool.display_label}]"))
        for prompt in ("Run `echo one`.", "And now in words."):
            result = await talk.say(prompt)
            print(f"\n-- {result.boundary}, {len(result.permission_denials)} denied")
        print(f"{len(talk.turns)} turns, ${talk.total_cost_usd:.4f}, session {talk.session_id}")


asyncio.run(main())
