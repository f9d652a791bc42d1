"""A tool in your own process that the agent can call."""

import asyncio

from _offline import options

import quarterdeck as qd

STOCK = {"lamp": 7, "chair": 0}


@qd.tool(read_only=True)
async def stock(article: str) -> int:
    """How many pieces of an article are there."""
    return STOCK[article]


async def main() -> None:
    shop = qd.McpServer("shop", [stock])
    result = await qd.query_turn(
        "How many lamps are there?",
        mcp_servers={"shop": shop},
        allow=["mcp__shop__stock"],
        **options(),
    )
    for call in result.tool_executions:
        print(call.display_label, "->", call.result.text if call.result else "no result")
    print(result.text)


asyncio.run(main())
