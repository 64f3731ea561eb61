"""Every recipe runs on planted classes, says of each claim whether it holds, and writes a whole folder."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from experiments import bench, report
from experiments.__main__ import app
from experiments.bench import Bench, Captions
from experiments.findings import Outcome, judge, parts
from experiments.measure import matched_classes
from experiments.moments import Moments, Queries
from experiments.recipes import RECIPES, modality_gap
from experiments.recipes.setting_2 import captions_of
from experiments.records import Mean, Records, mean_of, shown, standard_error
from experiments.report import reproduce
from headword.aligners import Ridge
from headword.aligners.pairs import Pairs
from headword.errors import HeadwordError
from headword.metrics import retrieval_metrics, retrieval_places
from support.commands import run_app
from support.html_page import Page
from support.recipe_helpers import drawn, flat, planted


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """No UMAP: the first in a process compiles for many seconds."""
    monkeypatch.setattr(modality_gap, "planar", flat)


@pytest.fixture(scope="module")
def found():
    """Findings of every recipe on the planted bench."""
    bench = planted()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modality_gap, "planar", flat)
        return {name: recipe.run(bench) for name, recipe in RECIPES.items()}


@pytest.mark.parametrize("name", RECIPES)
def test_every_claim_has_a_verdict_and_every_row_its_columns(found, name):
    recipe, findings = RECIPES[name], found[name]
    assert set(findings.verdicts) == set(recipe.claims)
    assert findings.tables
    assert findings.figures
    assert findings.protocol
    for table in findings.tables:
        assert table.rows
        assert {len(row) for row in table.rows} == {len(table.columns)}
    result = json.loads(json.dumps(parts(recipe, findings, planted()), allow_nan=False))
    assert "text" in result["model"]
    assert len(result["metrics"]) == len(result["records"])
    assert all(isinstance(value, int | float) for value in result["metrics"].values())
    assert all(claim["measured"] and claim["rule"] for claim in result["claims"])


def test_a_seed_gives_one_result_from_the_command_line_too(found, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "Bench", planted)
    monkeypatch.setattr(report, "draw", drawn)
    line = ("all", "--data", tmp_path, "--out", tmp_path / "o")
    results = json.loads(run_app(app, *line, "--json", "-"))["results"]
    assert [one["recipe"] for one in results] == list(RECIPES)
    assert {path.name for path in (tmp_path / "o").iterdir()} == set(RECIPES)
    for one in results:
        assert one["metrics"] == pytest.approx(found[one["recipe"]].records.metrics(), abs=1e-6)


def test_planted_answers(found):
    """Planted rows are better prototypes than noisy images, and worth most beside few captions."""
    outcomes = {name: {key: v.outcome for key, v in one.verdicts.items()} for name, one in found.items()}
    assert outcomes["neighbourhoods"]["rows-beat-one"] is Outcome.holds
    assert outcomes["setting-1"]["wide-heads"] is Outcome.absent
    assert outcomes["setting-2"]["few-pairs"] is Outcome.holds
    assert outcomes["setting-2"]["vanish"] is Outcome.holds
    assert outcomes["few-shot"]["most-with-few"] is Outcome.holds
    assert outcomes["equal-budget"]["classification"] is Outcome.holds
    assert found["setting-1"].records.metrics()["kernel-ridge, name, centred, mean"] > 60


def test_a_gap_is_found_where_there_is_one(found):
    bench = planted()
    bench.gap, bench.row_noise = 0.0, bench.noise
    none, some = RECIPES["modality-gap"].run(bench).records, found["modality-gap"].records
    p, apart = ("none", "gap", "p"), ("none", "gap", "told apart")
    assert some.value(*p) == pytest.approx(1 / 100)  # the least that 99 shuffles can give
    assert none.value(*p) > some.value(*p)
    assert some.value(*apart) > 80 > none.value(*apart)
    assert some.value("mean", "gap", "distance") < some.value("none", "gap", "distance")


def test_mappings_can_be_left_out(found):
    less = RECIPES["setting-1"].run(planted(without=("mlp", "linear")))
    whole, metrics = found["setting-1"].records.metrics(), less.records.metrics()
    assert set(metrics) < set(whole)
    assert {key: whole[key] for key in metrics} == pytest.approx(metrics, abs=1e-6)
    assert "Left out: mlp, linear." in less.notes
    few = RECIPES["few-shot"].run(planted(without=("mlp",)))
    assert not any("mlp" in key for key in few.records.metrics())


# ---- what recipes are made of


def test_judge():
    assert judge(0.1, "", "").outcome is Outcome.holds
    assert judge(0.0, "", "").outcome is Outcome.fails
    assert judge(3.0, "", "", error=1.4).outcome is Outcome.holds
    assert judge(3.0, "", "", error=1.6).outcome is Outcome.open
    assert judge(-3.0, "", "", error=1.6).outcome is Outcome.open
    assert judge(-3.0, "", "", error=1.4).outcome is Outcome.fails
    assert (
        "two standard errors" in judge(3.0, "more", "", error=1).rule + judge(1.0, "more", "", error=1).rule
    )


def test_cells():
    assert shown(None, 1) == "–"
    assert shown(-1.25, 1) == "−1.2"
    assert shown(Mean(1234.5, 0.25), 1) == "1,234.5 ± 0.2"
    assert shown(1000, 1) == "1,000"
    assert mean_of([3.0]) == 3.0
    assert mean_of([1.0, 3.0]) == Mean(2.0, pytest.approx(2**0.5))
    assert standard_error([1.0, 3.0]) == pytest.approx(1.0)


def test_records_are_one_list_that_tables_and_charts_are_read_off():
    records = Records()
    for draw in (1.0, 3.0):
        records.add("ours", 100, accuracy=draw, loss=0.5)
    records.add("ours", 10, accuracy=1.0)
    records.add("theirs", 100, accuracy=Mean(2.0, 0.1))
    assert records.axis("set") == ["10", "100"]
    assert records.metrics()["ours, 100, accuracy"] == 2.0
    first = next(iter(records))
    assert (first.value, first.deviation) == (2.0, pytest.approx(2**0.5))
    assert records.draws("ours", 100, "accuracy") == [1.0, 3.0]
    table = records.select(metric="accuracy").table("t", {"set": "N"}, "arm")
    assert table.columns == ("N", "ours", "theirs")
    assert table.rows[0] == ("10", 1.0, None)
    assert table.rows[1] == ("100", Mean(2.0, pytest.approx(2**0.5)), Mean(2.0, 0.1))
    chosen = records.select(arm=("theirs", "ours"), metric="accuracy")
    assert [series.name for series in chosen.lines("N", "%").series] == ["theirs", "ours"]
    ours = chosen.lines("N", "%").series[1]
    assert (ours.x, ours.y) == ([10.0, 100.0], [1.0, 2.0])
    dots = chosen.dots("%", rows="set").series[0]
    assert (dots.x, dots.y, dots.spread) == ([2.0], [1], [0.1])
    means = Records()
    for arm, sets in {"both": ("a", "b"), "one": ("a",)}.items():
        for place, name in enumerate(sets):
            for draw in (0.0, 2.0):
                means.add(arm, name, top1=draw + place)
    assert means.means_over(("a", "b"), "top1").draws("both", "mean", "top1") == [0.5, 2.5]
    assert means.means_over(("a", "b"), "top1").axis("arm") == ["both"]
    assert means.select(set="a").gains("both", "one", "a", "top1") == [0.0, 0.0]


def test_matched_classes():
    head = planted().head()
    twice = replace(head, classes=(*head.classes[:38], head.classes[0], head.classes[1]))
    names = ("thing 5", "Thing 6", "thing 0", "nothing", "res thing 7")
    assert matched_classes(twice, names, synonyms=False) == {0: 5, 1: 6}
    assert matched_classes(twice, names, synonyms=True) == {0: 5, 1: 6, 4: 7}


def captions(n=9, seed=0) -> Captions:
    generator = torch.Generator().manual_seed(seed)
    owner = torch.arange(n).repeat_interleave(torch.arange(n) % 3 + 1)
    return Captions(
        features=torch.randn(n, 12, generator=generator),
        text=torch.randn(len(owner), 6, generator=generator),
        owner=owner,
    )


def test_moments_give_the_ridge_of_the_pairs_themselves():
    data, rows = captions(), Pairs(image=torch.randn(7, 12), text=torch.randn(7, 6))
    pairs = Pairs(image=data.features[data.owner], text=data.text)
    moments = (
        Moments.of_captions(data.text, data.features, data.owner) + Moments.of(rows.text, rows.image) * 0.3
    )
    ridge = Ridge(penalty=2.0).fit(pairs + rows.weighted(0.3))
    torch.testing.assert_close(
        moments.path().map_text(data.text, 2.0), ridge.text(data.text), atol=1e-5, rtol=0
    )


def test_centred_moments_ignore_constants_of_each_kind():
    """Moved images of one kind of pair change nothing, where each kind is centred on its own mean."""
    T, X = torch.nn.functional.normalize(torch.randn(8, 6), dim=1), torch.randn(8, 12).double()
    one = Moments.of(T, X).centred()
    unit = torch.nn.functional.normalize(X, dim=1)
    mean = T.double() - T.double().mean(dim=0)
    torch.testing.assert_close(one.cross, mean.T @ (unit - unit.mean(dim=0)))
    torch.testing.assert_close(one.gram, mean.T @ mean, atol=1e-6, rtol=1e-6)
    assert one.text.abs().max() == 0


def test_captions_of_some_images():
    data = captions()
    images = torch.tensor([4, 1, 7])
    kept = torch.isin(data.owner, images)
    whole = Moments.of(data.text[kept], data.features[data.owner[kept]])
    some = captions_of(data, images)
    torch.testing.assert_close(some.cross, whole.cross)
    torch.testing.assert_close(some.image, whole.image)
    assert some.pairs == int(kept.sum())


def test_recalls_of_a_path_are_the_metrics():
    data = captions(30)
    path, queries = Moments.of_captions(data.text, data.features, data.owner).path(), Queries.of(data)
    for penalty, recall in zip((0.1, 5.0), path.recalls(queries, (0.1, 5.0), k=5), strict=True):
        places = retrieval_places(queries.image, path.map_text(data.text, penalty), data.owner)
        assert recall == pytest.approx(retrieval_metrics(places, (5,))["t2i_r5"])
        image, text = path.sides(queries, penalty)
        cosines = path.map_text(data.text, penalty) @ queries.image.T
        torch.testing.assert_close(text @ image.T, cosines, atol=1e-5, rtol=0)


def test_first_captions_of_each_image():
    data = captions()
    assert Queries.of(data, 1).owner.tolist() == list(range(9))
    assert Queries.of(data, 2).owner.tolist() == [o for n in range(9) for o in [n] * min(2, n % 3 + 1)]


# ---- what is written


def test_a_folder_is_written_whole(tmp_path, monkeypatch):
    out = tmp_path / "r"
    done = reproduce(RECIPES["cosine-classifier"], planted(), out)
    assert {path.name for path in out.iterdir()} == {"result.json", "report.html", "figures"}
    assert {path.suffix for path in (out / "figures").iterdir()} == {".png", ".svg", ".pdf"}
    result = json.loads((out / "result.json").read_text())
    assert result["schema"] == 1
    assert result["command"] == "experiments"
    assert result["metrics"] == done.findings.records.metrics()
    page = Page((out / "report.html").read_text())
    images = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert len(images) == len(done.findings.figures)
    assert all(source.startswith("data:image/svg+xml;base64,") for source in images)
    for key, found in done.recipe.claims.items():
        assert found in page.text
        assert done.findings.verdicts[key].measured in page.text
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe"}
    with pytest.raises(HeadwordError, match="already exists"):
        reproduce(RECIPES["cosine-classifier"], planted(), out)
    monkeypatch.setattr(report, "draw", lambda *_: b"again")
    reproduce(RECIPES["cosine-classifier"], planted(), out, overwrite=True)
    assert {path.read_bytes() for path in (out / "figures").iterdir()} == {b"again"}


def test_a_folder_of_others_is_not_replaced(tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(HeadwordError, match=r"no result\.json"):
        reproduce(RECIPES["cosine-classifier"], planted(), tmp_path, overwrite=True)


def test_missing_data_is_named(tmp_path):
    with pytest.raises(HeadwordError, match="no folder data/"):
        Bench(root=tmp_path).check(("cifar10",))
    (tmp_path / "data").mkdir()
    with pytest.raises(HeadwordError, match="has no cifar10, which this recipe needs"):
        Bench(root=tmp_path).check(("cifar10",))
    (tmp_path / "data" / "cifar10").mkdir()
    Bench(root=tmp_path).check(("cifar10",))
    with pytest.raises(HeadwordError, match="no folder weights/"):
        Bench(root=tmp_path).check((), ("x",))
