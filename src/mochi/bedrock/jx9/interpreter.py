"""Runs scripts, by walking over their nodes.

Invariants: every node that is evaluated costs a step. What a script is given is copied before it can change it.
Whatever the text of a script, all that comes out is a `Jx9Error`.
"""

import enum
import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from msgspec import Struct

from diaspora_stream.console.hints import nearest, suggestion
from mochi.bedrock.jx9 import builtins, syntax
from mochi.bedrock.jx9.errors import Jx9Error, Jx9LimitError, Jx9SyntaxError
from mochi.bedrock.jx9.limits import QUERY, Limits, Meter
from mochi.bedrock.jx9.operators import BINARY, UNARY
from mochi.bedrock.jx9.parser import parse_condition, parse_program
from mochi.bedrock.jx9.syntax import Node
from mochi.bedrock.jx9.values import (
    Array,
    Cell,
    Function,
    Value,
    integer,
    is_true,
    kind,
    number,
    plain,
    shared,
)

__all__ = ["holds", "run"]

log = logging.getLogger(__name__)

LINE_STEPS = 100
"""Cost of a line in the log."""

MOST_WARNINGS = 20
"""Things without effect that are told of one script."""

_WALKING = frozenset({"==", "!=", "===", "!==", "<", "<=", ">", ">="})
_CASTS: dict[str, Callable[[Value], Value]] = {
    "int": integer,
    "float": lambda value: float(number(value)),
    "bool": is_true,
}


def run(
    script: str,
    variables: Mapping[str, Any],
    limits: Limits = QUERY,
    warn: Callable[[str], None] | None = None,
    pause: Callable[[], None] | None = None,
) -> Any:
    """Run a script and return its value, null if it returns none.

    Parameters
    ----------
    script : str
    variables : Mapping
        Values of JSON, by the names that the script knows them by, without the ``$``; functions see them too. They are
        not changed.
    limits : Limits
        What the script may use.
    warn : callable, optional
        Called once with each thing that the script does without effect, such as a call of a function that is not
        there. The log is told if there is nobody else.
    pause : callable, optional
        Called about every 0.5 ms while the script is read and run.

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
    return _Run(variables, limits, warn, pause).whole(parse_program(script, pause))


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

    def __init__(
        self,
        variables: Mapping[str, Any],
        limits: Limits,
        warn: Callable[[str], None] | None = None,
        pause: Callable[[], None] | None = None,
    ) -> None:
        self._meter = Meter(limits, pause)
        self._warn_asker = warn
        self._warned: set[str] = set()
        self._most_depth = limits.depth
        self._depth = 0
        self._line: int | None = None
        self._given = variables
        self._globals: dict[str, Cell] = {}
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
            syntax.Word: self._word,
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
        if not isinstance(subject, Array):
            return None
        self._meter.copy(subject)
        for key, value in subject.items():
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
        cell = self._found(name)
        return None if cell is None else cell.value

    def _found(self, name: str) -> Cell | None:
        """Return the variable of this name that is seen from here; what was given is seen from everywhere."""
        cell = self._locals.get(name)
        if cell is None and name in self._given:
            cell = self._globals.get(name)
            if cell is None:
                cell = self._globals[name] = Cell(shared(self._given[name]))
        return cell

    def _variable(self, name: str) -> Cell:
        return self._found(name) or self._locals.setdefault(name, Cell())

    def _word(self, node: syntax.Word) -> Value:
        value = self._constants.get(node.name, node.name)
        if isinstance(value, Array):  # a constant stays what it is
            self._meter.take(self._meter.weigh(value))
            return shared(plain(value))
        return value

    def _array(self, node: syntax.ArrayLiteral) -> Value:
        return Array(self._evaluate_all(node.items))

    def _object(self, node: syntax.ObjectLiteral) -> Value:
        return Array(
            {self._meter.text(self._evaluate(key)): self._evaluate(value) for key, value in node.items}
        )

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
        if isinstance(left, str | Array) and isinstance(right, str | Array):
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
        if (builtin := builtins.BUILTINS.get(name)) is not None:
            return self._apply(name, builtin, values)
        near = suggestion(nearest(name, [*builtins.BUILTINS, *self._functions]))
        self._warn(f'unknown function "{name[:80]}" gives null{near}')
        return None

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
        if isinstance(value, Array | Function):
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

    def _write(self, cell: Cell, keys: Sequence[_Key], value: Value) -> None:
        """Put a value at the end of a way; what is missing on it is made."""
        if not keys:
            cell.value = value
            return
        if cell.value is None and not keys[0].is_dotted:
            cell.value = _begun(keys[0])
        base = cell.value
        for key, following in itertools.pairwise(keys):
            if not self._may_put(base, key):
                return
            entry = None if key.value is None else base.get(key.value)
            if entry is None and not following.is_dotted:
                entry = _begun(following)
                self._meter.put(base, key.value, entry)
            base = entry
        if self._may_put(base, keys[-1]):
            self._meter.put(base, keys[-1].value, value)

    def _may_put(self, base: Value, key: _Key) -> bool:
        """Tell whether an entry may be put; a member that is not there may not, with a word in the log."""
        if key.is_dotted and not (isinstance(base, Array) and key.value is not None and base.has(key.value)):
            problem = f'no member "{key.value}" to assign to, ignored; ["{key.value}"] would add it'
            self._warn(problem)
            return False
        if not isinstance(base, Array):
            raise Jx9Error(f"expected an array or object to put an entry into; found {kind(base)}")
        return True

    def _assign(self, node: syntax.Assign) -> Value:
        cell, keys = self._place(node.place)
        value = self._evaluate(node.value)
        self._line = node.line
        if node.operator:
            value = self._compute(node.operator, self._at(cell.value, keys), value)
        self._write(cell, keys, value)
        return value

    def _step(self, node: syntax.Step) -> Value:
        cell, keys = self._place(node.place)
        self._line = node.line
        before = self._at(cell.value, keys)
        after = BINARY[node.operator](before, 1)
        self._write(cell, keys, after)
        return after if node.is_before else before

    def _warn(self, problem: str) -> None:
        """Tell of something without effect, each once, with its line; `MOST_WARNINGS` of them."""
        if self._warn_asker is None:
            self._log(logging.WARNING, problem)
            return
        self._meter.step(LINE_STEPS)
        text = problem if self._line is None else f"line {self._line}: {problem}"
        if text not in self._warned and len(self._warned) < MOST_WARNINGS:
            self._warned.add(text)
            self._warn_asker(text)

    def _log(self, level: int, text: str) -> None:
        self._meter.take(len(text))
        for line in text.splitlines():
            self._meter.step(LINE_STEPS)
            log.log(level, "[jx9] %s", line)


def _begun(key: _Key) -> Array:
    """Return what an entry of this key is put into where there was nothing."""
    return Array({} if isinstance(key.value, str) else [])


def _entry(base: Value, key: str | int | None) -> Value:
    """What is in an array or object; null where there is nothing, and in all that is neither."""
    if key is None:
        raise Jx9Error("[] stands for a new entry, and has no value; expected it to the left of =")
    return base.get(key) if isinstance(base, Array) else None
