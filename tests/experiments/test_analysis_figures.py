"""Charts are drawn in every format, alike each time, and without touching matplotlib's settings."""

from __future__ import annotations

import io
import re
import sys

import pytest
from PIL import Image

from experiments.figures import (
    COLOURS,
    FORMATS,
    LINES,
    MARKERS,
    Counts,
    Dots,
    Figure,
    Lines,
    Points,
    Series,
    draw,
    values,
)
from headword.errors import MissingExtraError

SERIES = (
    Series("ours", [1, 10, 100], [1.0, 2.0, 3.0], [0.1, 0.2, 0.0]),
    Series("theirs", [1, 100], [2, 2.5]),
)
CHARTS = {
    "lines": Lines(x_label="x", y_label="y", series=SERIES, levels=(("chance", 0.5),), log_x=True),
    "dots": Dots(
        rows=["a", "b"],
        x_label="%",
        series=(values("ours", [1.0, 2.0]), values("theirs", [3.0], places=[1])),
        joined=True,
        levels=(("chance", 1.5),),
    ),
    "points": Points(series=SERIES),
    "counts": Counts(x_label="distance", edges=[0, 1, 2], counts=[3, 4], marks=(("observed", 1.9),)),
}


@pytest.mark.parametrize("kind", CHARTS)
def test_every_chart_is_drawn_alike_each_time(kind):
    figure = Figure(name=kind, caption="A caption", charts=(CHARTS[kind],))
    svg = draw(figure, "svg", dpi=60)
    assert b"<svg" in svg
    assert svg == draw(figure, "svg", dpi=60)


def test_every_format():
    figure = Figure(name="f", caption="", charts=(CHARTS["points"],))
    files = {form: draw(figure, form, dpi=60) for form in FORMATS}
    assert Image.open(io.BytesIO(files["png"])).width > 200
    assert files["pdf"].startswith(b"%PDF")


def test_names_have_one_look_in_all_charts_and_never_by_colour_alone():
    assert len(set(COLOURS)) == len(set(MARKERS)) == len(set(map(str, LINES))) == 8
    series = [Series(f"s{n}", [0, 1], [n, n]) for n in range(3)]
    charts = (
        Lines(x_label="x", y_label="y", series=series),
        Lines(x_label="x", y_label="y", series=series[1:]),
    )
    svg = draw(Figure(name="f", caption="", charts=charts), "svg").decode()
    drawn = re.findall(r"stroke: (#[0-9a-f]{6}); stroke-width: 1.5", svg)
    second = COLOURS[1].lower()
    assert drawn.count(second) == 3  # both charts and the one legend


def test_settings_of_matplotlib_are_left_alone():
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    draw(Figure(name="f", caption="", charts=(CHARTS["lines"],)), "png", dpi=40)
    assert dict(mpl.rcParams) == before


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match="eval"):
        draw(Figure(name="f", caption="", charts=(CHARTS["lines"],)))
