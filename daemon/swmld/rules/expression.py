"""``gpu_memory > 80 AND file_type == 'model'`` as a tree of tests. A grammar reads it; nothing is evaluated.

    expression   = test | NOT expression | expression AND expression | expression OR expression
                 | ( expression )
    test         = NAME sign value | NAME operator value | NAME [NOT] IN [value, ...]
                 | NAME BETWEEN value AND value | NAME EXISTS
    value        = 'text' | "text" | word | number with or without a unit
    sign         = == = != > >= < <=            operator: the names of ``operators.Operator``

NOT binds closer than AND, AND closer than OR; words in any case; ``&&``, ``||`` and ``!`` are AND, OR and
NOT.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from lark import Lark, Token, Transformer
from lark.exceptions import UnexpectedCharacters, UnexpectedEOF, UnexpectedInput, UnexpectedToken

from swmld.rules.conditions import MAX_DEPTH

MAX_LENGTH = 4096
"""Characters: some hundred tests."""

_GRAMMAR = r"""
start: disjunction
?disjunction: conjunction (_OR conjunction)*   -> some
?conjunction: negation (_AND negation)*        -> every
?negation: _NOT negation                       -> negated
    | "(" disjunction ")"
    | NAME (SIGN | OPERATOR) value             -> test
    | NAME _IN list                            -> within
    | NAME _NOT _IN list                       -> without
    | NAME _BETWEEN value _AND value           -> between
    | NAME _EXISTS                             -> exists
list: "[" value ("," value)* [","] "]" | "(" value ("," value)* [","] ")"
?value: STRING | NUMBER | NAME

SIGN: "==" | "!=" | ">=" | "<=" | "=" | ">" | "<"
OPERATOR.2: /(not_equals|equals|not_contains|contains|matches|glob|starts_with|ends_with|greater_than|less_than|greater_equal|less_equal)(?![\w.\-])/i
_AND.2: /and(?![\w.\-])/i | "&&"
_OR.2: /or(?![\w.\-])/i | "||"
_NOT.2: /not(?![\w.\-])/i | /!(?!=)/
_IN.2: /in(?![\w.\-])/i
_BETWEEN.2: /between(?![\w.\-])/i
_EXISTS.2: /exists(?![\w.\-])/i
NAME: /[A-Za-z_][\w.\-]*/
NUMBER: /[+-]?[0-9][0-9.]*([eE][+-]?[0-9]+)?(:[0-9]{2})*([A-Za-z%][A-Za-z\/]*)?/
STRING: /'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"/
%ignore /\s+/
"""  # noqa: E501
_SAID = {
    "SIGN": "a comparison", "OPERATOR": "an operator", "_AND": "AND", "_OR": "OR", "_NOT": "NOT", "_IN": "IN",
    "_BETWEEN": "BETWEEN", "_EXISTS": "EXISTS", "NAME": "a name", "NUMBER": "a number", "STRING": "a text",
    "LPAR": "(", "RPAR": ")", "LSQB": "[", "RSQB": "]", "COMMA": ",", "$END": "the end",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Term:
    """``kind``: test (``name``, ``operator``, ``value``), all, any, not (``items``). ``depth``: groups below
    one another in it."""

    kind: str
    items: tuple[Term, ...] = ()
    name: str = ""
    operator: str = ""
    value: Any = None
    depth: int = 0


class _Build(Transformer[Token, Any]):
    def start(self, items: list[Term]) -> Term:
        return items[0]

    def some(self, items: list[Any]) -> Term:
        return _group("any", items)

    def every(self, items: list[Any]) -> Term:
        return _group("all", items)

    def negated(self, items: list[Any]) -> Term:
        return _group("not", items)

    def test(self, items: list[Any]) -> Term:
        return Term("test", (), str(items[0]), str(items[1]).lower(), items[2])

    def within(self, items: list[Any]) -> Term:
        return Term("test", (), str(items[0]), "in", items[1])

    def without(self, items: list[Any]) -> Term:
        return Term("test", (), str(items[0]), "not_in", items[1])

    def between(self, items: list[Any]) -> Term:
        return Term("test", (), str(items[0]), "between", items[1:])

    def exists(self, items: list[Any]) -> Term:
        return Term("test", (), str(items[0]), "exists", "true")

    def list(self, items: list[Any]) -> list[Any]:
        return [item for item in items if item is not None]

    def STRING(self, token: Token) -> str:
        text = token[1:-1]
        return text if "\\" not in text else _unescaped(text)

    def NUMBER(self, token: Token) -> str:
        return str(token)

    NAME = NUMBER


def _group(kind: str, items: list[Any]) -> Term:
    if len(items) == 1 and kind != "not":
        return items[0]  # type: ignore[no-any-return]
    return Term(kind, tuple(items), depth=1 + max(item.depth for item in items))


def _unescaped(text: str) -> str:
    """A backslash before a quote or a backslash makes it an ordinary one; before anything else it stays, so
    that regular expressions are written as they are."""
    parts, at = [], 0
    while at < len(text):
        at += text[at] == "\\" and text[at + 1 : at + 2] in ("'", '"', "\\")
        parts.append(text[at])
        at += 1
    return "".join(parts)


@cache
def _grammar() -> Lark:
    # LALR with the transformer inside: a stack of its own, so depth costs no recursion.
    return Lark(_GRAMMAR, parser="lalr", transformer=_Build())


def parse(text: str) -> Term:
    """The tree of an expression. Raises ValueError with the place and what was expected there."""
    if len(text) > MAX_LENGTH:
        raise ValueError(f"expected an expression of at most {MAX_LENGTH} characters, got {len(text)}")
    try:
        term: Term = _grammar().parse(text)  # type: ignore[assignment]
    except UnexpectedInput as error:
        raise ValueError(_told(text, error)) from None
    if term.depth > MAX_DEPTH:
        raise ValueError(f"expected at most {MAX_DEPTH} groups within one another, got {term.depth}")
    return term


def _told(text: str, error: UnexpectedInput) -> str:
    if isinstance(error, UnexpectedToken):
        names = set(error.accepts or error.expected)
        found = "the end" if error.token.type == "$END" else repr(str(error.token))
    elif isinstance(error, UnexpectedCharacters):
        names, found = set(error.allowed or ()), repr(text[error.pos_in_stream or 0])
    else:
        names, found = set(error.expected) if isinstance(error, UnexpectedEOF) else set(), "the end"
    place = len(text) if found == "the end" else (error.pos_in_stream or 0)
    wanted = sorted({_SAID.get(name, name) for name in names})
    listed = " or ".join([", ".join(wanted[:-1]), wanted[-1]] if len(wanted) > 1 else wanted)
    return f"expected {listed or 'an expression'} at character {place + 1} of the expression, got {found}"
