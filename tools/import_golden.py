"""Copy recorded runs into tests/golden/claude, without the engine maker's texts.

    python tools/import_golden.py FOLDER

FOLDER holds recordings as described in tests/golden/README.md. Protocol facts (keys, types, names,
ids, numbers, error messages, everything we wrote ourselves) are kept; prose that belongs to the
engine (descriptions of commands, agents, models and skills, help texts, instructions to the model)
becomes a short stand-in of the same type. A line without such prose is copied byte for byte.
Afterwards the longest strings that are left are printed: read them before you commit.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PATTERNS = ("*.ndjson", "*.stdout.raw", "transcript-*.jsonl")
TARGET = Path(__file__).resolve().parent.parent / "tests" / "golden" / "claude"
LIMIT = 1_500_000  # bytes of all recordings together

# Lists whose items describe themselves, and the keys that carry the prose.
LISTINGS = frozenset({"commands", "agents", "models", "skills"})
STAND_INS = {
    "description": "(description)",
    "argumentHint": "(hint)",
    "displayName": "(name)",
}

# Texts the engine writes into messages: what is kept of them is what a reader may look for.
CUTS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.DOTALL), kept)
    for pattern, kept in (
        (r"\AUsage: /config .*", "Usage: /config key=value"),
        (r"\A## Context Usage\n.*", "## Context Usage"),
        (r"(\AThis session is being continued)\b.*?(\n\nSummary:\n[^\n]*).*", r"\1.\2"),
        (r"(<local-command-caveat>Caveat):.*?(</local-command-caveat>)", r"\1\2"),
        (r"(<local-command-stdout>Compacted) Tip:.*?(</local-command-stdout>)", r"\1\2"),
        (r"(The user doesn't want to (?:proceed|take this action)\b[^.]*\.).*", r"\1"),
        (r"(Permission to use \w+ has been denied because [^.]*\.) IMPORTANT:.*", r"\1"),
        (r"(\AAsync agent launched successfully\.\nagentId: \w+).*", r"\1"),
        (r"(\AagentId: \w+) \(use SendMessage [^)\n]*\)", r"\1"),
        (r"(\AUser has approved your plan\.).*?(\n\n## Approved Plan)", r"\1\2"),
        (r"(safeguards flagged this message for a [\w ]+ topic\.).*", r"\1"),
        (r"(\APrompt is too long · the request is ~\d+ tokens \(limit \d+\)).*", r"\1"),
        (r"(\ACommand running in background with ID: .*?\.output\.).*", r"\1"),
        (r"(API Error: .*?)(?: The API is at capacity| This is a server-side issue).*", r"\1"),
        (r"( was blocked\.) For security, .*", r"\1"),
        (r"(\A- [\w-]+):.*", r"\1: (description)"),  # lines of agent and skill listings
    )
)


def clean(value: Any) -> Any:
    """The value with the engine's prose taken out; keys and types stay."""
    if isinstance(value, dict):
        return {k: _listing(v) if k in LISTINGS else clean(v) for k, v in value.items()}
    if isinstance(value, list):
        return [clean(v) for v in value]
    if isinstance(value, str):
        for pattern, kept in CUTS:
            value = pattern.sub(kept, value)
    return value


def _listing(value: Any) -> Any:
    value = clean(value)
    if not isinstance(value, list):
        return value
    return [
        {k: STAND_INS.get(k, v) if isinstance(v, str) and v else v for k, v in item.items()}
        if isinstance(item, dict)
        else item
        for item in value
    ]


def convert(line: bytes) -> bytes:
    """One line of a recording; what is not JSON or was written by us stays as it is."""
    try:
        record = json.loads(line)
    except ValueError:
        return line
    if not isinstance(record, dict) or record.get("dir") in {"in", "in-raw", "note", "err"}:
        return line
    cleaned = clean(record)
    if cleaned == record:
        return line
    end = b"\n" if line.endswith(b"\n") else b""
    return json.dumps(cleaned, ensure_ascii=False, separators=(",", ":")).encode() + end


def strings(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every string in a decoded line, with the path to it."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from strings(item, f"{path}.{key}")
    elif isinstance(value, list):
        for item in value:
            yield from strings(item, f"{path}[]")
    elif isinstance(value, str):
        yield path, value


def longest(folder: Path, count: int) -> list[tuple[str, str]]:
    """The longest distinct strings in the engine's own lines below `folder`."""
    found: dict[str, str] = {}
    for file in sorted(folder.iterdir()):
        for line in file.read_bytes().splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if record.get("dir") not in {"in", "in-raw", "note"}:
                found.update((text, f"{file.name}{path}") for path, text in strings(record))
    return [(found[text], text) for text in sorted(found, key=len, reverse=True)[:count]]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", type=Path, help="folder with recordings")
    parser.add_argument("--show", type=int, default=40, help="print so many long strings")
    options = parser.parse_args()
    files = sorted(f for pattern in PATTERNS for f in options.source.glob(pattern))
    if not files:
        print(f"no recordings in {options.source}", file=sys.stderr)
        return 2
    TARGET.mkdir(parents=True, exist_ok=True)
    total = 0
    for file in files:
        lines = file.read_bytes().splitlines(keepends=True)
        data = b"".join(convert(line) for line in lines)
        (TARGET / file.name).write_bytes(data)
        total += len(data)
    for path, text in longest(TARGET, options.show):
        print(f"{len(text):5}  {path}  {text[:160]!r}")
    print(f"{len(files)} files, {total} bytes (limit {LIMIT})")
    return 0 if total <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
