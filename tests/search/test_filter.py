"""The language of filters: its answers are SQL's, and nothing that a stranger writes is dear to refuse."""

from __future__ import annotations

import sqlite3

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headword.errors import HeadwordError
from headword.search.catalogue import BY_MODEL, STATE, Catalogue, Entry, write_catalogue
from headword.search.filter import parse
from support.filter_attacks import ATTACKS

TEXTS = ["", "a", "ab", "A", "a%", "a_b", "it's", "x\\y", "ü猫", "two\nlines", "2019", "b/a", "b/c/a", "!_"]
NUMBERS = [0, 1, 2, -3, 1.5, 0.25, 2.0, 10**15]
DATES = ["1970-01-01", "1970-01-01 00:00:01", "2024-05-01", "2024-05-01T12:30:00", "0001-01-01", "9999-12-31"]

rows = st.lists(
    st.tuples(
        st.sampled_from(TEXTS),
        st.sampled_from([0, 1, 2, 10**15]),
        st.sampled_from([0, 10**9, 1_714_521_600 * 10**9, 1_714_566_600 * 10**9, -1]),
        st.just((None, None))
        | st.tuples(st.sampled_from(TEXTS), st.sampled_from([0.0, 0.25, 1.0, 1.5])),  # a tag, and its score
    ).map(lambda row: (*row[:3], *row[3])),
    min_size=1,
    max_size=12,
)


def nanoseconds(date: str) -> int:
    whole = int((np.datetime64(date) - np.datetime64("1970-01-01")) / np.timedelta64(1, "s")) * 10**9
    return min(max(whole, -(2**63)), 2**63 - 1)


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


@st.composite
def comparisons(draw):
    """One, as we write it and as SQLite does: times are numbers there."""
    column = draw(st.sampled_from(["path", "folder", "bytes", "modified", "tag", "tag_score"]))
    negated = draw(st.sampled_from(["", "NOT "]))

    def value():
        if column == "modified":
            date = draw(st.sampled_from(DATES))
            return draw(st.sampled_from(["", "timestamp ", "DATE "])) + f"'{date}'", str(nanoseconds(date))
        text = repr(draw(st.sampled_from(NUMBERS)))
        if column not in ("bytes", "tag_score"):
            text = quoted(draw(st.sampled_from(TEXTS)))
        return text, text

    kind = draw(st.sampled_from(["compare", "in", "between", "null", "like"]))
    if kind == "compare" or (kind == "like" and column in ("bytes", "modified", "tag_score")):
        operator = draw(st.sampled_from(["=", "<>", "!=", "<", "<=", ">", ">="]))
        both = value()
        return tuple(f"{column} {operator} {one}" for one in both)
    if kind == "in":
        values = [value() for _ in range(draw(st.integers(1, 3)))]
        return tuple(f"{column} {negated}IN ({', '.join(v[n] for v in values)})" for n in (0, 1))
    if kind == "between":
        low, high = value(), value()
        return tuple(f"{column} {negated}BETWEEN {low[n]} AND {high[n]}" for n in (0, 1))
    if kind == "null":
        return (f"{column} IS {negated}NULL",) * 2
    pieces = draw(
        st.lists(st.sampled_from(["a", "b", "A", "/", "\\", "猫", "'", ".", "[", "!%", "!_", "!!"]))
    )
    wild = draw(st.sampled_from(["", "%", "_", "%%", "__"]))
    pattern = quoted(wild + "".join(pieces) + draw(st.sampled_from(["", "%", "_", "%_"])))
    return (f"{column} {negated}LIKE {pattern} ESCAPE '!'",) * 2


def joined(parts):
    pair = st.tuples(parts, st.sampled_from(["and", "OR"]), parts)
    return st.one_of(
        pair.map(lambda p: tuple(f"({p[0][n]}) {p[1]} {p[2][n]}" for n in (0, 1))),
        pair.map(lambda p: tuple(f"{p[0][n]} {p[1]} {p[2][n]}" for n in (0, 1))),
        parts.map(lambda p: tuple(f"not ({part})" for part in p)),
    )


conditions = st.recursive(comparisons(), joined, max_leaves=6)


def catalogue(folder, table) -> Catalogue:
    """Images of these names, sizes, times and tags."""
    entries = [
        Entry(path=path, raw=None, bytes=size, modified=modified, content=None, slot=n, status="ok", sum=0)
        for n, (path, size, modified, *_) in enumerate(table)
    ]
    state = {name: np.zeros(len(table), kind) for name, kind in STATE.items()}
    tags = [[] if tag is None else [(tag, score, BY_MODEL)] for *_, tag, score in table]
    write_catalogue(folder / "images.sqlite", entries, state, tags)
    return Catalogue(folder / "images.sqlite", len(table))


@settings(max_examples=300, deadline=None)
@given(table=rows, condition=conditions)
def test_answers_are_those_of_sqlite(tmp_path_factory, table, condition):
    """Null tags included: neither tag = 'a' nor tag <> 'a' is true of an image without one."""
    ours, theirs = condition
    database = sqlite3.connect(":memory:")
    database.execute("PRAGMA case_sensitive_like = ON")
    database.execute("CREATE TABLE t (place, path, folder, bytes, modified, tag, tag_score)")
    for place, (path, *rest) in enumerate(table):
        row = (place, path, path.rpartition("/")[0], *rest)
        database.execute("INSERT INTO t VALUES (?, ?, ?, ?, ?, ?, ?)", row)
    right = [place for (place,) in database.execute(f"SELECT place FROM t WHERE {theirs} ORDER BY place")]
    database.close()
    assert catalogue(tmp_path_factory.getbasetemp(), table).places(parse(ours)).tolist() == right


def test_a_float_column_is_compared_in_full_precision(tmp_path):
    images = catalogue(tmp_path, [("a", 1, 1, "x", float(np.float32(0.1)))])
    assert images.places(parse("tag_score > 0.1")).tolist() == [0]  # as float32 has it
    assert images.places(parse("tag_score < 0.10000001")).tolist() == [0]


@pytest.mark.parametrize(
    ("where", "match"),
    [
        ("folder = 2019", r"folder is text: write folder = '2019'"),
        ("bytes > '5'", "bytes is a number: write bytes = 1000"),
        ("modified > 5", "modified is a time: write modified = '2019-12-31'"),
        ("modified > 'yesterday'", "a time reads like"),
        ("tag_scor > 0.5", "no column 'tag_scor'; did you mean 'tag_score'"),
        ('tag = "dog"', "text stands in single quotes"),
        ("tag = 'dog", "does not end"),
        ("tag = null", "write tag is null"),
        ("tag", r"= or <> or .* was expected"),
        ("tag = 'a' and", "a column was expected"),
        ("(tag = 'a'", r"\) was expected"),
        ("tag = 'a') or (path = 'b'", "and, or, or its end"),
        ("bytes like '1%'", "bytes is a number, which is not like a pattern"),
        ("tag like 'a%' escape 'ab'", "escape takes one character"),
        ("tag like '%a_____'", "4 _ after a %"),
        ("tag like 'ab' escape 'a'", "the escape character stands before"),
        ("tag like 'a!' escape '!'", "the escape character stands before"),
        ("", "the filter is empty"),
    ],
)
def test_mistakes_say_how_to_mend_them(where, match):
    with pytest.raises(HeadwordError, match=match) as caught:
        parse(where)
    assert "\n" not in str(caught.value)


@pytest.mark.attack
@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_are_refused_in_one_line(name):
    with pytest.raises(HeadwordError) as caught:
        parse(ATTACKS[name])
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
