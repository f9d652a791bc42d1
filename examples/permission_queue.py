"""A person (here: a function) decides from a queue while the agent waits."""

import asyncio

from _offline import options

import quarterdeck as qd


async def person(queue: qd.PermissionQueue) -> None:
    while True:
        request = await queue.get()
        print(f"{request.tool_name}: {request.input}")
        if request.tool_name == "Bash" and str(request.input.get("command")).startswith("touch "):
            request.allow()
        else:
            request.deny("only touch is allowed here")


async def main() -> None:
    queue = qd.PermissionQueue()
    deciding = asyncio.create_task(person(queue))
    async with qd.Conversation(permission_queue=queue, **options()) as talk:
        result = await talk.say("Run `touch note.txt`.")
        print(
            [(t.display_label, "refused" if t.is_error else "ran") for t in result.tool_executions]
        )
    deciding.cancel()


asyncio.run(main())
