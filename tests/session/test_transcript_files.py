"""Session files read from their end."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quarterdeck.errors import TranscriptError
from quarterdeck.session import transcript_files
from quarterdeck.session.transcript_files import TranscriptFile


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(st.binary(max_size=30).map(lambda b: b.replace(b"\n", b""))),
    st.booleans(),
    st.integers(1, 40),
)
def test_lines_have_their_places(
    tmp_path: Path, lines: list[bytes], torn: bool, chunk: int
) -> None:
    data = b"\n".join(lines) + (b"" if torn or not lines else b"\n")
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transcript_files, "CHUNK", chunk)
        with TranscriptFile(path) as file:
            found = list(file.lines(lambda _: True))
            assert b"".join(file.content()) == data
            forward = [line.rstrip(b"\n") for line in file.forward()]
    seen = [data[start:end].rstrip(b"\n") for start, end, _ in reversed(found)]
    expected = data.split(b"\n")
    if data.endswith(b"\n") or not data:
        expected.pop()
    assert seen == forward == expected
    assert all(text is None or text == data[start:end] for start, end, text in found)


def test_lines_over_the_limit_are_no_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcript_files, "MAX_LINE", 100)
    path = tmp_path / "file"
    path.write_bytes(b"first\n" + b"x" * 1000 + b"\n" + b"y" * 101 + b"\nlast")
    with TranscriptFile(path) as file:
        assert [line.strip() for line in file.forward()] == [b"first", b"last"]
        assert file.line(6, 1006) == b""
        assert file.line(0, 5) == b"first"


def test_a_file_that_became_shorter(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one\n" * 1000)
    with TranscriptFile(path) as file:
        path.write_bytes(b"one\n")
        assert [text for _, _, text in file.lines(lambda _: True)] == [b"one"]
        assert file.read(0, 100) == b"one\n"
        assert file.read(50, 100) == b""


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x")
    link = tmp_path / "link"
    link.symlink_to(file)
    for bad in (tmp_path, link, tmp_path / "gone", "a\0b"):
        with pytest.raises(TranscriptError):
            TranscriptFile(bad)
    with TranscriptFile(link, follow=True) as opened:
        assert opened.size == 1


def test_publishing_replaces_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(TranscriptError, match="exists"):
        transcript_files.publish(path, [b"new"])
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
