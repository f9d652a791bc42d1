"""The catalog and the real CLI agree: it lists what the CLI saved, the CLI resumes what it changed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

from quarterdeck import Options, query_turn
from quarterdeck.engine.claude.transcripts import encode_directory
from quarterdeck.session.catalog import Catalog
from quarterdeck.testing import ScriptedModel

Make = Callable[..., Options]


async def by_title(
    engine: str, title: str, prompt: str, place: Path, home: Path, model: ScriptedModel
) -> int:
    """One turn as a person would start it, without Quarterdeck; returns the exit code."""
    env = {
        "PATH": os.environ["PATH"], "HOME": str(home), "CLAUDE_CONFIG_DIR": str(home / "config"),
        "ANTHROPIC_BASE_URL": model.url, "ANTHROPIC_API_KEY": model.token,
        "DISABLE_AUTOUPDATER": "1", "DISABLE_TELEMETRY": "1",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        engine, "-p", f"--resume={title}", prompt,
        cwd=place, env=env, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        return await asyncio.wait_for(process.wait(), 60)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_list_rename_and_fork(
    make: Make, model: ScriptedModel, tmp_path: Path, engine: str
) -> None:
    place = tmp_path / ("rocket " + chr(0x1F680)) / ("long" * 60)
    place.mkdir(parents=True)
    model.push({"text": "first answer"})
    await query_turn("first prompt", make(cwd=str(place)))
    catalog = Catalog(config_dir=tmp_path / "config")
    (info,) = catalog.list(cwd=place)
    assert Path(info.path).parent.name == encode_directory(os.path.realpath(place))
    assert (info.first_prompt, info.cwd) == ("first prompt", str(place))

    catalog.rename(info, 'A "named" one')
    model.push({"text": "second answer"})
    assert await by_title(engine, 'A "named" one', "second prompt", place, tmp_path, model) == 0
    spoken = ["first prompt", "first answer", "second prompt", "second answer"]
    assert [m.text for m in catalog.messages('A "named" one')] == spoken
    assert len(catalog.list()) == 1

    fork = catalog.fork(info)
    model.push({"text": "third answer"})
    await query_turn("third prompt", make(cwd=str(place), resume=fork.engine_session_id))
    assert [m.text for m in catalog.messages(fork)] == [*spoken, "third prompt", "third answer"]
    assert [m.text for m in catalog.messages(info)] == spoken
    asked = str(model.requests[-1].body)
    assert all(text in asked for text in spoken)
