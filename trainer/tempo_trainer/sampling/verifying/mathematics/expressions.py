"""Parse an expression in plain notation into a tree.

A tree is a tuple: its kind, then its parts.

    ("number", Fraction)   ("variable", "x")   ("constant", "pi")
    ("sum", trees)   ("product", trees)   ("power", base, exponent)   ("call", name, trees)
    ("series", "sum" or "prod", variable, first, last, term)
"""

from fractions import Fraction
from typing import Any

from tempo_trainer.sampling.verifying.mathematics.tokens import (
    CONSTANTS,
    FUNCTIONS,
    UnreadableError,
    fraction,
    tokens,
)

Tree = tuple[Any, ...]

MAX_DEPTH = 48
MAX_FACTORIALS = 3
PAIRS = {"(": ")", "[": "]", "{": "}", r"\{": r"\}"}
ONE: Tree = ("number", Fraction(1))
MINUS_ONE: Tree = ("number", Fraction(-1))
DEGREE: Tree = ("product", (("constant", "pi"), ("number", Fraction(1, 180))))


def parse_expression(text: str) -> Tree:
    """Return the tree of an expression; raise UnreadableError."""
    parser = _Parser(tokens(text))
    tree = parser.sum()
    if parser.peek() is not None:
        raise UnreadableError(text[:60])
    return tree


def variables(tree: Tree) -> frozenset[str]:
    """Return the names of the variables of a tree."""
    names: set[str] = set()
    pending: list[Any] = [tree]
    while pending:
        part = pending.pop()
        if isinstance(part, tuple):
            if part and part[0] == "variable":
                names.add(part[1])
            else:
                pending.extend(part)
    return frozenset(names)


class _Parser:
    """Recursive descent: a sum has products, a product powers, a power an atom."""

    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self._tokens = tokens
        self._next = 0
        self._depth = 0
        self._bars = 0

    def peek(self) -> tuple[str, str] | None:
        """Return the next token."""
        return self._tokens[self._next] if self._next < len(self._tokens) else None

    def sum(self) -> Tree:
        """Parse terms with + and - between them."""
        terms = [self._signed_product()]
        while self._value() in ("+", "-"):
            terms.append(self._signed_product())
        return terms[0] if len(terms) == 1 else ("sum", tuple(terms))

    def _signed_product(self) -> Tree:
        negative = False
        while self._value() in ("+", "-"):
            negative ^= self._take() == "-"
        tree = self._product()
        return ("product", (MINUS_ONE, tree)) if negative else tree

    def _product(self) -> Tree:
        factors = [self._power()]
        while (value := self._value()) is not None:
            if value == "*":
                self._take()
                factors.append(self._signed_power())
            elif value == "/":
                self._take()
                factors.append(("power", self._signed_power(), MINUS_ONE))
            elif self._starts_atom():
                if self.peek() == ("number", value) and self._previous_is_plain():
                    raise UnreadableError("a number after a number or a letter")
                factors.append(self._power())
            else:
                break
        return factors[0] if len(factors) == 1 else ("product", tuple(factors))

    def _signed_power(self) -> Tree:
        negative = False
        while self._value() in ("+", "-"):
            negative ^= self._take() == "-"
        tree = self._power()
        return ("product", (MINUS_ONE, tree)) if negative else tree

    def _power(self) -> Tree:
        base = self._postfix()
        if self._value() != "^":
            return base
        self._take()
        if self._value() == "circ" or self._tokens[self._next : self._next + 2][1:] == [
            ("command", "circ")
        ]:
            self._degree()
            return ("product", (base, DEGREE))
        self._enter()
        exponent = self._signed_power()
        self._depth -= 1
        return ("power", base, exponent)

    def _degree(self) -> None:
        braced = self._value() == "{"
        if braced:
            self._take()
        self._take()
        if braced:
            self._expect("}")

    def _postfix(self) -> Tree:
        tree = self._atom()
        factorials = 0
        while self._value() == "!":
            self._take()
            tree = ("call", "factorial", (tree,))
            factorials += 1
        if factorials > MAX_FACTORIALS:
            raise UnreadableError("too many factorials")
        return tree

    def _atom(self) -> Tree:
        self._enter()
        tree = self._unguarded_atom()
        self._depth -= 1
        return tree

    def _enter(self) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise UnreadableError("nested too deep")

    def _unguarded_atom(self) -> Tree:
        token = self.peek()
        if token is None:
            raise UnreadableError("ends too early")
        kind, value = token
        if kind == "number":
            self._take()
            return self._mixed(value)
        if kind == "letters":
            self._take()
            return self._letter(value)
        if kind == "command":
            self._take()
            return self._command(value)
        if value in PAIRS:
            self._take()
            tree = self.sum()
            self._expect(PAIRS[value])
            return tree
        if value == "|" and not self._bars:
            self._take()
            self._bars += 1
            tree = self.sum()
            self._bars -= 1
            self._expect("|")
            return ("call", "abs", (tree,))
        raise UnreadableError(value)

    def _mixed(self, digits: str) -> Tree:
        r"""Return a number; an integer before `\frac{1}{2}` is a mixed number."""
        number = ("number", fraction(digits))
        if self.peek() != ("command", "frac") or not digits.isdigit():
            return number
        mark = self._next
        self._take()
        rest = self._command("frac")
        top, (_, bottom, _) = rest[1]
        if top[0] == "number" == bottom[0] and self._value() != "^":
            return ("sum", (number, rest))
        self._next = mark
        return number

    def _letter(self, letter: str) -> Tree:
        if self._value() == "_":
            return ("variable", f"{letter}_{self._subscript()}")
        if letter in CONSTANTS:
            return ("constant", letter)
        return ("variable", letter)

    def _subscript(self) -> str:
        self._take()
        if self._value() != "{":
            return self._take()
        self._take()
        parts = []
        while self._value() not in ("}", None):
            parts.append(self._take())
        self._expect("}")
        return "".join(parts)

    def _command(self, name: str) -> Tree:
        if name == "frac":
            top = self._argument()
            return ("product", (top, ("power", self._argument(), MINUS_ONE)))
        if name == "binom":
            return ("call", "binom", (self._argument(), self._argument()))
        if name in ("sum", "prod"):
            return self._series(name)
        if name in ("lfloor", "lceil"):
            tree = self.sum()
            self._expect("r" + name[1:])
            return ("call", name[1:], (tree,))
        if name in FUNCTIONS:
            return self._call(name)
        if name in CONSTANTS:
            return ("constant", name)
        if name in ("int", "lim", "begin", "end", "ldots", "circ", "iint", "oint", "cup", "cap"):
            raise UnreadableError(name)
        suffix = f"_{self._subscript()}" if self._value() == "_" else ""
        return ("variable", name + suffix)

    def _argument(self) -> Tree:
        r"""Return an argument of `\frac`: a group, or one digit or letter."""
        token = self.peek()
        if token and token[0] == "number" and len(token[1]) > 1 and token[1].isdigit():
            self._tokens[self._next] = ("number", token[1][1:])
            return ("number", Fraction(int(token[1][0])))
        return self._atom()

    def _call(self, name: str) -> Tree:
        power = index = None
        if name == "sqrt" and self._value() == "[":
            self._take()
            index = self.sum()
            self._expect("]")
        if self._value() == "_":
            self._take()
            index = self._argument()
        if self._value() == "^":
            self._take()
            power = self._signed_power()
        argument = self._argument() if name in ("sqrt", "cbrt") else self._function_argument()
        parts = (argument,) if index is None else (argument, index)
        tree: Tree = ("call", name, parts)
        if power == MINUS_ONE or power == ("product", (MINUS_ONE, ONE)):
            return ("call", f"a{name}", parts)
        return tree if power is None else ("power", tree, power)

    def _function_argument(self) -> Tree:
        """Return the group, or the factors up to the next sign or function: sin 2x."""
        if self._value() in PAIRS:
            return self._power()
        factors = [self._power()]
        while self._starts_atom() and not self._starts_function() and self._value() != "(":
            factors.append(self._power())
        if self._value() == "/" and len(factors) == 1:
            self._take()
            factors.append(("power", self._power(), MINUS_ONE))
        return factors[0] if len(factors) == 1 else ("product", tuple(factors))

    def _series(self, name: str) -> Tree:
        self._expect("_")
        self._expect("{")
        variable = self._take()
        self._expect("=")
        first = self.sum()
        self._expect("}")
        self._expect("^")
        last = self._argument()
        return ("series", name, variable, first, last, self._product())

    def _starts_atom(self) -> bool:
        token = self.peek()
        if token is None:
            return False
        kind, value = token
        if kind == "command":
            return value not in ("rfloor", "rceil")
        return kind in ("number", "letters") or value in PAIRS or (value == "|" and not self._bars)

    def _starts_function(self) -> bool:
        token = self.peek()
        return token is not None and token[0] == "command" and token[1] in FUNCTIONS

    def _previous_is_plain(self) -> bool:
        return self._tokens[self._next - 1][0] in ("number", "letters")

    def _value(self) -> str | None:
        token = self.peek()
        return None if token is None else token[1]

    def _take(self) -> str:
        value = self._value()
        if value is None:
            raise UnreadableError("ends too early")
        self._next += 1
        return value

    def _expect(self, value: str) -> None:
        if self._take() != value:
            raise UnreadableError(f"no {value}")
