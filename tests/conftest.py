"""What every test may use; for live tests the real Claude Code, isolated, and the scripted model."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from quarterdeck import Gateway, Options
from quarterdeck.testing import ScriptedModel

ENGINE = Path(__file__).parents[1] / "node_modules" / ".bin" / "claude"

Make = Callable[..., Options]


LIVE = ("live", "journeys", "attacks")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.relative_to(here).parts[0] in LIVE:
            item.add_marker(pytest.mark.live)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def engine() -> str:
    path = str(ENGINE) if ENGINE.exists() else shutil.which("claude")
    if path is None:
        pytest.skip("Claude Code is not installed; run `make setup`")
    return path


@pytest.fixture
async def model() -> AsyncIterator[ScriptedModel]:
    async with ScriptedModel() as model:
        yield model


@pytest.fixture
def work(tmp_path: Path) -> Path:
    path = tmp_path / "work"
    path.mkdir()
    return path


@pytest.fixture
def make(
    tmp_path: Path, work: Path, model: ScriptedModel, engine: str, monkeypatch: pytest.MonkeyPatch
) -> Make:
    """Options for a session that sees nothing of this machine's user."""
    home = tmp_path / "home"
    home.mkdir()
    for name in ("HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "CLAUDE_CONFIG_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))

    def options(**changes: Any) -> Options:
        standard: dict[str, Any] = {
            "auth": Gateway(model.url, model.token),
            "cwd": str(work),
            "config_dir": str(tmp_path / "config"),
            "executable": engine,
            "max_retries": 2,
        }
        return Options(**{**standard, **changes})

    return options
