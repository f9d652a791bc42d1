"""Errors of the operating system that say what was written."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def writing(name: str) -> Iterator[None]:
    """An OSError without a file name gets this one."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or name
        raise
