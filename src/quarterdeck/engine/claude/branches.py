"""PURE. Which lines of a session file are the conversation.

Lines form a tree over `parentUuid`. Order in the file is the order of writing, not of talking, and a
file may hold abandoned branches, gaps and (when hostile) cycles. The conversation is the branch that
was written last, plus the parallel tool calls that hang beside it.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from quarterdeck.engine.claude.transcripts import CHAIN_KINDS, Record


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One line with a uuid: where it is and what it hangs from."""

    uuid: str
    parent: str | None
    kind: str
    offset: int
    length: int
    message_id: str
    tool_use_id: str
    sidechain: bool
    meta: bool

    @property
    def spoken(self) -> bool:
        """Whether somebody said this: a user's or assistant's line, none of the engine's own."""
        return not self.meta and not self.sidechain and self.kind in ("user", "assistant")

    def shown(self, *, meta: bool) -> bool:
        """Whether it is a message to show; `meta` includes the engine's own."""
        if self.sidechain or self.kind not in ("user", "assistant", "system"):
            return False
        return meta or self.spoken


def entry_of(record: Record, offset: int, length: int) -> Entry | None:
    """The entry of a line; None when it is not part of the tree. A compaction hangs from what it
    summed up, so the conversation goes on behind it."""
    if record.uuid is None or record.type is None or record.type not in CHAIN_KINDS:
        return None
    return Entry(
        record.uuid,
        record.parentUuid or record.logicalParentUuid,
        record.type,
        offset,
        length,
        record.message_id,
        record.tool_use_id,
        bool(record.isSidechain),
        bool(record.isMeta),
    )


class Selection(msgspec.Struct, frozen=True):
    """Lines of the conversation, oldest first. Not `complete`: more of the file must be read."""

    entries: tuple[Entry, ...]
    complete: bool


class Tree:
    """The lines seen so far. Feed it from the end of the file to its beginning."""

    def __init__(self) -> None:
        self._by_uuid: dict[str, Entry] = {}
        self._newest_first: list[Entry] = []

    def __len__(self) -> int:
        return len(self._newest_first)

    def get(self, uuid: str) -> Entry | None:
        """The line with that uuid, if it was seen."""
        return self._by_uuid.get(uuid)

    def add(self, entry: Entry) -> None:
        """Take in one line. Of two with the same uuid the one written later counts."""
        if entry.uuid not in self._by_uuid:
            self._by_uuid[entry.uuid] = entry
            self._newest_first.append(entry)

    def select(
        self, *, tip: str | None = None, want: int | None = None, meta: bool = False
    ) -> Selection:
        """The branch that ends in `tip` (default: the one written last).

        With `want`, only as much as holds the last `want` messages; `meta` counts the engine's own
        lines as messages, too.
        """
        last = self._by_uuid.get(tip) if tip is not None else self._leaf()
        if last is None:
            return Selection((), complete=False)
        chain, complete = self._walk(last, want, meta)
        chain.reverse()
        entries = self._with_parallel(chain)
        if tip is not None:
            entries = entries[: entries.index(last) + 1]
        return Selection(tuple(entries), complete)

    def kept_parent(self, entry: Entry, kept: Iterable[str]) -> str | None:
        """The nearest ancestor among `kept` (a set or mapping); None when there is none."""
        seen = {entry.uuid}
        parent = entry.parent
        while parent is not None and parent not in seen:
            if parent in kept:
                return parent
            seen.add(parent)
            above = self._by_uuid.get(parent)
            parent = above.parent if above is not None else None
        return None

    def _leaf(self) -> Entry | None:
        """The last spoken line that no other spoken line follows."""
        spoken = [e for e in self._newest_first if e.spoken]
        if not spoken:
            return next(
                (
                    e
                    for e in self._newest_first
                    if not e.sidechain and e.kind in ("user", "assistant")
                ),
                None,
            )
        followed: set[str] = set()
        for entry in spoken:
            parent = entry.parent
            while parent is not None and parent not in followed:
                followed.add(parent)
                above = self._by_uuid.get(parent)
                if above is None or above.spoken:
                    break
                parent = above.parent
        # In a cycle every line is followed; then the last written is as good as any.
        return next((e for e in spoken if e.uuid not in followed), spoken[0])

    def _walk(self, last: Entry, want: int | None, meta: bool) -> tuple[list[Entry], bool]:
        """From the last line up, newest first; and whether the walk came to its end."""
        chain: list[Entry] = []
        seen: set[str] = set()
        calls: set[str] = set()  # API messages that the wanted lines are part of
        count = 0
        entry: Entry | None = last
        while entry is not None:
            shown = entry.shown(meta=meta)
            within = entry.tool_use_id or (entry.message_id and entry.message_id in calls)
            if want is not None and shown and count >= want and not within:
                # Past this line nothing can belong to a call of the wanted ones.
                return [*chain, entry], True
            chain.append(entry)
            seen.add(entry.uuid)
            if shown:
                count += 1
                calls.add(entry.message_id)
            if entry.parent is None or entry.parent in seen:
                return chain, True
            entry = self._by_uuid.get(entry.parent)
        return chain, False

    def _with_parallel(self, chain: list[Entry]) -> list[Entry]:
        """Put back the other calls of a message, and their results, right behind that message."""
        last_of: dict[str, str] = {}  # API message -> its last line in the chain
        for entry in chain:
            if entry.kind == "assistant" and entry.message_id:
                last_of[entry.message_id] = entry.uuid
        if not last_of:
            return chain
        taken = {e.uuid for e in chain}
        answered = {e.tool_use_id for e in chain if e.tool_use_id}
        callers = {e.uuid: e.message_id for e in chain if e.message_id in last_of}
        beside = [e for e in self._newest_first if e.uuid not in taken and not e.sidechain]
        beside.reverse()
        put_back: dict[str, list[Entry]] = {}
        for entry in beside:
            # Only what hangs from that very message: a copied history has the same message ids.
            same_call = callers.get(entry.parent or "") == entry.message_id
            if entry.kind == "assistant" and entry.message_id and same_call:
                callers[entry.uuid] = entry.message_id
                put_back.setdefault(entry.message_id, []).append(entry)
        for entry in beside:
            caller = callers.get(entry.parent or "")
            if entry.kind == "user" and caller and entry.tool_use_id not in answered | {""}:
                answered.add(entry.tool_use_id)
                put_back.setdefault(caller, []).append(entry)
        out: list[Entry] = []
        for entry in chain:
            out.append(entry)
            if last_of.get(entry.message_id) == entry.uuid:
                out += put_back.get(entry.message_id, ())
        return out
