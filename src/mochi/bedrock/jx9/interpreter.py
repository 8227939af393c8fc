"""Runs scripts, by walking over their nodes.

Invariants: every node that is evaluated costs a step; no list or dict that a script has seen is changed, a write makes
new ones along its path; whatever the text of a script, all that comes out is a `Jx9Error`.
"""

import difflib
import enum
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from msgspec import Struct

from mochi.bedrock.jx9 import builtins, syntax
from mochi.bedrock.jx9.errors import Jx9Error, Jx9LimitError, Jx9SyntaxError
from mochi.bedrock.jx9.limits import QUERY, Limits, Meter
from mochi.bedrock.jx9.operators import BINARY, UNARY
from mochi.bedrock.jx9.parser import parse_condition, parse_program
from mochi.bedrock.jx9.syntax import Node
from mochi.bedrock.jx9.values import (
    Cell,
    Function,
    Value,
    as_object,
    integer,
    is_true,
    kind,
    number,
    plain,
)

__all__ = ["holds", "run"]

log = logging.getLogger(__name__)

LINE_STEPS = 100
"""Cost of a line in the log."""

_WALKING = frozenset({"==", "!=", "===", "!==", "<", "<=", ">", ">="})
_CASTS: dict[str, Callable[[Value], Value]] = {
    "int": integer,
    "float": lambda value: float(number(value)),
    "bool": is_true,
}


def run(script: str, variables: Mapping[str, Any], limits: Limits = QUERY) -> Any:
    """Run a script and return its value, null if it returns none.

    Parameters
    ----------
    script : str
    variables : Mapping
        Values of JSON, by the names that the script knows them by, without the ``$``. They are not changed.
    limits : Limits
        What the script may use.

    Returns
    -------
    Any
        A value of JSON; whole floats are integers in it.

    Raises
    ------
    Jx9SyntaxError
        The text is no script.
    Jx9LimitError
        It uses more than it may.
    Jx9Error
        It failed.

    Notes
    -----
    What it prints goes to the log, each line as ``[jx9] text``. Any thread; any number of scripts at a time.
    """
    _check(script, limits)
    return _Run(variables, limits).whole(parse_program(script))


def holds(condition: str, variables: Mapping[str, Any], limits: Limits = QUERY) -> bool:
    """Tell whether an expression is true, in the loose sense; parameters and errors are those of `run`."""
    _check(condition, limits)
    return is_true(_Run(variables, limits).whole((syntax.Return(parse_condition(condition)),)))


def _check(text: str, limits: Limits) -> None:
    if len(text) > limits.length:
        raise Jx9LimitError(f"expected a script of at most {limits.length} characters; found {len(text)}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Jx9SyntaxError("expected Unicode text; found half of a surrogate pair") from None


class _Flow(enum.Enum):
    """Why a list of statements was left before its end."""

    BREAK = enum.auto()
    CONTINUE = enum.auto()
    RETURN = enum.auto()


class _Exit(Exception):
    """The script ends here."""


class _Key(Struct, frozen=True):
    """One step from an array or object to what is in it; a `value` of None stands for a new entry at the end."""

    value: str | int | None
    is_dotted: bool


class _Run:
    """One run of one script."""

    def __init__(self, variables: Mapping[str, Any], limits: Limits) -> None:
        self._meter = Meter(limits)
        self._most_depth = limits.depth
        self._depth = 0
        self._line: int | None = None
        self._globals = {name: Cell(value) for name, value in variables.items()}
        self._locals = self._globals
        self._statics: dict[str, Cell] = {}
        self._functions: dict[str, Function] = {}
        self._constants: dict[str, Value] = dict(builtins.CONSTANTS)
        self._result: Value = None
        self._statements: dict[type, Callable[[Any], _Flow | None]] = {
            syntax.Block: lambda node: self._execute_all(node.statements),
            syntax.Break: lambda node: _Flow.BREAK,
            syntax.Constant: self._constant,
            syntax.Continue: lambda node: _Flow.CONTINUE,
            syntax.Declaration: self._declaration,
            syntax.Exit: self._exit,
            syntax.For: self._for,
            syntax.Foreach: self._foreach,
            syntax.If: self._if,
            syntax.Print: self._print,
            syntax.Return: self._return,
            syntax.Static: self._static,
            syntax.Switch: self._switch,
            syntax.Uplink: self._uplink,
            syntax.While: self._while,
        }
        self._expressions: dict[type, Callable[[Any], Value]] = {
            syntax.ArrayLiteral: self._array,
            syntax.Assign: self._assign,
            syntax.Binary: self._binary,
            syntax.Call: self._call,
            syntax.CallValue: self._call_value,
            syntax.Cast: self._cast,
            syntax.FunctionNode: Function,
            syntax.Index: self._index,
            syntax.Literal: lambda node: node.value,
            syntax.Logical: self._logical,
            syntax.ObjectLiteral: self._object,
            syntax.Step: self._step,
            syntax.Template: self._template,
            syntax.Ternary: self._ternary,
            syntax.Unary: self._unary,
            syntax.Variable: lambda node: self._read(node.name),
            syntax.Word: lambda node: self._constants.get(node.name, node.name),
        }

    def whole(self, statements: Sequence[Node]) -> Any:
        """Run the script from its beginning; functions are known before their declaration."""
        try:
            for statement in statements:
                if isinstance(statement, syntax.Declaration):
                    self._declaration(statement)
            try:
                self._execute_all(statements)
            except _Exit:
                return None
            self._meter.take(self._meter.weigh(self._result))
            return plain(self._result)
        except RecursionError:
            raise Jx9LimitError("the script, or a value, is nested too deeply", self._line) from None
        except Jx9Error as error:
            if error.line is not None:
                raise
            raise type(error)(error.problem, self._line) from None

    # --- statements

    def _execute(self, node: Node) -> _Flow | None:
        execute = self._statements.get(type(node))
        if execute is None:
            self._evaluate(node)
            return None
        self._meter.step()
        return execute(node)

    def _execute_all(self, nodes: Sequence[Node]) -> _Flow | None:
        for node in nodes:
            if flow := self._execute(node):
                return flow
        return None

    def _constant(self, node: syntax.Constant) -> None:
        self._constants[node.name] = self._evaluate(node.value)

    def _declaration(self, node: syntax.Declaration) -> None:
        known = self._functions.get(node.name)
        if known is None or known.node is not node.function:
            self._functions[node.name] = Function(node.function)

    def _exit(self, node: syntax.Exit) -> NoReturn:
        if node.value is not None:
            self._log(logging.INFO, self._meter.text(self._evaluate(node.value)))
        raise _Exit

    def _if(self, node: syntax.If) -> _Flow | None:
        if is_true(self._evaluate(node.condition)):
            return self._execute(node.then)
        return None if node.otherwise is None else self._execute(node.otherwise)

    def _while(self, node: syntax.While) -> _Flow | None:
        while is_true(self._evaluate(node.condition)):
            flow = self._execute(node.body)
            if flow is _Flow.BREAK:
                break
            if flow is _Flow.RETURN:
                return flow
        return None

    def _for(self, node: syntax.For) -> _Flow | None:
        self._evaluate_all(node.first)
        while not node.conditions or is_true(self._evaluate_all(node.conditions)[-1]):
            flow = self._execute(node.body)
            if flow is _Flow.BREAK:
                break
            if flow is _Flow.RETURN:
                return flow
            self._evaluate_all(node.after)
        return None

    def _foreach(self, node: syntax.Foreach) -> _Flow | None:
        subject = self._evaluate(node.subject)
        if not isinstance(subject, list | dict):
            return None
        for key, value in subject.items() if isinstance(subject, dict) else enumerate(subject):
            if node.key is not None:
                self._variable(node.key).value = key
            self._variable(node.value).value = value
            flow = self._execute(node.body)
            if flow is _Flow.BREAK:
                break
            if flow is _Flow.RETURN:
                return flow
        return None

    def _switch(self, node: syntax.Switch) -> _Flow | None:
        subject = self._evaluate(node.subject)
        chosen = None
        for index, case in enumerate(node.cases):
            if case.test is None:
                chosen = index if chosen is None else chosen
            elif self._compare("==", subject, self._evaluate(case.test)):
                chosen = index
                break
        for case in node.cases[chosen:] if chosen is not None else ():
            flow = self._execute_all(case.body)
            if flow is _Flow.BREAK:
                return None
            if flow:
                return flow
        return None

    def _return(self, node: syntax.Return) -> _Flow:
        self._result = None if node.value is None else self._evaluate(node.value)
        return _Flow.RETURN

    def _print(self, node: syntax.Print) -> None:
        self._log(logging.INFO, "".join([self._meter.text(self._evaluate(value)) for value in node.values]))

    def _static(self, node: syntax.Static) -> None:
        cell = self._statics.get(node.name)
        if cell is None:
            cell = self._statics[node.name] = Cell(None if node.value is None else self._evaluate(node.value))
        self._locals[node.name] = cell

    def _uplink(self, node: syntax.Uplink) -> None:
        for name in node.names:
            self._locals[name] = self._globals.setdefault(name, Cell())

    # --- expressions

    def _evaluate(self, node: Node) -> Value:
        self._meter.step()
        return self._expressions[type(node)](node)

    def _evaluate_all(self, nodes: Sequence[Node]) -> list[Value]:
        return [self._evaluate(node) for node in nodes]

    def _read(self, name: str) -> Value:
        cell = self._locals.get(name)
        return None if cell is None else cell.value

    def _variable(self, name: str) -> Cell:
        return self._locals.setdefault(name, Cell())

    def _array(self, node: syntax.ArrayLiteral) -> Value:
        return self._evaluate_all(node.items)

    def _object(self, node: syntax.ObjectLiteral) -> Value:
        return {self._meter.text(self._evaluate(key)): self._evaluate(value) for key, value in node.items}

    def _template(self, node: syntax.Template) -> Value:
        return self._joined([self._evaluate(part) for part in node.parts])

    def _joined(self, values: Sequence[Value]) -> str:
        parts = [self._meter.text(value) for value in values]
        self._meter.take(sum(map(len, parts)))
        return "".join(parts)

    def _binary(self, node: syntax.Binary) -> Value:
        left, right = self._evaluate(node.left), self._evaluate(node.right)
        self._line = node.line
        return self._compute(node.operator, left, right)

    def _compute(self, operator: str, left: Value, right: Value) -> Value:
        if operator == "..":
            return self._joined((left, right))
        if operator in _WALKING:
            return self._compare(operator, left, right)
        return BINARY[operator](left, right)

    def _compare(self, operator: str, left: Value, right: Value) -> Value:
        if isinstance(left, str | list | dict) and isinstance(right, str | list | dict):
            self._meter.weigh(left)
            self._meter.weigh(right)
        return BINARY[operator](left, right)

    def _unary(self, node: syntax.Unary) -> Value:
        operand = self._evaluate(node.operand)
        self._line = node.line
        return UNARY[node.operator](operand)

    def _cast(self, node: syntax.Cast) -> Value:
        operand = self._evaluate(node.operand)
        return self._meter.text(operand) if node.kind == "string" else _CASTS[node.kind](operand)

    def _logical(self, node: syntax.Logical) -> Value:
        if is_true(self._evaluate(node.left)) is not node.is_and:
            return not node.is_and
        return is_true(self._evaluate(node.right))

    def _ternary(self, node: syntax.Ternary) -> Value:
        return self._evaluate(node.then if is_true(self._evaluate(node.condition)) else node.otherwise)

    # --- functions

    def _call(self, node: syntax.Call) -> Value:
        self._line = node.line
        if node.name in builtins.CHANGING and node.name not in self._functions:
            return self._change(node)
        return self._call_name(node.name, self._evaluate_all(node.arguments))

    def _call_value(self, node: syntax.CallValue) -> Value:
        callee = self._evaluate(node.callee)
        values = self._evaluate_all(node.arguments)
        if isinstance(callee, Function):
            return self._invoke(callee, values)
        if isinstance(callee, str):
            return self._call_name(callee, values)
        raise Jx9Error(f"expected a function to call; found {kind(callee)}")

    def _call_name(self, name: str, values: Sequence[Value]) -> Value:
        if (function := self._functions.get(name)) is not None:
            return self._invoke(function, values)
        if (builtin := builtins.PURE.get(name)) is not None:
            return self._apply(name, builtin, values)
        if (builtin := builtins.CHANGING.get(name)) is not None:
            return self._apply(name, builtin, values)[1]
        near = difflib.get_close_matches(
            name[:80], [*builtins.PURE, *builtins.CHANGING, *self._functions], n=1
        )
        hint = f', did you mean "{near[0]}"?' if near else ""
        self._log(logging.WARNING, f'unknown function "{name[:80]}" gives null{hint}')
        return None

    def _change(self, node: syntax.Call) -> Value:
        """Call a function that changes the place that is its first argument."""
        builtin = builtins.CHANGING[node.name]
        first, *others = node.arguments or (None,)
        if not isinstance(first, syntax.Variable | syntax.Index):
            return self._call_name(node.name, self._evaluate_all(node.arguments))
        cell, keys = self._place(first)
        values = [self._at(cell.value, keys), *self._evaluate_all(others)]
        changed, result = self._apply(node.name, builtin, values)
        cell.value = self._written(cell.value, keys, changed)
        return result

    def _apply(self, name: str, builtin: builtins.Builtin, values: Sequence[Value]) -> Any:
        if not builtin.fewest <= len(values) <= builtin.most:
            wanted = f"{builtin.fewest} to {builtin.most}".removesuffix(f" to {builtin.fewest}")
            raise Jx9Error(f"{name}: expected {wanted} arguments; found {len(values)}")
        return builtin.function(self._meter, *values)

    def _invoke(self, function: Function, values: Sequence[Value]) -> Value:
        if self._depth == self._most_depth:
            raise Jx9LimitError(f"more than {self._most_depth} calls inside each other")
        outer = self._locals, self._statics
        self._locals, self._statics = {}, function.statics
        self._depth += 1
        for index, parameter in enumerate(function.node.parameters):
            if index < len(values):
                value = values[index]
            else:
                value = None if parameter.default is None else self._evaluate(parameter.default)
            self._locals[parameter.name] = Cell(value)
        flow = self._execute_all(function.node.body)
        self._depth -= 1
        self._locals, self._statics = outer
        result, self._result = self._result, None
        return result if flow is _Flow.RETURN else None

    # --- places

    def _index(self, node: syntax.Index) -> Value:
        base = self._evaluate(node.base)
        return _entry(base, self._key(node).value)

    def _key(self, node: syntax.Index) -> _Key:
        if node.key is None:
            return _Key(None, False)
        value = self._evaluate(node.key)
        if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
            return _Key(value, node.is_dotted)
        if isinstance(value, list | dict | Function):
            raise Jx9Error(f"expected a string or integer for a key; found {kind(value)}")
        return _Key("" if value is None else integer(value), node.is_dotted)

    def _place(self, node: Node) -> tuple[Cell, list[_Key]]:
        """Return a place as a variable and the way from it; what is no place counts as a new variable."""
        path: list[syntax.Index] = []
        while isinstance(node, syntax.Index):
            path.append(node)
            node = node.base
        cell = self._variable(node.name) if isinstance(node, syntax.Variable) else Cell(self._evaluate(node))
        return cell, [self._key(index) for index in reversed(path)]

    def _at(self, value: Value, keys: Sequence[_Key]) -> Value:
        for key in keys:
            value = _entry(value, key.value)
        return value

    def _written(self, base: Value, keys: Sequence[_Key], value: Value) -> Value:
        """Return `base` with another value at the end of a way."""
        if not keys:
            return value
        key = keys[0]
        if key.is_dotted and not _has(base, key.value):
            problem = f'no member "{key.value}" to assign to, ignored; ["{key.value}"] would add it'
            self._log(logging.WARNING, problem)
            return base
        if base is None:
            base = {} if isinstance(key.value, str) else []
        if not isinstance(base, list | dict):
            raise Jx9Error(f"expected an array or object to put an entry into; found {kind(base)}")
        entry = None if key.value is None else _entry(base, key.value)
        value = self._written(entry, keys[1:], value)
        changed = _with_entry(base, key.value, value)
        self._meter.copy(changed)
        return changed

    def _assign(self, node: syntax.Assign) -> Value:
        cell, keys = self._place(node.place)
        value = self._evaluate(node.value)
        self._line = node.line
        if node.operator:
            value = self._compute(node.operator, self._at(cell.value, keys), value)
        cell.value = self._written(cell.value, keys, value)
        return value

    def _step(self, node: syntax.Step) -> Value:
        cell, keys = self._place(node.place)
        self._line = node.line
        before = self._at(cell.value, keys)
        after = BINARY[node.operator](before, 1)
        cell.value = self._written(cell.value, keys, after)
        return after if node.is_before else before

    def _log(self, level: int, text: str) -> None:
        self._meter.take(len(text))
        for line in text.splitlines():
            self._meter.step(LINE_STEPS)
            log.log(level, "[jx9] %s", line)


def _position(array: list[Value], key: str | int) -> int | None:
    """Index that a key stands for, up to the first that is free; None for any other key."""
    if isinstance(key, str):
        if not (key.isascii() and key.isdecimal() and len(key) < 19):
            return None
        key = int(key)
    return key if 0 <= key <= len(array) else None


def _has(base: Value, key: str | int | None) -> bool:
    if isinstance(base, list) and key is not None:
        return _position(base, key) not in (None, len(base))
    return isinstance(base, dict) and str(key) in base


def _entry(base: Value, key: str | int | None) -> Value:
    """What is in an array or object; null where there is nothing, and in all that is neither."""
    if key is None:
        raise Jx9Error("[] stands for a new entry, and has no value; expected it to the left of =")
    if isinstance(base, dict):
        return base.get(str(key))
    if isinstance(base, list):
        position = _position(base, key)
        return None if position is None or position == len(base) else base[position]
    return None


def _with_entry(base: "list[Value] | dict[str, Value]", key: str | int | None, value: Value) -> Value:
    """Return a copy with an entry set; an array whose indices it would break becomes an object."""
    if isinstance(base, list):
        position = len(base) if key is None else _position(base, key)
        if position is not None:
            return [*base[:position], value, *base[position + 1 :]]
    elif key is None:
        raise Jx9Error("[] adds to arrays; found an object, which needs a key")
    return {**as_object(base), str(key): value}
