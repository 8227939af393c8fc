"""The nodes of a script, as `mochi.bedrock.jx9.parser` makes them. Plain data; `line` is where an error points."""

from typing import Any, TypeAlias

from msgspec import Struct


class Node(Struct, frozen=True):
    """Anything that has a meaning of its own."""


class Literal(Node, frozen=True):
    """A number, a string with no variable in it, true, false or null."""

    value: Any


class Variable(Node, frozen=True):
    """``$name``"""

    name: str


class Template(Node, frozen=True):
    """A string with variables in it."""

    parts: tuple[Node, ...]


class Word(Node, frozen=True):
    """A bare word: a constant, or else the string of its name."""

    name: str


class ArrayLiteral(Node, frozen=True):
    """``[a, b]``"""

    items: tuple[Node, ...]


class ObjectLiteral(Node, frozen=True):
    """``{key: a, "key": b}``"""

    items: tuple[tuple[Node, Node], ...]


class Index(Node, frozen=True):
    """``base.name`` or ``base[key]``; a `key` of None is ``base[]``."""

    base: Node
    key: Node | None
    is_dotted: bool


Place: TypeAlias = Variable | Index
"""What can be assigned to; at the root of an `Index` then is a `Variable`."""


class Call(Node, frozen=True):
    """``name(arguments)``"""

    name: str
    arguments: tuple[Node, ...]
    line: int


class CallValue(Node, frozen=True):
    """``callee(arguments)``: the callee is a closure, or the name of a function."""

    callee: Node
    arguments: tuple[Node, ...]


class Unary(Node, frozen=True):
    """``+a``, ``-a``, ``!a`` or ``~a``"""

    operator: str
    operand: Node
    line: int


class Binary(Node, frozen=True):
    """An operator that looks at both its sides."""

    operator: str
    left: Node
    right: Node
    line: int


class Logical(Node, frozen=True):
    """``left && right``, or ``left || right``: the right side is looked at if the left does not decide."""

    left: Node
    right: Node
    is_and: bool


class Ternary(Node, frozen=True):
    """``condition ? then : otherwise``"""

    condition: Node
    then: Node
    otherwise: Node


class Cast(Node, frozen=True):
    """``(int) a`` and its like."""

    kind: str
    operand: Node


class Assign(Node, frozen=True):
    """``place = value``, or ``place += value`` with the operator ``+``."""

    place: Place
    operator: str
    value: Node
    line: int


class Step(Node, frozen=True):
    """``++place``, ``place--`` and their like."""

    place: Place
    operator: str
    is_before: bool
    line: int


class Parameter(Struct, frozen=True):
    """A parameter of a function, and what it is when the caller gives none."""

    name: str
    default: Node | None


class FunctionNode(Node, frozen=True):
    """``function (parameters) {body}``, a closure."""

    parameters: tuple[Parameter, ...]
    body: tuple[Node, ...]


class Block(Node, frozen=True):
    """``{ ... }``; with no statements, also a lone semicolon."""

    statements: tuple[Node, ...]


class If(Node, frozen=True):
    """``if (condition) then else otherwise``"""

    condition: Node
    then: Node
    otherwise: Node | None


class While(Node, frozen=True):
    """``while (condition) body``"""

    condition: Node
    body: Node


class For(Node, frozen=True):
    """``for (first; conditions; after) body``; the last condition decides, and none is true."""

    first: tuple[Node, ...]
    conditions: tuple[Node, ...]
    after: tuple[Node, ...]
    body: Node


class Foreach(Node, frozen=True):
    """``foreach (subject as $value)`` or ``foreach (subject as $key, $value)``"""

    subject: Node
    key: str | None
    value: str
    body: Node


class Case(Struct, frozen=True):
    """``case test:``, or ``default:`` where there is no test."""

    test: Node | None
    body: tuple[Node, ...]


class Switch(Node, frozen=True):
    """``switch (subject) { cases }``"""

    subject: Node
    cases: tuple[Case, ...]


class Declaration(Node, frozen=True):
    """``function name(parameters) {body}``"""

    name: str
    function: FunctionNode


class Return(Node, frozen=True):
    """``return value``"""

    value: Node | None


class Break(Node, frozen=True):
    """``break``"""


class Continue(Node, frozen=True):
    """``continue``"""


class Exit(Node, frozen=True):
    """``exit`` or ``die``, with a last word to print."""

    value: Node | None


class Print(Node, frozen=True):
    """``print a, b``"""

    values: tuple[Node, ...]


class Static(Node, frozen=True):
    """``static $name = value``: a variable that outlives the call."""

    name: str
    value: Node | None


class Constant(Node, frozen=True):
    """``const NAME = value``"""

    name: str
    value: Node


class Uplink(Node, frozen=True):
    """``uplink $a, $b``: variables of the whole script, in a function."""

    names: tuple[str, ...]
