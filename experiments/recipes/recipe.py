"""What a recipe is: a paper's findings as data, and a function that measures them here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from experiments.figures import Figure

if TYPE_CHECKING:
    from experiments.recipes.bench import Bench


class Mean(NamedTuple):
    """A mean over draws with its sample standard deviation."""

    value: float
    sd: float


Cell: TypeAlias = str | float | Mean | None
"""A table's cell; None where nothing was measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Numbers side by side."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    digits: int = 1
    """Decimals that are shown; the JSON has all of them."""

    def shown(self) -> list[tuple[str, ...]]:
        """The rows as text."""
        return [tuple(shown(cell, self.digits) for cell in row) for row in self.rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One finding, as its source states it of its own encoders."""

    key: str
    found: str
    """What was found; with numbers only where the source gives them."""


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

    tables: tuple[Table, ...]
    figures: tuple[Figure, ...]
    metrics: Mapping[str, float]
    """The numbers to compare from one run to the next, in percent unless the key says otherwise."""
    verdicts: Mapping[str, Verdict]
    """For each claim, by its key."""
    protocol: Mapping[str, Any]
    model: Mapping[str, Any]
    """Provenance of every encoder that was used, by name."""
    notes: tuple[str, ...] = ()
    """What a reader of the numbers should know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One experiment that one command runs."""

    name: str
    title: str
    lead: str
    """A paragraph: the question, and how it is answered here."""
    claims: tuple[Claim, ...]
    run: Callable[[Bench], Findings]
    sets: tuple[str, ...]
    """Folders of `data/` that it needs; checked before any model is loaded."""
    weights: tuple[str, ...] = field(default=())
    """Folders of `weights/` that it needs."""


def shown(cell: Cell, digits: int) -> str:
    """A cell as tables show it."""
    if cell is None:
        return "–"
    if isinstance(cell, str):
        return cell
    if isinstance(cell, Mean):
        return f"{_number(cell.value, digits)} ± {cell.sd:.{digits}f}"
    return f"{cell:,}" if isinstance(cell, int) else _number(cell, digits)


def signed(value: float, digits: int = 1) -> str:
    """A difference with its sign, as sentences show it."""
    return f"{value:+.{digits}f}".replace("-", "−")


def judge(value: float, rule: str, measured: str, *, least: float = 0.0, error: float = 0.0) -> Verdict:
    """A verdict on `value > least`: undecided where `least` lies within two standard errors of the value.

    Args:
        value: what was measured.
        rule: in words, what had to be the case.
        measured: the numbers in a sentence.
        least: what the value must be above.
        error: the value's standard error, 0 where it has none.
    """
    if error > 0 and abs(value - least) < 2 * error:
        outcome = Outcome.open
        rule = f"{rule}, by more than two standard errors"
    else:
        outcome = Outcome.holds if value > least else Outcome.fails
    return Verdict(outcome=outcome, measured=measured, rule=rule)


def mean_of(values: Sequence[float]) -> float | Mean:
    """Mean and standard deviation of draws; the value itself where there is one."""
    import statistics

    if len(values) == 1:
        return values[0]
    return Mean(statistics.fmean(values), statistics.stdev(values))


def standard_error(values: Sequence[float]) -> float:
    """Of the mean of independent values; 0 for one value."""
    import statistics

    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0


def parts(recipe: Recipe, findings: Findings, seed: int) -> dict[str, Any]:
    """What a recipe puts into a result JSON."""
    return {
        "recipe": recipe.name,
        "title": recipe.title,
        "model": dict(findings.model),
        "protocol": dict(findings.protocol),
        "metrics": dict(findings.metrics),
        "seed": seed,
        "claims": [
            {
                "key": claim.key,
                "found": claim.found,
                "outcome": findings.verdicts[claim.key].outcome.value,
                "measured": findings.verdicts[claim.key].measured,
                "rule": findings.verdicts[claim.key].rule,
            }
            for claim in recipe.claims
        ],
        "tables": [
            {
                "title": table.title,
                "columns": list(table.columns),
                "rows": [[_plain(cell) for cell in row] for row in table.rows],
            }
            for table in findings.tables
        ],
        "figures": [asdict(figure) for figure in findings.figures],
        "notes": list(findings.notes),
    }


def _plain(cell: Cell) -> object:
    return {"mean": cell.value, "sd": cell.sd} if isinstance(cell, Mean) else cell


def _number(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}".replace("-", "−")
