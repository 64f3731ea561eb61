"""What an experiment measured, as one tidy list, and the tables and charts that are read off it."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from experiments.figures import Dots, Lines, Series


class Mean(NamedTuple):
    """A mean over draws with its sample standard deviation."""

    value: float
    sd: float


Cell: TypeAlias = str | float | Mean | None
"""A table's cell; None where nothing was measured."""

AXES = ("arm", "set", "metric")


@dataclass(frozen=True, slots=True)
class Record:
    """One figure."""

    arm: str
    """What was tried."""
    set: str
    """On what: a data set, or how many pairs or images."""
    metric: str
    value: float
    deviation: float | None


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


class Records:
    """Figures by arm, set and metric; several of one are draws, of which the mean and deviation count."""

    def __init__(self, draws: Mapping[tuple[str, str, str], list[float] | Mean] | None = None) -> None:
        self._draws: dict[tuple[str, str, str], list[float] | Mean] = dict(draws or {})

    def add(self, arm: object, set: object = "", **metrics: float | Mean) -> None:
        """Note one draw of some metrics, or a figure that brings its deviation."""
        for metric, value in metrics.items():
            key = (str(arm), str(set), metric)
            if isinstance(value, Mean):
                self._draws[key] = value
            else:
                draws = self._draws.setdefault(key, [])
                assert isinstance(draws, list)
                draws.append(value)

    def select(self, **chosen: str | Sequence[str]) -> Records:
        """Those with the given arms, sets or metrics, in that order."""
        kept = [[c] if isinstance(c := chosen.get(a, self.axis(a)), str) else list(c) for a in AXES]
        return Records({key: self._draws[key] for key in itertools.product(*kept) if key in self._draws})

    def axis(self, name: str) -> list[str]:
        """The different arms, sets or metrics: numbers ascending, words in the order they came."""
        words = list(dict.fromkeys(key[AXES.index(name)] for key in self._draws))
        return sorted(words, key=int) if all(word.isdigit() for word in words) else words

    def draws(self, arm: object, set: object = "", metric: str = "") -> list[float]:
        """The draws of one figure."""
        draws = self._draws[str(arm), str(set), metric]
        return [draws.value] if isinstance(draws, Mean) else draws

    def value(self, arm: object, set: object = "", metric: str = "") -> float:
        """The mean of one figure's draws."""
        return statistics.fmean(self.draws(arm, set, metric))

    def gains(self, arm: str, over: str, set: object = "", metric: str = "") -> list[float]:
        """By how much one arm is above another, draw by draw."""
        pairs = zip(self.draws(arm, set, metric), self.draws(over, set, metric), strict=True)
        return [one - other for one, other in pairs]

    def means_over(self, sets: Sequence[str], metric: str = "") -> Records:
        """A set's name moves to the metric: the mean over these sets, draw by draw, of arms that have all."""
        means = Records()
        for arm in self.axis("arm"):
            if all((arm, name, metric) in self._draws for name in sets):
                for values in zip(*(self.draws(arm, name, metric) for name in sets), strict=True):
                    means.add(arm, "mean", **{metric: statistics.fmean(values)})
        return means

    def __or__(self, other: Records) -> Records:
        """Both's figures."""
        return Records(self._draws | other._draws)

    def __iter__(self) -> Iterator[Record]:
        for key in self._draws:
            cell = self._cell(key)
            assert cell is not None
            yield Record(*key, *(cell if isinstance(cell, Mean) else (cell, None)))

    def metrics(self) -> dict[str, float]:
        """The values, each under what its three names say."""
        return {", ".join(filter(None, (r.arm, r.set, r.metric))): r.value for r in self}

    def table(
        self,
        title: str,
        head: Mapping[str, str],
        columns: str = "metric",
        *,
        digits: int = 1,
        more: Mapping[str, Mapping[str, Cell]] | None = None,
    ) -> Table:
        """A table of one column an entry of an axis.

        Args:
            title: of the table.
            head: the other axes that name a row, and how each is called.
            columns: the axis that columns are of.
            digits: decimals that are shown.
            more: further columns by heading: a cell for each arm.
        """
        heads = self.axis(columns)
        rows = []
        for names in itertools.product(*(self.axis(axis) for axis in head)):
            place = dict(zip(head, names, strict=True))
            cells = [self._at(**place, **{columns: name}) for name in heads]
            if any(cell is not None for cell in cells):
                extra = [column[place["arm"]] for column in more.values()] if more else []
                rows.append((*names, *cells, *extra))
        return Table(
            title=title, columns=(*head.values(), *heads, *(more or ())), rows=tuple(rows), digits=digits
        )

    def dots(self, x_label: str, rows: str = "set", series: str = "arm", **look: Any) -> Dots:
        """Dots: the rows of one axis, and a series for each entry of another."""
        names = self.axis(rows)
        drawn = []
        for name in self.axis(series):
            cells = [(place, self._at(**{rows: row, series: name})) for place, row in enumerate(names)]
            places = [place for place, cell in cells if cell is not None]
            drawn.append(_series(name, [cell for _, cell in cells if cell is not None], places, across=True))
        return Dots(rows=names, x_label=x_label, series=drawn, **look)

    def lines(self, x_label: str, y_label: str, x: str = "set", series: str = "arm", **look: Any) -> Lines:
        """Lines over the numbers of one axis, one for each entry of another."""
        drawn = []
        for name in self.axis(series):
            cells = [(float(n), self._at(**{x: n, series: name})) for n in self.axis(x)]
            places = [n for n, cell in cells if cell is not None]
            drawn.append(_series(name, [cell for _, cell in cells if cell is not None], places))
        return Lines(x_label=x_label, y_label=y_label, series=drawn, **look)

    def _at(self, **place: str) -> float | Mean | None:
        """The cell of two or three axes; of an axis that is not named there must be one entry."""
        key = tuple(place[axis] if axis in place else self._only(axis) for axis in AXES)
        return self._cell(key)  # type: ignore[arg-type]

    def _only(self, axis: str) -> str:
        (name,) = self.axis(axis)
        return name

    def _cell(self, key: tuple[str, str, str]) -> float | Mean | None:
        draws = self._draws.get(key)
        return mean_of(draws) if isinstance(draws, list) else draws


def _series(
    name: str, cells: Sequence[float | Mean], places: Sequence[float], *, across: bool = False
) -> Series:
    means = [cell.value if isinstance(cell, Mean) else cell for cell in cells]
    spread = [cell.sd if isinstance(cell, Mean) else 0.0 for cell in cells]
    x, y = (means, places) if across else (places, means)
    return Series(name, x, y, spread if any(spread) else ())


def mean_of(values: Sequence[float]) -> float | Mean:
    """Mean and standard deviation of draws; the value itself where there is one."""
    if len(values) == 1:
        return values[0]
    return Mean(statistics.fmean(values), statistics.stdev(values))


def standard_error(values: Sequence[float]) -> float:
    """Of the mean of independent values; 0 for one value."""
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0


def shown(cell: Cell, digits: int) -> str:
    """A cell as tables show it."""
    if cell is None:
        return "–"
    if isinstance(cell, str):
        return cell
    if isinstance(cell, Mean):
        return f"{shown(float(cell.value), digits)} ± {cell.sd:.{digits}f}"
    return f"{cell:,}" if isinstance(cell, int) else f"{cell:,.{digits}f}".replace("-", "−")


def signed(value: float, digits: int = 1) -> str:
    """A difference with its sign, as sentences show it."""
    return f"{value:+.{digits}f}".replace("-", "−")
