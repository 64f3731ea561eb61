"""Charts as data, and their drawing: colours that every eye tells apart, and a marker and line for each too.

Colours are Okabe and Ito's ("Color Universal Design", 2008). Nothing here keeps state: matplotlib's global
settings are neither read nor changed.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from headword.errors import MissingExtraError

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C8C")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (8, 3)))

FORMATS = ("png", "svg", "pdf")


@dataclass(frozen=True, slots=True)
class Series:
    """Values under one name."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    spread: Sequence[float] = ()
    """Standard deviations of y, drawn as bars."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """y over x, a line a series."""

    title: str = ""
    x_label: str
    y_label: str
    series: Sequence[Series]
    levels: Sequence[tuple[str, float]] = ()
    """Named heights, drawn across: chance, a reference."""
    ticks: Sequence[tuple[float, str]] = ()
    """Where x is marked and how; the series' own x when not given."""
    log_x: bool = False
    kind: str = field(default="lines", init=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dots:
    """A value a row and series (Cleveland's dot plot); rows are read downwards."""

    title: str = ""
    rows: Sequence[str]
    x_label: str
    series: Sequence[Series]
    """`x` are the values, `y` the places in `rows`, `spread` the deviations of the values."""
    levels: Sequence[tuple[str, float]] = ()
    joined: bool = False
    """Whether a line joins a row's dots."""
    kind: str = field(default="dots", init=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Points:
    """Clouds of points in two dimensions without a meaning of their own."""

    title: str = ""
    series: Sequence[Series]
    kind: str = field(default="points", init=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """A histogram of values, and some single values beside it."""

    title: str = ""
    x_label: str
    edges: Sequence[float]
    counts: Sequence[float]
    marks: Sequence[tuple[str, float]] = ()
    kind: str = field(default="counts", init=False)


Chart: TypeAlias = Lines | Dots | Points | Counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One or several charts beside each other."""

    name: str
    """Its file's name."""
    caption: str
    charts: Sequence[Chart]


def values(name: str, rows: Sequence[float], *, places: Sequence[int] | None = None) -> Series:
    """A series of `Dots`: one value a row, in the rows' order or at the given places."""
    return Series(name, list(rows), list(range(len(rows)) if places is None else places))


def draw(figure: Figure, format: str = "svg", *, dpi: int = 150) -> bytes:
    """The figure as a file's content.

    Args:
        figure: what to draw.
        format: "png", "svg" or "pdf".
        dpi: pixels an inch, of PNG and of clouds of points.

    Raises:
        MissingExtraError: without matplotlib.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure as Canvas
    except ModuleNotFoundError:
        raise MissingExtraError("figures (matplotlib)", "eval") from None
    style = {
        **mpl.rcParamsDefault,
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "axes.grid": True,
        "grid.color": "#E6E6E6",
        "axes.axisbelow": True,
        "lines.markersize": 5,
        "legend.frameon": False,
        "svg.hashsalt": figure.name,
    }
    style.pop("backend", None)
    with mpl.rc_context(style):
        widths = [1.25 if isinstance(chart, Dots) else 1.0 for chart in figure.charts]
        size = (max(5.2, 3.9 * sum(widths)), max(map(_height, figure.charts)))
        canvas = Canvas(figsize=size, dpi=dpi, layout="constrained")
        axes = canvas.subplots(1, len(figure.charts), squeeze=False, width_ratios=widths)[0]
        styles = _styles(figure.charts)
        for axis, chart in zip(axes, figure.charts, strict=True):
            axis.set_title(chart.title, loc="left")
            _DRAW[chart.kind](axis, chart, styles)
        _share_scales(axes, figure.charts)
        _legend(canvas, axes)
        out = io.BytesIO()
        metadata = {"Date": None} if format == "svg" else {"CreationDate": None} if format == "pdf" else {}
        canvas.savefig(out, format=format, metadata=metadata)
    return out.getvalue()


def _height(chart: Chart) -> float:
    return 1.5 + 0.3 * len(chart.rows) if isinstance(chart, Dots) else 3.5


def _styles(charts: Sequence[Chart]) -> dict[str, int]:
    """One look a name, the same in all charts of a figure."""
    names = [one.name for chart in charts if not isinstance(chart, Counts) for one in chart.series]
    return {name: n % len(COLOURS) for n, name in enumerate(dict.fromkeys(names))}


def _lines(axis: Any, chart: Lines, styles: dict[str, int]) -> None:
    for one in chart.series:
        n = styles[one.name]
        axis.errorbar(
            one.x, one.y, yerr=list(one.spread) or None, label=one.name,
            color=COLOURS[n], marker=MARKERS[n], linestyle=LINES[n], capsize=2, linewidth=1.5,
        )  # fmt: skip
    for name, height in chart.levels:
        axis.axhline(height, color="#606060", linewidth=1, linestyle=(0, (1, 2)))
        axis.annotate(
            name, (1, height), xycoords=("axes fraction", "data"), ha="right", va="bottom",
            fontsize=8, color="#404040",
        )  # fmt: skip
    if chart.log_x:
        axis.set_xscale("log")
    marked = chart.ticks or [(x, f"{x:,g}") for x in sorted({x for one in chart.series for x in one.x})]
    axis.set_xticks([x for x, _ in marked], [label for _, label in marked])
    axis.set_xticks([], minor=True)
    axis.set_xlabel(chart.x_label)
    axis.set_ylabel(chart.y_label)


def _dots(axis: Any, chart: Dots, styles: dict[str, int]) -> None:
    if chart.joined:
        for row in range(len(chart.rows)):
            here = [x for one in chart.series for x, y in zip(one.x, one.y, strict=True) if y == row]
            if len(here) > 1:
                axis.plot([min(here), max(here)], [row, row], color="#B0B0B0", linewidth=2, zorder=1)
    for one in chart.series:
        n = styles[one.name]
        axis.errorbar(
            one.x, one.y, xerr=list(one.spread) or None, label=one.name,
            color=COLOURS[n], marker=MARKERS[n], linestyle="none", capsize=2,
        )  # fmt: skip
    for name, place in chart.levels:
        axis.axvline(place, color="#606060", linewidth=1, linestyle=(0, (1, 2)))
        axis.annotate(
            name, (place, 1), xycoords=("data", "axes fraction"), ha="center", va="bottom", fontsize=8,
            color="#404040",
        )  # fmt: skip
    axis.set_yticks(range(len(chart.rows)), chart.rows)
    axis.set_ylim(len(chart.rows) - 0.5, -0.5)
    axis.set_xlabel(chart.x_label)


def _points(axis: Any, chart: Points, styles: dict[str, int]) -> None:
    for one in chart.series:
        n = styles[one.name]
        axis.scatter(
            one.x, one.y, label=one.name, color=COLOURS[n], marker=MARKERS[n], s=10, alpha=0.6,
            linewidths=0, rasterized=True,
        )  # fmt: skip
    axis.set_xticks([])
    axis.set_yticks([])


def _counts(axis: Any, chart: Counts, styles: dict[str, int]) -> None:  # noqa: ARG001
    axis.stairs(chart.counts, chart.edges, fill=True, color="#A9C7DC", edgecolor=COLOURS[0])
    for name, place in chart.marks:
        axis.axvline(place, color=COLOURS[1], linewidth=1.5)
        axis.annotate(
            name, (place, 0.97), xycoords=("data", "axes fraction"), ha="right", va="top", fontsize=8,
            rotation=90, color=COLOURS[1],
        )  # fmt: skip
    axis.set_xlabel(chart.x_label)
    axis.set_yticks([])
    axis.spines["left"].set_visible(False)


def _share_scales(axes: Sequence[Any], charts: Sequence[Chart]) -> None:
    """One scale for all charts of a figure that show the same quantity."""
    groups: dict[tuple[str, str], list[Any]] = {}
    for axis, chart in zip(axes, charts, strict=True):
        if isinstance(chart, Lines):
            groups.setdefault(("y", chart.y_label), []).append(axis)
        elif isinstance(chart, Dots):
            groups.setdefault(("x", chart.x_label), []).append(axis)
    for (side, _), members in groups.items():
        limits = [getattr(axis, f"get_{side}lim")() for axis in members]
        for axis in members:
            getattr(axis, f"set_{side}lim")(min(low for low, _ in limits), max(high for _, high in limits))


def _legend(canvas: Any, axes: Sequence[Any]) -> None:
    """One for all charts, above them."""
    found: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if len(found) > 1:
        column = 0.6 + 0.075 * max(map(len, found))  # inches that a marker and the longest name take
        columns = max(1, min(len(found), int(canvas.get_figwidth() / column)))
        canvas.legend(found.values(), found.keys(), loc="outside upper left", ncols=columns)


_DRAW: dict[str, Any] = {"lines": _lines, "dots": _dots, "points": _points, "counts": _counts}
