"""Do two regular expressions match the same texts? Decided by derivatives, not by trying texts.

The dialect is that of NL-RX and of brics: characters, [classes], `.`, groups, `|`, `&` (both),
`~` (everything else), `* + ? {n} {n,} {n,m}`, and `\\b`, `\\d`, `\\w`, `\\s`. An expression has to
match the whole text.

Method: Brzozowski (1964), "Derivatives of Regular Expressions"; `\\b` as a look at the neighbours
of the place, as in Moseley et al. (PLDI 2023), "Derivative Based Nonbacktracking Real-World Regex
Matching". Two expressions are walked in parallel over one character of each kind that they tell
apart; they are equal when no reachable pair of states differs in accepting.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from functools import lru_cache

MAX_STATES = 4000
MAX_REPEATS = 64
MAX_DEPTH = 60
WORD = frozenset(string.ascii_letters + string.digits + "_")
SHORTHANDS = {"d": frozenset(string.digits), "w": WORD, "s": frozenset(" \t\n\r\f\v")}
SPECIAL = "|&~*+?{}()[]."


class RegexError(ValueError):
    """Text that is no regular expression of this dialect."""


@dataclass(frozen=True)
class Node:
    """A part of an expression.

    kind: none, empty, chars, boundary, concat, or, and, not, star. chars: of kind chars;
    outside: every other character instead.
    """

    kind: str
    parts: tuple[Node, ...] = ()
    chars: frozenset[str] = frozenset()
    outside: bool = False

    def __hash__(self) -> int:
        return _hash_of(self)

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Node)
            and hash(self) == hash(other)
            and (self.kind, self.chars, self.outside, self.parts)
            == (other.kind, other.chars, other.outside, other.parts)
        )


def _hash_of(node: Node) -> int:
    known = node.__dict__.get("_hash")
    if known is None:
        known = hash((node.kind, node.chars, node.outside, tuple(map(hash, node.parts))))
        object.__setattr__(node, "_hash", known)
    return int(known)


NONE, EMPTY, BOUNDARY = Node("none"), Node("empty"), Node("boundary")
ANY = Node("chars", outside=True)
ALL = Node("star", (ANY,))


def is_equal_regex(a: str, b: str) -> bool:
    """Whether both match exactly the same texts. False where one cannot be read or grows too large.

    Equal texts are equal expressions, whatever they say.
    """
    a, b = a.strip(), b.strip()
    if a == b:
        return True
    try:
        return _same_language(parse_regex(a), parse_regex(b))
    except RegexError:
        return False


def parse_regex(text: str) -> Node:
    """The expression as a tree. Raises RegexError."""
    return _Parser(text).whole()


class _Parser:
    def __init__(self, text: str) -> None:
        self.text, self.at, self.depth = text, 0, 0

    def whole(self) -> Node:
        node = self.choice()
        if self.at < len(self.text):
            raise RegexError(f"unexpected {self.text[self.at]!r} at {self.at}")
        return node

    def peek(self) -> str:
        return self.text[self.at] if self.at < len(self.text) else ""

    def take(self) -> str:
        if self.at >= len(self.text):
            raise RegexError("ends too early")
        self.at += 1
        return self.text[self.at - 1]

    def choice(self) -> Node:
        parts = [self.both()]
        while self.peek() == "|":
            self.take()
            parts.append(self.both())
        return either(*parts)

    def both(self) -> Node:
        parts = [self.sequence()]
        while self.peek() == "&":
            self.take()
            parts.append(self.sequence())
        return both(*parts)

    def sequence(self) -> Node:
        parts = []
        while self.peek() and self.peek() not in "|&)":
            parts.append(self.repeated())
        node = EMPTY
        for part in reversed(parts):
            node = concat(part, node)
        return node

    def repeated(self) -> Node:
        if self.peek() == "~":
            self.take()
            return negate(self.repeated())
        node = self.single()
        while self.peek() and self.peek() in "*+?{":
            sign = self.take()
            if sign == "*":
                node = star(node)
            elif sign == "+":
                node = concat(node, star(node))
            elif sign == "?":
                node = either(EMPTY, node)
            else:
                node = self.counted(node)
        return node

    def counted(self, node: Node) -> Node:
        text = ""
        while self.peek() != "}":
            text += self.take()
        self.take()
        low, comma, high = text.partition(",")
        if not low.isdigit() or (high and not high.isdigit()):
            raise RegexError(f"{{{text}}} is no count")
        least, most = int(low), int(high) if high else None
        if max(least, most or 0) > MAX_REPEATS or (most is not None and most < least):
            raise RegexError(f"{{{text}}} is out of range")
        if not comma:
            most = least
        made = star(node) if most is None else EMPTY
        for _ in range((most or least) - least):
            made = either(EMPTY, concat(node, made))
        for _ in range(least):
            made = concat(node, made)
        return made

    def single(self) -> Node:
        char = self.take()
        if char == "(":
            self.depth += 1
            if self.depth > MAX_DEPTH:
                raise RegexError("nested too deeply")
            node = self.choice()
            if self.take() != ")":
                raise RegexError("a group that never closes")
            self.depth -= 1
            return node
        if char == "[":
            return self.char_class()
        if char == ".":
            return ANY
        if char == "\\":
            return self.escaped(self.take())
        if char in SPECIAL:
            raise RegexError(f"unexpected {char!r} at {self.at - 1}")
        return Node("chars", chars=frozenset(char))

    def escaped(self, char: str) -> Node:
        if char == "b":
            return BOUNDARY
        if char.lower() in SHORTHANDS:
            return Node("chars", chars=SHORTHANDS[char.lower()], outside=char.isupper())
        return Node("chars", chars=frozenset(char))

    def char_class(self) -> Node:
        outside = self.peek() == "^"
        if outside:
            self.take()
        chars: set[str] = set()
        while self.peek() != "]" or not chars:
            char = self.take()
            if char == "\\":
                kind = self.take()
                chars |= SHORTHANDS.get(kind, frozenset(kind))
            elif self.peek() == "-" and self.text[self.at + 1 : self.at + 2] not in ("]", ""):
                self.take()
                last = self.take()
                if ord(last) < ord(char) or ord(last) - ord(char) > 0x3000:
                    raise RegexError(f"{char}-{last} is no range")
                chars |= set(map(chr, range(ord(char), ord(last) + 1)))
            else:
                chars.add(char)
        self.take()
        return Node("chars", chars=frozenset(chars), outside=outside)


def concat(first: Node, then: Node) -> Node:
    """One after the other."""
    if NONE in (first, then):
        return NONE
    if first is EMPTY or first == EMPTY:
        return then
    if then == EMPTY:
        return first
    if first.kind == "concat":
        return concat(first.parts[0], concat(first.parts[1], then))
    return Node("concat", (first, then))


def either(*nodes: Node) -> Node:
    """Any of them, without repetition, in an order that does not depend on the writing."""
    flat = _flat("or", nodes) - {NONE}
    if negate(NONE) in flat or ALL in flat:
        return ALL
    return _joined("or", flat, NONE)


def both(*nodes: Node) -> Node:
    """All of them at once."""
    flat = _flat("and", nodes) - {negate(NONE), ALL}
    return NONE if NONE in flat else _joined("and", flat, ALL)


def negate(node: Node) -> Node:
    """Every text that the node does not match."""
    if node.kind == "not":
        return node.parts[0]
    return NONE if node == ALL else Node("not", (node,))


def star(node: Node) -> Node:
    """Any number of times."""
    if node in (NONE, EMPTY):
        return EMPTY
    return node if node.kind == "star" else Node("star", (node,))


def _flat(kind: str, nodes: tuple[Node, ...]) -> set[Node]:
    return {inner for node in nodes for inner in (node.parts if node.kind == kind else (node,))}


def _joined(kind: str, nodes: set[Node], nothing: Node) -> Node:
    if not nodes:
        return nothing
    if len(nodes) == 1:
        return next(iter(nodes))
    return Node(kind, tuple(sorted(nodes, key=hash)))


@lru_cache(maxsize=100_000)
def matches_empty(node: Node, at_boundary: bool) -> bool:
    """Whether the node matches no character at a place that is, or is not, a word's edge."""
    kind = node.kind
    if kind in ("none", "chars"):
        return False
    if kind == "boundary":
        return at_boundary
    if kind in ("empty", "star"):
        return True
    if kind == "not":
        return not matches_empty(node.parts[0], at_boundary)
    found = [matches_empty(part, at_boundary) for part in node.parts]
    return any(found) if kind == "or" else all(found)


@lru_cache(maxsize=200_000)
def derive(node: Node, char: str, at_boundary: bool) -> Node:
    """What must follow once `char` was read at a place that is, or is not, a word's edge."""
    kind = node.kind
    if kind in ("none", "empty", "boundary"):
        return NONE
    if kind == "chars":
        return EMPTY if (char in node.chars) != node.outside else NONE
    if kind == "concat":
        first, then = node.parts
        taken = concat(derive(first, char, at_boundary), then)
        if matches_empty(first, at_boundary):
            return either(taken, derive(then, char, at_boundary))
        return taken
    if kind == "star":
        return concat(derive(node.parts[0], char, at_boundary), node)
    parts = [derive(part, char, at_boundary) for part in node.parts]
    if kind == "not":
        return negate(parts[0])
    return either(*parts) if kind == "or" else both(*parts)


def _same_language(a: Node, b: Node) -> bool:
    alphabet = _alphabet(a, b)
    start = (a, b, False)
    seen, waiting = {start}, [start]
    while waiting:
        left, right, after_word = waiting.pop()
        if matches_empty(left, after_word) != matches_empty(right, after_word):
            return False
        for char in alphabet:
            in_word = char in WORD
            edge = after_word != in_word
            pair = (derive(left, char, edge), derive(right, char, edge), in_word)
            if pair[0] != pair[1] and pair not in seen:
                if len(seen) >= MAX_STATES:
                    raise RegexError("too many states")
                seen.add(pair)
                waiting.append(pair)
    return True


def _alphabet(*nodes: Node) -> list[str]:
    """One character of each kind that some class tells from the others, letters and not."""
    classes: set[frozenset[str]] = {WORD}
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        waiting += node.parts
        if node.chars:
            classes.add(node.chars)
    ordered = sorted(classes, key=sorted)
    named = sorted({char for chars in ordered for char in chars})
    other = next(c for c in map(chr, range(0x2460, 0xFFFF)) if c not in set(named))
    kinds = {tuple(c in chars for chars in ordered): c for c in [*named, other]}
    return list(kinds.values())
