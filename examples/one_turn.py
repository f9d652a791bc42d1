"""One prompt, one result."""

import asyncio
import sys

from _offline import options

import quarterdeck as qd


async def main() -> None:
    result = await qd.query_turn("Say hello.", **options())
    print(result.text)
    print(f"{result.boundary}, ${result.cost_usd:.4f}", file=sys.stderr)
    result.raise_for_boundary()


asyncio.run(main())
