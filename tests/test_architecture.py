"""Who may import whom, as docs/architecture.md says."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
FILES = sorted(SOURCE.rglob("*.py"))

CONSOLE = "diaspora_stream.console"

ALLOWED = {
    CONSOLE: set(),
    "diaspora_stream": {CONSOLE},
    "mochi.disk": set(),
    "mochi.shortage": set(),
    "mochi.margo": {CONSOLE, "mochi.shortage"},
    "mochi.flock": {CONSOLE, "mochi.margo"},
    "mochi.yokan": {CONSOLE, "mochi.disk", "mochi.margo"},
    "mochi.abt_io": {CONSOLE, "mochi.disk", "mochi.margo", "mochi.shortage"},
    "mochi.warabi": {CONSOLE, "mochi.abt_io", "mochi.disk", "mochi.margo"},
    "mochi.bedrock": {CONSOLE, "mochi.margo", "mochi.shortage"},
    "mochi.mofka.chunks": {"mochi.disk", "mochi.shortage"},
    "mochi.mofka": {
        CONSOLE,
        "diaspora_stream",
        "mochi.disk",
        "mochi.shortage",
        "mochi.margo",
        "mochi.flock",
        "mochi.yokan",
        "mochi.warabi",
        "mochi.bedrock",
        "mochi.mofka.chunks",
    },
}
"""Our packages, and which of our packages each may import beside itself."""


def module_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def package_of(module: str) -> str:
    return max((p for p in ALLOWED if module == p or module.startswith(f"{p}.")), key=len)


def is_typing_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imports_at_import_time(tree: ast.AST) -> set[str]:
    """Modules, or names in modules, that are imported when the module is."""
    found: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not is_typing_only(node):
            found |= imports_at_import_time(node)
    return found


def all_imports(tree: ast.AST) -> set[str]:
    """The same, those in functions and for types included."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_a_module_imports_only_what_its_package_may(path: Path) -> None:
    package = package_of(module_of(path))
    ours = {
        name
        for name in all_imports(ast.parse(path.read_text()))
        if name.startswith(("diaspora_stream", "mochi"))
    }
    foreign = {
        name for name in ours if name != "mochi" and package_of(name) not in {package, *ALLOWED[package]}
    }
    assert foreign == set()


def test_no_modules_import_each_other_in_a_circle() -> None:
    modules = {module_of(path): path for path in FILES}
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        names = imports_at_import_time(ast.parse(path.read_text()))
        graph[module] = {
            target
            for name in names
            for target in (name, name.rpartition(".")[0])
            if target in modules and target != module and not (target != name and name in modules)
        }
    assert len(list(TopologicalSorter(graph).static_order())) == len(modules)


def test_mochi_is_a_namespace_and_every_package_is_typed() -> None:
    assert not (SOURCE / "mochi" / "__init__.py").exists()
    packages = [SOURCE / "diaspora_stream", *(p for p in (SOURCE / "mochi").iterdir() if p.is_dir())]
    assert [p.name for p in packages if p.name != "__pycache__" and not (p / "py.typed").exists()] == []
