"""`model`: the scripted model as a server."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from pathlib import Path

from quarterdeck.cli import exit_codes
from quarterdeck.cli.engine_options import TOKEN_VARIABLE
from quarterdeck.cli.output import Screen
from quarterdeck.errors import OptionError
from quarterdeck.session.lock import state_dir


def model(
    *,
    script: Path,
    port: int = 0,
    token: str | None = None,
    set: list[str] | None = None,
    log: Path | None = None,
) -> int:
    """Serve a scripted model on loopback until Ctrl-C, for the real engines to
    talk to.

    Speaks the Anthropic Messages and OpenAI chat-completions formats. Only who
    knows the token is answered; it is worth nothing elsewhere.

    Parameters
    ----------
    script: Path
        What the model says: YAML or JSON.
    port: int
        Port; 0 picks a free one.
    token: str
        Token that callers must give, 8 characters or more; one is made when there is none.
    set: str
        `name=value` for a variable of the script. Repeatable.
    log: Path
        Append one line of JSON for each request to this file.
    """
    return asyncio.run(_serve(script, port, token, variables(set or []), log))


def variables(given: list[str]) -> dict[str, str]:
    """`name=value` pairs. Raises OptionError."""
    pairs = {}
    for item in given:
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise OptionError("set", item, "is not name=value")
        pairs[name] = value
    return pairs


async def _serve(
    script: Path, port: int, token: str | None, pairs: dict[str, str], log: Path | None
) -> int:
    from quarterdeck.gateway.server import serve

    loop = asyncio.get_running_loop()
    serving = asyncio.ensure_future(
        serve(script, port=port, token=token, variables=pairs, log=log, ready=_announce)
    )
    stopped: list[int] = []

    def stop(code: int) -> None:
        stopped.append(code)
        serving.cancel()

    loop.add_signal_handler(signal.SIGINT, stop, exit_codes.OK)
    loop.add_signal_handler(signal.SIGTERM, stop, exit_codes.TERMINATED)
    with contextlib.suppress(asyncio.CancelledError):
        await serving
    return stopped[0] if stopped else exit_codes.OK


def _announce(url: str, token: str) -> None:
    screen = Screen()
    screen.line(f"url {url}")
    screen.line(f"token {token}")
    config = state_dir() / "scripted"  # not in /tmp, where others could have put settings before us
    screen.note(
        "use it with the real engine (a configuration directory of its own keeps your sessions apart):\n"
        f"  {TOKEN_VARIABLE}={token} quarterdeck run 'hello' "
        f"--gateway-url {url} --config-dir {config}\n"
        "Ctrl-C ends it"
    )
