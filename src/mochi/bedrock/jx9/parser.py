"""From text to the nodes of `mochi.bedrock.jx9.syntax`, by the grammar of ``grammar.lark``.

Nodes are made while the text is read, so that no text is nested too deeply for the parser. Any thread.
"""

import functools
import json
import math
import re
from collections.abc import Callable
from typing import Any

from lark import Lark, Token, Transformer, UnexpectedInput, UnexpectedToken, v_args
from lark.lexer import PatternStr

from mochi.bedrock.jx9 import syntax
from mochi.bedrock.jx9.errors import Jx9SyntaxError
from mochi.bedrock.jx9.syntax import Node
from mochi.bedrock.jx9.values import MAX_INT

__all__ = ["parse_condition", "parse_program"]

SLICE = 25
"""Words of a script between two pauses: about 0.5 ms."""

SHOWN = 4
"""Most alternatives that a syntax error lists."""

_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"} | {kept: kept for kept in '"\\$/'}
_INSIDE_TEXT = re.compile(r"\\(.)|\$([A-Za-z_][A-Za-z0-9_]*)", re.DOTALL)
_INSIDE_RAW = re.compile(r"\\(['\\])")
_SPELLINGS = {"<>": "!="}
_BASES = {"0x": 16, "0b": 2}
_DIGITS_OF_INT64 = {2: 63, 8: 21, 10: 19, 16: 16}


def parse_program(text: str, pause: Callable[[], None] | None = None) -> tuple[Node, ...]:
    """Parse a script; `pause`, if given, is called after each `SLICE` words of it.

    Raises
    ------
    Jx9SyntaxError
        With the line and column of the first thing that cannot be there, and what could.
    """
    statements: tuple[Node, ...] = _parse(text, "program", pause)
    return statements


def parse_condition(text: str) -> Node:
    """Parse one expression; raises as `parse_program` does."""
    expression: Node = _parse(text, "condition")
    return expression


def _parse(text: str, start: str, pause: Callable[[], None] | None = None) -> Any:
    grammar = _grammar()
    try:
        if pause is None:
            return grammar.parse(text, start=start)
        reading = grammar.parse_interactive(text, start=start)
        for number, _ in enumerate(reading.iter_parse(), 1):
            if number % SLICE == 0:
                pause()
        return reading.feed_eof()  # type: ignore[no-untyped-call]
    except UnexpectedInput as error:
        raise _syntax_error(grammar, text, error) from None


@functools.cache
def _grammar() -> Lark:
    return Lark.open(
        "grammar.lark",
        rel_to=__file__,
        parser="lalr",
        start=["program", "condition"],
        transformer=_NodeMaker(),
        maybe_placeholders=True,
    )


def _syntax_error(grammar: Lark, text: str, error: UnexpectedInput) -> Jx9SyntaxError:
    if not isinstance(error, UnexpectedToken):
        found = text[error.pos_in_stream or 0]
        problem = "string without an end" if found in "\"'" else f"unexpected character {json.dumps(found)}"
        return Jx9SyntaxError(problem, error.line, error.column)
    is_end = error.token.type == "$END"
    problem = "unexpected end" if is_end else f"unexpected {json.dumps(error.token[:40])}"
    if len(error.expected) <= SHOWN:
        shown = (_shown(grammar, name) for name in sorted(error.expected))
        problem += f"; expected {' or '.join(shown)}"
    if is_end:
        return Jx9SyntaxError(problem, text.count("\n") + 1, len(text) - text.rfind("\n"))
    return Jx9SyntaxError(problem, error.line, error.column)


def _shown(grammar: Lark, name: str) -> str:
    if name == "$END":
        return "the end"
    pattern = grammar.get_terminal(name).pattern
    return f'"{pattern.value}"' if isinstance(pattern, PatternStr) else f"a {name.lower()}"


def _at(token: Token) -> int:
    return token.line or 0


def _place(node: Node, token: Token) -> syntax.Place:
    """Check that a node can be assigned to."""
    root = node
    while isinstance(root, syntax.Index):
        root = root.base
    if isinstance(root, syntax.Variable) and isinstance(node, syntax.Variable | syntax.Index):
        return node
    problem = f'"{token}" needs a variable, or a part of one, to change'
    raise Jx9SyntaxError(problem, token.line, token.column)


def _interpolated(text: str) -> Node:
    """Split the inside of a string with double quotes; what follows an unknown backslash stays, with it."""
    parts: list[Node] = []
    literal = ""
    end = 0
    for match in _INSIDE_TEXT.finditer(text):
        literal += text[end : match.start()]
        end = match.end()
        escaped, variable = match.groups()
        if variable is None:
            literal += _ESCAPES.get(escaped, match[0])
            continue
        parts += [syntax.Literal(literal), syntax.Variable(variable)]
        literal = ""
    literal += text[end:]
    return syntax.Template((*parts, syntax.Literal(literal))) if parts else syntax.Literal(literal)


def _raw(token: Token) -> Node:
    return syntax.Literal(_INSIDE_RAW.sub(r"\1", token[1:-1]))


@v_args(inline=True)
class _NodeMaker(Transformer[Token, Any]):
    """One method for each rule of the grammar that has a name of its own."""

    # What lark leaves out is None: an optional part that is not there.

    def program(self, statements: tuple[Node, ...]) -> tuple[Node, ...]:
        return statements

    def condition(self, expression: Node) -> Node:
        return expression

    def statements(self, *nodes: Node) -> tuple[Node, ...]:
        return nodes

    def empty(self) -> Node:
        return syntax.Block(())

    def block(self, statements: tuple[Node, ...] = ()) -> Node:
        return syntax.Block(statements)

    def if_(self, condition: Node, then: Node, otherwise: Node | None = None) -> Node:
        return syntax.If(condition, then, otherwise)

    def while_(self, condition: Node, body: Node) -> Node:
        return syntax.While(condition, body)

    def for_(
        self, first: tuple[Node, ...], conditions: tuple[Node, ...], after: tuple[Node, ...], body: Node
    ) -> Node:
        return syntax.For(first, conditions, after, body)

    def foreach(self, subject: Node, first: Token, second: Token | None, body: Node) -> Node:
        if second is None:
            return syntax.Foreach(subject, None, first[1:], body)
        return syntax.Foreach(subject, first[1:], second[1:], body)

    def switch(self, subject: Node, *cases: syntax.Case) -> Node:
        return syntax.Switch(subject, cases)

    def case(self, test: Node, body: tuple[Node, ...]) -> syntax.Case:
        return syntax.Case(test, body)

    def default(self, body: tuple[Node, ...]) -> syntax.Case:
        return syntax.Case(None, body)

    def declaration(self, name: Token, function: syntax.FunctionNode) -> Node:
        return syntax.Declaration(str(name), function)

    def function(self, *parts: Any) -> syntax.FunctionNode:
        *parameters, body = parts
        return syntax.FunctionNode(tuple(filter(None, parameters)), body.statements)

    def parameter(self, name: Token, default: Node | None) -> syntax.Parameter:
        return syntax.Parameter(name[1:], default)

    def list(self, *expressions: Node | None) -> tuple[Node, ...]:
        return tuple(filter(None, expressions))

    arguments = list

    def return_(self, value: Node | None = None) -> Node:
        return syntax.Return(value)

    def break_(self) -> Node:
        return syntax.Break()

    def continue_(self) -> Node:
        return syntax.Continue()

    def exit(self, value: Node | None) -> Node:
        return syntax.Exit(value)

    def print(self, *values: Node) -> Node:
        return syntax.Print(values)

    def static(self, name: Token, value: Node | None) -> Node:
        return syntax.Static(name[1:], value)

    def const(self, name: Token, value: Node) -> Node:
        return syntax.Constant(str(name), value)

    def uplink(self, *names: Token) -> Node:
        return syntax.Uplink(tuple(name[1:] for name in names))

    def assign(self, place: Node, operator: Token, value: Node) -> Node:
        return syntax.Assign(_place(place, operator), operator[:-1], value, _at(operator))

    def ternary(self, condition: Node, then: Node, otherwise: Node) -> Node:
        return syntax.Ternary(condition, then, otherwise)

    def any(self, left: Node, right: Node) -> Node:
        return syntax.Logical(left, right, False)

    def all(self, left: Node, right: Node) -> Node:
        return syntax.Logical(left, right, True)

    def binary(self, left: Node, operator: Token, right: Node) -> Node:
        return syntax.Binary(_SPELLINGS.get(operator, str(operator)), left, right, _at(operator))

    def unary(self, operator: Token, operand: Node) -> Node:
        return syntax.Unary(str(operator), operand, _at(operator))

    def cast(self, kind: Token, operand: Node) -> Node:
        return syntax.Cast(kind[1:-1].strip(), operand)

    def step_before(self, operator: Token, place: Node) -> Node:
        return syntax.Step(_place(place, operator), operator[0], True, _at(operator))

    def step_after(self, place: Node, operator: Token) -> Node:
        return syntax.Step(_place(place, operator), operator[0], False, _at(operator))

    def variable(self, name: Token) -> Node:
        return syntax.Variable(name[1:])

    def closure(self, function: syntax.FunctionNode) -> Node:
        return function

    def call(self, name: Token, arguments: tuple[Node, ...]) -> Node:
        return syntax.Call(str(name), arguments, _at(name))

    def call_value(self, callee: Node, arguments: tuple[Node, ...]) -> Node:
        return syntax.CallValue(callee, arguments)

    def member(self, base: Node, name: Token) -> Node:
        return syntax.Index(base, syntax.Literal(str(name)), True)

    def index(self, base: Node, key: Node | None) -> Node:
        return syntax.Index(base, key, False)

    def integer(self, token: Token) -> Node:
        prefix = token[:2].lower()
        base = _BASES.get(prefix, 8 if token[0] == "0" else 10)
        digits = token[2 * (prefix in _BASES) :].lstrip("0") or "0"
        if base == 8 and not {"8", "9"}.isdisjoint(digits):
            raise Jx9SyntaxError("8 and 9 are no octal digits", token.line, token.column)
        if len(digits) > _DIGITS_OF_INT64[base] or (value := int(digits, base)) > MAX_INT:
            raise Jx9SyntaxError("integer beyond 64 bits", token.line, token.column)
        return syntax.Literal(value)

    def float(self, token: Token) -> Node:
        value = float(token)
        if math.isinf(value):
            raise Jx9SyntaxError("number beyond the range of floats", token.line, token.column)
        return syntax.Literal(value)

    def text(self, token: Token) -> Node:
        return _interpolated(token[1:-1])

    def raw(self, token: Token) -> Node:
        return _raw(token)

    def true(self, _: Token) -> Node:
        return syntax.Literal(True)

    def false(self, _: Token) -> Node:
        return syntax.Literal(False)

    def null(self, _: Token) -> Node:
        return syntax.Literal(None)

    def word(self, name: Token) -> Node:
        return syntax.Word(str(name))

    def array(self, *items: Node | None) -> Node:
        return syntax.ArrayLiteral(tuple(filter(None, items)))

    def object(self, *pairs: tuple[Node, Node]) -> Node:
        return syntax.ObjectLiteral(pairs)

    def pair(self, key: Token, value: Node) -> tuple[Node, Node]:
        if key.type == "NAME":
            return syntax.Literal(str(key)), value
        return (_interpolated(key[1:-1]) if key.type == "TEXT" else _raw(key)), value
