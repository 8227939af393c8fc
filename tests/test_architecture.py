"""Who may import whom, as docs/architecture.md says."""

import ast
import importlib
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
TESTS = ROOT / "tests"
FILES = sorted(SOURCE.rglob("*.py"))

DOCUMENT = (ROOT / "docs" / "architecture.md").read_text()


def table() -> dict[str, set[str]]:
    """Our packages, and which of our packages each may import beside itself, as the document says."""
    section = DOCUMENT.partition("| package | may import |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| `([\w.]+)` \| (.*) \|$", section, re.MULTILINE)
    return {package: set(re.findall(r"`([\w.]+)`", others)) for package, others in rows}


ALLOWED = table()


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


def names_taken(tree: ast.AST, package: str) -> set[str]:
    """What is imported from a package, or from behind it."""
    return {
        alias.name if node.module == package else f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith(f"{package}.")
        for alias in node.names
    } | {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name.startswith(f"{package}.")
    }


@pytest.mark.parametrize("package", ["mochi.disk", "mochi.mofka.chunks"])
def test_a_package_with_a_face_is_entered_by_it_alone(package: str) -> None:
    room = package.rpartition(".")[2]
    own = (SOURCE / package.replace(".", "/"), TESTS / room)
    others = [
        path
        for root in (SOURCE, TESTS, ROOT / "benchmarks")
        for path in root.rglob("*.py")
        if not any(path.is_relative_to(inside) for inside in own)
    ]
    face = set(importlib.import_module(package).__all__)
    behind = {
        str(path.relative_to(ROOT)): taken
        for path in others
        if (taken := names_taken(ast.parse(path.read_text()), package) - face)
    }
    assert behind == {}


def test_bytes_of_partitions_are_laid_out_in_one_place() -> None:
    mofka = SOURCE / "mochi" / "mofka"
    assert [
        str(path.relative_to(mofka))
        for room in ("chunks", "fsck")
        for path in (mofka / room).rglob("*.py")
        if path.parent.name != "format"
        and ("import struct" in (text := path.read_text()) or "np.dtype(" in text)
    ] == []


def test_mochi_is_a_namespace_and_every_package_is_typed() -> None:
    assert not (SOURCE / "mochi" / "__init__.py").exists()
    packages = [SOURCE / "diaspora_stream", *(p for p in (SOURCE / "mochi").iterdir() if p.is_dir())]
    assert [p.name for p in packages if p.name != "__pycache__" and not (p / "py.typed").exists()] == []


@pytest.mark.parametrize("path", [path for path in FILES if "margo" not in path.parts], ids=module_of)
def test_what_decides_in_margo_is_entered_by_its_face(path: Path) -> None:
    names = all_imports(ast.parse(path.read_text()))
    assert [name for name in names if name.startswith("mochi.margo.peer.")] == []


DOES_IO = {
    *(
        "asyncio",
        "fcntl",
        "mmap",
        "select",
        "selectors",
        "shutil",
        "signal",
        "socket",
        "subprocess",
        "tempfile",
    ),
    "uvloop",
}


def says_no_io(path: Path) -> bool:
    text = " ".join((ast.get_docstring(ast.parse(path.read_text())) or "").split())
    return re.search(r"\b(No|no|without) I/O\b", text) is not None


def test_who_says_that_it_does_no_io_cannot_do_any() -> None:
    said = {path for path in FILES if says_no_io(path)}
    packages = {path.parent for path in said if path.name == "__init__.py"}
    pure = said | {path for path in FILES if packages & set(path.parents)}
    assert len(pure) > 20
    found = {module_of(path): all_imports(ast.parse(path.read_text())) & DOES_IO for path in pure}
    assert {module for module, names in found.items() if names} == set()


def test_the_house_is_as_the_document_draws_it() -> None:
    drawing = DOCUMENT.partition("```\nsrc/\n")[2].partition("```")[0]
    way: list[str] = []
    missing = []
    for line in drawing.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2 - 1
        names = re.findall(r"[\w.]+(?:/|\.py)(?= |$)", re.split(r" {2,}", line.strip())[0])
        way[depth:] = [names[0].rstrip("/")]
        missing += [name for name in names if not SOURCE.joinpath(*way[:depth], name).exists()]
    assert missing == []


def is_there(name: str) -> bool:
    """Tell whether a dotted name means a package, a module, or what a module defines."""
    for root in (SOURCE, SOURCE / "mochi", SOURCE / "mochi" / "mofka", SOURCE / "diaspora_stream"):
        path = root.joinpath(*name.split("."))
        if path.is_dir() or path.with_name(f"{path.name}.py").exists():
            return True
        module = path.parent.with_name(f"{path.parent.name}.py")
        if module.exists() and re.search(rf"\b{path.name}\b", module.read_text()):
            return True
    return False


DOCUMENTS = [ROOT / "docs" / name for name in ("architecture.md", "glossary.md")]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_modules_that_a_document_names_are_there(document: Path) -> None:
    names = set(re.findall(r"`((?:mochi|diaspora_stream|[a-z_]+)(?:\.[a-z_]\w*)+)`", document.read_text()))
    ours = {name for name in names if is_there(name.split(".")[0])}
    assert {name for name in ours if not is_there(name)} == set()
