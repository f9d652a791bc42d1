"""The conversation among the lines of a file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.engine.claude.branches import Entry, Tree, entry_of
from quarterdeck.engine.claude.transcripts import Record, read_record

GOLDEN = Path(__file__).parents[2] / "golden" / "claude"


def entry(
    uuid: str,
    parent: str | None = None,
    kind: str = "user",
    *,
    call: str = "",
    answers: str = "",
    side: bool = False,
    meta: bool = False,
) -> Entry:
    return Entry(uuid, parent, kind, 0, 0, call, answers, side, meta)


def placed(entries: Iterable[Entry]) -> list[Entry]:
    """Entries with their place in the file, the last first."""
    found = [msgspec.structs.replace(e, offset=n, length=1) for n, e in enumerate(entries)]
    return found[::-1]


def tree_of(entries: Iterable[Entry]) -> Tree:
    tree = Tree()
    for item in placed(entries):
        tree.add(item)
    return tree


def branch(*entries: Entry, tip: str | None = None, meta: bool = False) -> str:
    chosen = tree_of(entries).select(tip=tip, meta=meta).entries
    return " ".join(e.uuid for e in chosen if e.shown(meta=meta))


A_TO_D = (
    entry("a"),
    entry("b", "a", "assistant"),
    entry("c", "b"),
    entry("d", "c", "assistant"),
)


def test_a_plain_chain() -> None:
    assert branch(*A_TO_D) == "a b c d"


def test_the_branch_written_last_is_the_conversation() -> None:
    again = (entry("x", "b"), entry("y", "x", "assistant"))
    assert branch(*A_TO_D, *again) == "a b x y"
    assert branch(*A_TO_D, *again, tip="d") == "a b c d"
    assert branch(*A_TO_D, *again, tip="gone") == ""


def test_order_in_the_file_does_not_matter() -> None:
    assert branch(entry("b", "a", "assistant"), entry("c", "b"), entry("a")) == "a b c"


def test_the_engines_own_lines_are_walked_through() -> None:
    lines = (
        entry("a"),
        entry("n", "a", "attachment"),
        entry("m", "n", meta=True),
        entry("b", "m", "assistant"),
        entry("p", "b", "progress"),
        entry("c", "p"),
    )
    assert branch(*lines) == "a b c"
    assert branch(*lines, meta=True) == "a m b c"


def test_a_late_note_on_an_old_line_does_not_take_over() -> None:
    for kind in ("progress", "system", "attachment"):
        assert branch(*A_TO_D, entry("late", "b", kind)) == "a b c d"
    assert branch(*A_TO_D, entry("late", "b", meta=True)) == "a b c d"
    assert branch(*A_TO_D, entry("late", "b", side=True)) == "a b c d"


def test_parallel_calls_are_put_back() -> None:
    lines = (
        entry("p"),
        entry("a1", "p", "assistant", call="m"),
        entry("a2", "a1", "assistant", call="m"),
        entry("r1", "a1", answers="t1"),
        entry("r2", "a2", answers="t2"),
    )
    assert branch(*lines, entry("z", "r2", "assistant", call="n")) == "p a1 a2 r1 r2 z"
    # ... also when the conversation went on from the first of them
    assert branch(*lines, entry("z", "r1", "assistant", call="n")) == "p a1 a2 r2 r1 z"


def test_what_only_looks_parallel_is_left_out() -> None:
    lines = (
        entry("p"),
        entry("a", "p", "assistant", call="m"),
        entry("r", "a", answers="t"),
        entry("old", "a"),  # a prompt that was taken back
        entry("again", "a", answers="t"),  # the same call, answered on another branch
        entry("copy", "else", "assistant", call="m"),  # a copied history
        entry("z", "r", "assistant", call="n"),
    )
    assert branch(*lines) == "p a r z"


def test_compaction_is_looked_behind() -> None:
    record = Record(type="system", uuid="s", parentUuid=None, logicalParentUuid="b")
    boundary = entry_of(record, 0, 1)
    assert boundary is not None
    assert branch(entry("a"), entry("b", "a", "assistant"), boundary, entry("c", "s")) == "a b c"


def test_cycles_and_gaps_end_the_walk() -> None:
    assert branch(entry("a", "b"), entry("b", "a", "assistant")) == "a b"
    assert branch(entry("a", "a")) == "a"
    assert branch(entry("b", "gone", "assistant"), entry("c", "b")) == "b c"
    assert branch() == ""
    assert branch(entry("m", None, meta=True), meta=True) == "m"


def test_of_two_lines_with_one_uuid_the_later_counts() -> None:
    assert branch(entry("a"), entry("x"), entry("b", "a"), entry("b", "x")) == "x b"


def test_a_long_chain_needs_no_recursion() -> None:
    chain = [entry(str(n), str(n - 1) if n else None) for n in range(20_000)]
    assert len(tree_of(chain).select().entries) == 20_000


def test_the_recorded_session() -> None:
    tree = Tree()
    lines = (GOLDEN / "transcript-rich-session.jsonl").read_bytes().splitlines()
    records = [r for r in map(read_record, lines) if r is not None]
    for offset in range(len(records) - 1, -1, -1):
        found = entry_of(records[offset], offset, 1)
        if found is not None:
            tree.add(found)
    shown = [e.uuid for e in tree.select().entries if e.shown(meta=False)]
    spoken = [r.uuid for r in records if r.type in ("user", "assistant") and not r.isMeta]
    assert shown == spoken  # it never branched


# -- any file ---------------------------------------------------------------------------------------


@st.composite
def conversations(draw: st.DrawFn) -> list[Entry]:
    """Files as an engine writes them: prompts, parallel calls, notes and rewinds."""
    entries: list[Entry] = []
    ends: list[str | None] = [None]
    for turn in range(draw(st.integers(1, 12))):
        last = ends[-1] if draw(st.integers(0, 4)) else draw(st.sampled_from(ends))
        entries.append(entry(f"{turn}p", last))
        last = f"{turn}p"
        if draw(st.booleans()):
            kind = draw(st.sampled_from(["attachment", "progress", "system"]))
            entries.append(entry(f"{turn}n", last, kind))
            last = f"{turn}n"
        calls = draw(st.integers(0, 3))
        for number in range(calls):
            entries.append(entry(f"{turn}a{number}", last, "assistant", call=f"m{turn}"))
            last = f"{turn}a{number}"
        answers = [f"{turn}r{n}" for n in draw(st.permutations(range(calls)))]
        for uuid in answers:
            caller = uuid.replace("r", "a")
            entries.append(entry(uuid, caller, answers=f"t{uuid}"))
        if answers:
            last = draw(st.sampled_from(answers))
        entries.append(entry(f"{turn}z", last, "assistant", call=f"e{turn}"))
        ends.append(f"{turn}z")
    return entries


@given(conversations(), st.integers(1, 12), st.booleans())
def test_the_end_of_the_branch_is_the_same_however_little_is_read(
    entries: list[Entry], want: int, meta: bool
) -> None:
    def shown(chosen: Iterable[Entry]) -> list[str]:
        return [e.uuid for e in chosen if e.shown(meta=meta)]

    full = shown(tree_of(entries).select(meta=meta).entries)
    whole = tree_of(entries).select(want=want, meta=meta)
    assert whole.complete
    assert shown(whole.entries)[-want:] == full[-want:]
    # Read from the end, line by line: as soon as it says complete, it is.
    tree = Tree()
    for item in placed(entries):
        tree.add(item)
        part = tree.select(want=want, meta=meta)
        if part.complete:
            assert shown(part.entries)[-want:] == full[-want:]


@given(
    st.lists(
        st.builds(
            entry,
            st.sampled_from("abcdef"),
            st.none() | st.sampled_from("abcdefg"),
            st.sampled_from(["user", "assistant", "system", "progress"]),
            call=st.sampled_from(["", "m", "n"]),
            answers=st.sampled_from(["", "t", "u"]),
            side=st.booleans(),
            meta=st.booleans(),
        )
    ),
    st.none() | st.integers(1, 4),
    st.none() | st.sampled_from("abcdefg"),
)
def test_no_tree_is_too_wild(entries: list[Entry], want: int | None, tip: str | None) -> None:
    tree = tree_of(entries)
    chosen = tree.select(tip=tip, want=want).entries
    assert len({e.uuid for e in chosen}) == len(chosen)
    for item in chosen:
        tree.kept_parent(item, {"a"})
