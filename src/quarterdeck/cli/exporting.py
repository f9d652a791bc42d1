"""`export`: a session as a document, on standard output or in a new file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from quarterdeck.cli import exit_codes
from quarterdeck.cli.engine_options import existing_catalog
from quarterdeck.cli.failures import CANNOT_WRITE
from quarterdeck.cli.output import Screen
from quarterdeck.errors import OptionError, TranscriptError, UsageError

NOTHING_READABLE = "(nothing readable in this file)"


def export(
    name: str,
    /,
    *,
    format: Literal["md", "json", "html", "raw"] = "md",
    to: Path | None = None,
    config_dir: Path | None = None,
) -> int:
    """Print a session as Markdown, JSON or one HTML page.

    Parameters
    ----------
    name: str
        Title of the session, its id or the beginning of it.
    format: str
        `raw` is the session's own file, for `quarterdeck import`; it needs --to.
    to: Path
        A new file, instead of standard output.
    config_dir: Path
        Claude Code's configuration directory.
    """
    from quarterdeck.session.export import render
    from quarterdeck.session.transcript_files import publish

    catalog = existing_catalog(config_dir)
    info = catalog.get(name)
    if format == "raw":
        if to is None:
            raise UsageError("--format raw needs --to FILE")
        with _writing_to(to):
            catalog.export_raw(info, to)
        return exit_codes.OK
    messages = catalog.messages(info)
    screen = Screen()
    if not messages:
        screen.note(NOTHING_READABLE, "yellow")
        return exit_codes.FAILED
    text = render(info, messages, format).encode("utf-8", "replace")
    if to is None:
        screen.data(text)
        return exit_codes.OK
    with _writing_to(to):
        publish(to, [text])
    return exit_codes.OK


@contextlib.contextmanager
def _writing_to(to: Path) -> Iterator[None]:
    """What goes wrong with the new file, in the words of the command line."""
    try:
        yield
    except TranscriptError as error:
        cause = error.__cause__
        if not isinstance(cause, OSError) or not error.message.startswith(str(to)):
            raise
        if cause.errno in CANNOT_WRITE:
            raise OSError(cause.errno, cause.strerror, str(to)) from error
        raise OptionError("to", str(to), f"cannot be written: {cause.strerror}") from None
