"""The shape of the package: who may import whom, what PURE means, and that the front stays light."""

from __future__ import annotations

import ast
import builtins
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parent.parent / "src"

# From the bottom up. The first part of a module's name below `quarterdeck` decides its row; the empty
# name is the package's own front.
ROWS: tuple[frozenset[str], ...] = (
    frozenset({"errors", "model", "clock", "host", "localhost", "guard"}),
    frozenset({"engine"}),
    frozenset({"session", "terminal", "sandbox", "store"}),
    frozenset({"supervise", "circle", "gateway"}),
    frozenset({"plan", "fleet", "remote"}),
    frozenset({"", "sync"}),
    frozenset({"cli", "tui", "server"}),
    frozenset({"__main__", "testing"}),
)
GROUND = ROWS[0]
RANK = {name: rank for rank, row in enumerate(ROWS) for name in row}
ARROWS = frozenset(
    {("session", "terminal"), ("session", "sandbox"), ("session", "store")}
    | {("plan", "fleet"), ("plan", "remote"), ("", "sync"), ("sync", "")}
)
ONLY = {"gateway": GROUND | {"engine"}}
IMPURE = frozenset(
    {"asyncio", "random", "selectors", "socket", "ssl", "subprocess", "threading", "time"}
)
HEAVY = frozenset(
    {"cyclopts", "fastapi", "h11", "httpx", "httpx2", "mcp", "prompt_toolkit", "pydantic", "rich"}
    | {"sqlalchemy", "starlette", "textual", "uvicorn", "yaml"}
)


@dataclass(frozen=True)
class Module:
    """One source file: its dotted name below the package, and what it imports."""

    name: str
    pure: bool
    tree: ast.Module
    imports: frozenset[str]
    at_load: frozenset[str]

    @property
    def part(self) -> str:
        return self.name.partition(".")[0]


def _imported(node: ast.AST, package: str) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            parents = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*parents, base]).rstrip(".")
        for alias in node.names:
            inner = SRC / base.replace(".", "/") / alias.name
            is_module = inner.is_dir() or inner.with_suffix(".py").is_file()
            yield f"{base}.{alias.name}" if is_module else base


def _at_load(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when the module is loaded."""
    for child in ast.iter_child_nodes(node):
        lazy = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if lazy or (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)):
            continue
        yield child
        yield from _at_load(child)


def _load(file: Path) -> Module:
    parts = file.relative_to(SRC).with_suffix("").parts
    package = ".".join(parts[:-1])
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return Module(
        name=".".join(parts[1:]),
        pure=(ast.get_docstring(tree) or "").startswith("PURE."),
        tree=tree,
        imports=frozenset(i for node in ast.walk(tree) for i in _imported(node, package)),
        at_load=frozenset(i for node in _at_load(tree) for i in _imported(node, package)),
    )


MODULES = [_load(file) for file in sorted((SRC / "quarterdeck").rglob("*.py"))]
BY_NAME = {module.name: module for module in MODULES}


def _own(imports: frozenset[str]) -> frozenset[str]:
    """Of these imports, our own modules, named below the package."""
    return frozenset(
        i.partition(".")[2] for i in imports if i == "quarterdeck" or i.startswith("quarterdeck.")
    )


def _classes(tree: ast.Module) -> list[ast.ClassDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]


def _allowed(source: str, target: str) -> bool:
    if source == target or source == "testing":
        return True
    if source in GROUND and target in GROUND:
        return source != "guard"
    if source in ONLY:
        return target in ONLY[source]
    return RANK[target] < RANK[source] or (source, target) in ARROWS


every_module = pytest.mark.parametrize("module", MODULES, ids=lambda m: m.name or "quarterdeck")


def test_there_is_a_package_to_check() -> None:
    assert {"errors", "model", "clock", "host", "engine.events"} <= BY_NAME.keys()


@every_module
def test_imports_go_down_only(module: Module) -> None:
    assert module.part in RANK, f"give {module.part!r} a row in ROWS"
    missing = _own(module.imports) - BY_NAME.keys()
    assert not missing, f"{module.name} imports {sorted(missing)}, which is not there"
    unknown = {t for t in _own(module.imports) if t.partition(".")[0] not in RANK}
    assert not unknown, f"give {unknown} a row in ROWS"
    wrong = {t for t in _own(module.imports) if not _allowed(module.part, t.partition(".")[0])}
    assert not wrong, f"{module.name} may not import {sorted(wrong)}: imports go down only"


@every_module
def test_pure_modules_touch_nothing(module: Module) -> None:
    if not module.pure:
        return
    touched = {i.partition(".")[0] for i in module.imports} & IMPURE
    assert not touched, f"PURE module {module.name} imports {sorted(touched)}"
    shells = _own(module.imports) - {"errors", "model"} - {m.name for m in MODULES if m.pure}
    assert not shells, f"PURE module {module.name} imports {sorted(shells)}, which is not PURE"


@every_module
def test_exceptions_live_in_errors(module: Module) -> None:
    if module.name in ("errors", "guard"):  # the guard is a program of its own, without our modules
        return
    ours = {c.name for c in _classes(BY_NAME["errors"].tree)}
    for found in _classes(module.tree):
        for base in found.bases:
            word = ast.unparse(base).rpartition(".")[2]
            known = getattr(builtins, word, None)
            exception = isinstance(known, type) and issubclass(known, BaseException)
            where = f"{module.name}.{found.name}"
            allowed = word not in ours and not exception
            assert allowed, f"{where}: move this exception to errors.py"


def test_the_guard_stands_alone() -> None:
    names = {i.partition(".")[0] for i in BY_NAME["guard"].imports}
    assert names <= sys.stdlib_module_names - {"asyncio"}


def test_no_import_cycles() -> None:
    graph = {m.name: _own(m.at_load) - {m.name} for m in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


def test_importing_the_front_is_light() -> None:
    code = "import sys, quarterdeck; print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "quarterdeck" in loaded
    assert not loaded & HEAVY, f"import quarterdeck pulls in {sorted(loaded & HEAVY)}"
