"""What a filter may say: a small language, read like SQL, that compares columns with values and nothing else.

    condition = term { OR term } ;    term = factor { AND factor }
    factor    = NOT factor | "(" condition ")" | column test
    test      = ("=" | "<>" | "!=" | "<" | "<=" | ">" | ">=") value
              | [NOT] IN "(" value { "," value } ")" | [NOT] BETWEEN value AND value
              | [NOT] LIKE text [ESCAPE text] | IS [NOT] NULL
    value     = 'text' (a quote is '') | number | [TIMESTAMP | DATE] 'YYYY-MM-DD[ HH:MM[:SS[.ffffff]]]'

What is understood is written anew for SQLite, from words of this module and names of columns alone; values
are parameters. Filters come from strangers too, so length, depth and number of terms are bounded before
anything is computed.
"""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from typing import Literal, NamedTuple, NoReturn, TypeAlias

from headword.errors import HeadwordError, near

MAX_CHARACTERS = 2000
MAX_DEPTH = 32
"""Parentheses and NOTs in each other."""
MAX_TERMS = 200
"""Comparisons, each value of an IN for itself."""
MAX_LIKES = 8
MAX_WILDCARDS = 16
MAX_LATER = 4
"""Of one LIKE pattern: wildcards, and those "_" that come after a "%". Each of these can double the states
that a matcher is in; with twice as many a million paths can take minutes instead of a second."""

Kind = Literal["text", "number", "time"]
Value: TypeAlias = str | int | float

COLUMNS: dict[str, Kind] = {
    "path": "text",
    "folder": "text",
    "bytes": "number",
    "modified": "time",
    "tag": "text",
    "tag_score": "number",
    "any_tag": "text",
}
"""What a filter may name. A time is its nanoseconds since 1970, UTC. `tag` is an image's first, and a test of
`any_tag` is true if one of its tags meets it."""

ANY_TAG = "EXISTS (SELECT 1 FROM tags WHERE tags.place = images.place AND hand >= 0 AND {})"

_KINDS = {"text": ("text", "'a name'"), "number": ("a number", "1000"), "time": ("a time", "'2019-12-31'")}
_LEAST, _MOST = -(2**63), 2**63 - 1


@dataclass(frozen=True, slots=True)
class Condition:
    """A checked condition, as SQLite takes it; on an image it is true, false or null, as in SQL."""

    sql: str
    """An expression of columns, operators and question marks."""
    values: tuple[Value, ...] = ()
    """What stands for the question marks."""

    def __and__(self, other: Condition) -> Condition:
        return Condition(f"({self.sql}) AND ({other.sql})", self.values + other.values)


def parse(text: str) -> Condition:
    """A condition from its text.

    Raises:
        HeadwordError: in one line, if the text is empty, too long or too deep, names an unknown column,
            compares a column with a value of another kind, or is not of the language.
    """
    if len(text) > MAX_CHARACTERS:
        raise HeadwordError(f"the filter has {len(text):,} characters; {MAX_CHARACTERS:,} are read at most")
    if not text.strip():
        raise HeadwordError("the filter is empty; write it like: tag = 'dog' and tag_score > 0.5")
    return _Parser(text).condition()


class _Token(NamedTuple):
    kind: str  # "word", "text", "number", "sign", "end", "odd"
    text: str
    at: int


_TOKEN = re.compile(
    r"\s*(?:(?P<word>[a-z_]\w*)|(?P<text>'(?:[^']|'')*')"
    r"|(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?(?![\w.]))|(?P<sign><>|!=|<=|>=|[=<>(),])"
    r"|(?P<end>\Z)|(?P<odd>.))",
    re.ASCII | re.DOTALL | re.IGNORECASE,
)
_TESTS = ("=", "<>", "!=", "<", "<=", ">", ">=", "is", "in", "like", "between")  # NOT before the last three
_GLOB = {"%": "*", "_": "?", "*": "[*]", "?": "[?]", "[": "[[]"}
"""Characters of a LIKE pattern that another stands for in GLOB."""
_RESERVED = ("and", "or", "not", "in", "like", "between", "is", "null")


class _Parser:
    """Reads a text once; which of AND, OR and NOT binds closest is SQLite's affair, and the same."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.values: list[Value] = []
        self.terms = self.likes = 0
        self.token = self._token(0)

    def condition(self) -> Condition:
        sql: list[str] = []
        opened: list[str] = []  # NOTs and parentheses that are not complete
        while True:
            while self._is("not", "("):
                opened.append(self._take().upper())
                sql.append(opened[-1])
                if len(opened) > MAX_DEPTH:
                    self._fail(f"it is more than {MAX_DEPTH} deep")
            sql.append(f"({self._comparison()})")
            _drop_nots(opened)
            while opened and self._took(")"):
                sql.append(")")
                opened.pop()
                _drop_nots(opened)
            if self._is("and", "or"):
                sql.append(self._take().upper())
            elif opened:
                self._fail(") was expected")
            elif self.token.kind == "end":
                return Condition(" ".join(sql), tuple(self.values))
            else:
                self._fail("and, or, or its end was expected")

    # ---- tokens

    def _token(self, at: int) -> _Token:
        match = _TOKEN.match(self.text, at)
        assert match is not None  # "odd" takes any character
        kind = str(match.lastgroup)
        return _Token(kind, match[kind], match.start(kind))

    def _is(self, *words: str) -> bool:
        return self.token.kind in ("word", "sign") and self.token.text.lower() in words

    def _take(self) -> str:
        token = self.token
        self.token = self._token(token.at + len(token.text))
        return token.text

    def _took(self, *words: str) -> bool:
        return self._is(*words) and bool(self._take())

    def _expect(self, *words: str) -> str:
        if not self._is(*words):
            self._fail(f"{' or '.join(words)} was expected")
        return self._take().lower()

    def _fail(self, why: str) -> NoReturn:
        token = self.token
        if token.kind == "odd" and token.text == "'":
            why = "the text that begins here does not end"
        elif token.kind == "odd" and token.text in '"`‘’“”':
            why = "text stands in single quotes, a column in none"
        place = "its end" if token.kind == "end" else repr(self.text[token.at : token.at + 20])
        raise HeadwordError(
            f"the filter is not understood at {place} (character {token.at + 1}): {why}; columns are "
            f"{', '.join(COLUMNS)}, and a condition reads like: tag = 'dog' and bytes > 1000"
        )

    # ---- a column and what it is compared with

    def _comparison(self) -> str:
        self._count()
        column = self._column()
        if column != "any_tag":
            return self._test(column, column)
        test = self._test(column, "tags.tag")
        return f"NOT {ANY_TAG.format('TRUE')}" if test.endswith(" IS NULL") else ANY_TAG.format(test)

    def _test(self, column: str, name: str) -> str:
        """What a column is compared with, which SQL knows by a name."""
        negated = "NOT " if self._took("not") else ""
        test = self._expect(*(_TESTS[-3:] if negated else _TESTS))
        if test == "is":
            negated = "NOT " if self._took("not") else ""
            self._expect("null")
            return f"{name} IS {negated}NULL"
        if test == "in":
            self._expect("(")
            marks = [self._value(column)]
            while self._took(","):
                self._count()
                marks.append(self._value(column))
            self._expect(")")
            return f"{name} {negated}IN ({', '.join(marks)})"
        if test == "between":
            low = self._value(column)
            self._expect("and")
            return f"{name} {negated}BETWEEN {low} AND {self._value(column)}"
        if test == "like":
            return f"{name} {negated}GLOB {self._pattern(column)}"
        return f"{name} {test} {self._value(column)}"

    def _count(self) -> None:
        self.terms += 1
        if self.terms > MAX_TERMS:
            self._fail(f"it has more than {MAX_TERMS} comparisons")

    def _column(self) -> str:
        name = self.token.text.lower()
        if self.token.kind != "word" or name in _RESERVED:
            self._fail("a column was expected")
        if name not in COLUMNS:
            self._fail(f"there is no column {name[:40]!r}{near(name[:40], COLUMNS)}")
        self._take()
        return name

    def _pattern(self, column: str) -> str:
        """A LIKE's, as a GLOB, since SQLite's LIKE takes capitals for small letters."""
        self.likes += 1
        if COLUMNS[column] != "text":
            self._fail(f"{column} is {_KINDS[COLUMNS[column]][0]}, which is not like a pattern")
        if self.likes > MAX_LIKES:
            self._fail(f"it has more than {MAX_LIKES} LIKEs")
        pattern, escape = str(self._literal(column)), ""
        if self._took("escape"):
            escape = str(self._literal(column))
            if len(escape) != 1:
                self._fail("escape takes one character")
        if sum(map(pattern.count, "%_")) > MAX_WILDCARDS or pattern.partition("%")[2].count("_") > MAX_LATER:
            self._fail(
                f"the pattern before it has more than {MAX_WILDCARDS} wildcards, or {MAX_LATER} _ after a %"
            )
        mark = re.escape(escape)
        if escape and not re.fullmatch(f"(?:[^{mark}]|{mark}[%_{mark}])*", pattern, re.DOTALL):
            self._fail("the escape character stands before %, _ or itself")
        characters = re.findall(f"{mark}.|." if escape else ".", pattern, re.DOTALL)
        glob = "".join(c[1] if c[1:] in ("%", "_") else _GLOB.get(c[-1], c[-1]) for c in characters)
        self.values.append(glob)
        return "?"

    # ---- values

    def _value(self, column: str) -> str:
        """Take one; what stands for it in SQL."""
        self.values.append(self._literal(column))
        return "?"

    def _literal(self, column: str) -> Value:
        kind = COLUMNS[column]
        if self._is("null"):
            self._fail(f"nothing equals null: write {column} is null")
        if kind == "time":
            self._took("timestamp", "date")
        if self.token.kind != ("number" if kind == "number" else "text"):
            what, example = _KINDS[kind]
            if kind == "text" and self.token.kind in ("number", "word"):
                example = f"'{self.token.text[:40]}'"
            self._fail(f"{column} is {what}: write {column} = {example}")
        text = self.token.text
        value: Value
        if kind == "number":
            value = self._number(text)
        else:
            value = text[1:-1].replace("''", "'")
            if any(character == "\0" or "\ud800" <= character <= "\udfff" for character in value):
                self._fail("it has a character that no path or tag has")
            if kind == "time":
                value = self._time(value)
        self._take()
        return value

    def _number(self, text: str) -> int | float:
        value = int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if abs(value) == float("inf") or not _LEAST <= value <= _MOST:
            self._fail("this number is too large")
        return value

    def _time(self, text: str) -> int:
        utc = datetime.timezone.utc
        try:
            moment = datetime.datetime.fromisoformat(text)
            since = moment.replace(tzinfo=moment.tzinfo or utc) - datetime.datetime(1970, 1, 1, tzinfo=utc)
        except (ValueError, OverflowError):
            self._fail("a time reads like '2024-05-01' or '2024-05-01 18:30:00' (UTC)")
        nanoseconds = since // datetime.timedelta(microseconds=1) * 1000
        return min(max(nanoseconds, _LEAST), _MOST)  # no file is older or newer


def _drop_nots(opened: list[str]) -> None:
    while opened and opened[-1] == "NOT":
        opened.pop()
