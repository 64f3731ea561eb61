"""What a recipe is: a paper's findings as data, and a function that measures them here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

from experiments.bench import Bench
from experiments.figures import Figure
from experiments.records import Cell, Mean, Records, Table


class Outcome(str, Enum):
    """Whether a finding shows in what was measured here."""

    holds = "holds here"
    fails = "does not hold here"
    open = "undecided here"
    absent = "not measured here"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What was measured here beside a claim."""

    outcome: Outcome
    measured: str
    """The numbers, in a sentence."""
    rule: str
    """What had to be the case for the finding to hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What a recipe found."""

    records: Records
    """The numbers to compare from one run to the next, in percent unless the metric says otherwise."""
    tables: Sequence[Table]
    figures: Sequence[Figure]
    verdicts: Mapping[str, Verdict]
    """For each claim, by its key."""
    protocol: Mapping[str, Any]
    heads: Sequence[str] = ()
    """The classifiers that were used; the embedded one when not given."""
    notes: Sequence[str] = ()
    """What a reader of the numbers should know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One experiment that one command runs."""

    name: str
    title: str
    lead: str
    """A paragraph: the question, and how it is answered here."""
    claims: Mapping[str, str]
    """By a key, what was found, as its source states it of its own encoders; numbers are the source's."""
    run: Callable[[Bench], Findings]
    sets: Sequence[str]
    """Folders of `data/` that it needs; checked before any model is loaded."""
    weights: Sequence[str] = field(default=())
    """Folders of `weights/` that it needs."""


def judge(value: float, rule: str, measured: str, *, least: float = 0.0, error: float = 0.0) -> Verdict:
    """A verdict on `value > least`: undecided where `least` lies within two standard errors of the value.

    Args:
        value: what was measured.
        rule: in words, what had to be the case.
        measured: the numbers in a sentence.
        least: what the value must be above.
        error: the value's standard error, 0 where it has none.
    """
    outcome = Outcome.holds if value > least else Outcome.fails
    if error > 0 and abs(value - least) < 2 * error:
        outcome, rule = Outcome.open, f"{rule}, by more than two standard errors"
    return Verdict(outcome=outcome, measured=measured, rule=rule)


def parts(recipe: Recipe, findings: Findings, bench: Bench) -> dict[str, Any]:
    """What a recipe puts into a result JSON."""

    def plain(cell: Cell) -> object:
        return {"mean": cell.value, "sd": cell.sd} if isinstance(cell, Mean) else cell

    verdicts = {key: findings.verdicts[key] for key in recipe.claims}
    return {
        "recipe": recipe.name,
        "title": recipe.title,
        "model": bench.provenance(*findings.heads),
        "protocol": dict(findings.protocol),
        "metrics": findings.records.metrics(),
        "seed": bench.seed,
        "claims": [
            {"key": key, "found": recipe.claims[key], **asdict(one), "outcome": one.outcome.value}
            for key, one in verdicts.items()
        ],
        "records": [asdict(record) for record in findings.records],
        "tables": [
            {
                "title": table.title,
                "columns": list(table.columns),
                "rows": [[plain(cell) for cell in row] for row in table.rows],
            }
            for table in findings.tables
        ],
        "figures": [asdict(figure) for figure in findings.figures],
        "notes": list(findings.notes),
    }
