"""The words of the source: what can be checked of docstrings by a machine."""

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = [ROOT / "src", ROOT / "compat" / "src"]
FILES = sorted(path for source in SOURCES for path in source.rglob("*.py"))
MOST_WORDS = 30
"""Words of a sentence at most."""

Named = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

TABLE = re.compile(r"^ *=+(?: +=+)+\n(?:.*\n)+? *=+(?: +=+)+\n(?:.*\n)+? *=+(?: +=+)+$", re.MULTILINE)
SECTION = re.compile(r"^[A-Z][A-Za-z ]+\n-{3,}$", re.MULTILINE)
SPELLED_OTHERWISE = re.compile(
    r"\b(timeouts?|time out|sub-command|file name|e-mail|behavior)\b(?!_)", re.IGNORECASE
)
"""Words that are spelled in one way only: time-out, subcommand, ..."""


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


def docstrings(path: Path) -> Iterator[tuple[str, Named, str | None]]:
    """Yield the name, the node and the docstring of a module and of all that is defined in it."""
    tree = ast.parse(path.read_text())
    yield "module", tree, ast.get_docstring(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node, ast.get_docstring(node)


def attribute_docs(path: Path) -> Iterator[str]:
    """Yield the texts that stand behind constants and fields."""
    for node in ast.walk(ast.parse(path.read_text())):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            for before, each in pairwise(body):
                if (
                    isinstance(before, ast.Assign | ast.AnnAssign)
                    and isinstance(each, ast.Expr)
                    and isinstance(each.value, ast.Constant)
                    and isinstance(each.value.value, str)
                ):
                    yield each.value.value


def sentences(text: str) -> Iterator[str]:
    """Yield the sentences of a docstring; what is no prose, such as examples and names of fields, is left out."""
    text = TABLE.sub("", text)
    text = re.sub(r"::\n\n((?: {4}.*)?\n)+", ".\n\n", text + "\n")
    paragraph: list[str] = []
    indent = 0
    blocks: list[str] = []
    for line in [*SECTION.sub("", text).split("\n"), ""]:
        depth = len(line) - len(line.lstrip())
        begins = not line.strip() or depth != indent or re.match(r"\s*([-*|+>]|\d+\.)\s", line)
        if begins and paragraph:
            blocks.append(" ".join(paragraph))
            paragraph = []
        if line.strip() and not line.lstrip().startswith(("|", ">>>", "+-")):
            paragraph.append(line.strip())
        indent = depth
    for block in blocks:
        yield from re.split(r"(?<=[.!?:])\s+(?=[A-Z`*\"(])", block)


def too_long(text: str) -> list[str]:
    return [sentence for sentence in sentences(text) if len(sentence.split()) > MOST_WORDS]


@pytest.mark.parametrize("path", [path for path in FILES if path.name == "__init__.py"], ids=shown)
def test_every_package_says_what_it_is(path: Path) -> None:
    text = ast.get_docstring(ast.parse(path.read_text()))
    assert text is not None
    assert len(text.split()) >= 8, "more than a title"


@pytest.mark.parametrize("path", FILES, ids=shown)
def test_docstrings_are_plain_and_short(path: Path) -> None:
    wrong = []
    for name, node, text in docstrings(path):
        if text is None:
            continue
        wrong += [f"{name}: {sentence}" for sentence in too_long(text)]
        if re.match(r"Gives?\b", text) and isinstance(node, ast.FunctionDef):
            wrong.append(f"{name}: begins with Give: {text.splitlines()[0]}")
    wrong += [sentence for text in attribute_docs(path) for sentence in too_long(text)]
    assert wrong == []


@pytest.mark.parametrize("path", FILES, ids=shown)
def test_what_is_public_is_described(path: Path) -> None:
    tree = ast.parse(path.read_text())
    described = [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef))]
    missing = [getattr(node, "name", "module") for node in described if ast.get_docstring(node) is None]
    assert [name for name in missing if not name.startswith("_")] == []


@pytest.mark.parametrize("path", FILES, ids=shown)
def test_a_thing_is_spelled_in_one_way(path: Path) -> None:
    texts = [*(text or "" for _, _, text in docstrings(path)), *attribute_docs(path)]
    prose = [re.sub(r"``[^`]*``|`[^`]*`", "", text) for text in texts]
    prose = [
        "\n".join(line for line in text.split("\n") if not re.match(r"\s*[\w., ]+ : ", line))
        for text in prose
    ]
    assert [word for text in prose for word in SPELLED_OTHERWISE.findall(text)] == []
