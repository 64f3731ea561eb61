"""What notebooks show, and paths where paths were given."""

from __future__ import annotations

import ast
from dataclasses import fields
from pathlib import Path

import torch

import headword
from headword.dense.regions import Region, Regions
from headword.evaluation import Protocol, evaluate
from headword.search.duplicates import Duplicates
from headword.search.query import Hit
from support.extraction import draw_many
from support.html_page import Page
from support.indexing import tiny_model

TEXTS = ["ant", "bee"]


def test_a_search_of_paths_names_them(tmp_path):
    model, folder = tiny_model(), draw_many(tmp_path / "drawn", 4)
    paths = headword.list_images(folder)
    matches = model.search(paths, TEXTS, k=3)
    places, scores = matches
    assert matches.paths == [[str(paths[place]) for place in row] for row in places.tolist()]
    assert model.search(folder, TEXTS, k=3).paths == matches.paths
    assert model.search(list(map(str, paths)), TEXTS, k=3).paths == matches.paths
    features = model.search(model.image_features(paths), TEXTS, k=3)
    assert features.paths is None
    assert torch.equal(features[1], scores)
    assert matches.paths[0][0] in Page(matches._repr_html_()).text
    table = matches.to_arrow()
    assert table["query"].to_pylist() == [0, 0, 0, 1, 1, 1]
    assert table["image"].to_pylist() == [*matches.paths[0], *matches.paths[1]]
    assert table["score"].to_pylist() == scores.flatten().tolist()


def test_what_an_index_finds_is_a_table(tmp_path):
    model, folder = tiny_model(), draw_many(tmp_path / "drawn", 4)
    headword.build_index(model, folder, tmp_path / "index")
    index = headword.Index.open(tmp_path / "index", model=model)
    hits = index.search(headword.Query("ant"), k=3)
    assert len(hits) == 3
    table = hits.to_arrow()
    assert table.column_names == [field.name for field in fields(hits[0])]
    assert table["score"].to_pylist() == [hit.score for hit in hits]
    assert table["path"].to_pylist() == [hit.path for hit in hits]
    shown = Page(hits._repr_html_()).text
    assert hits[0].path in shown
    assert f"{hits[0].score:.3f}" in shown


def test_all_that_comes_in_rows_is_a_table(tmp_path):
    model = tiny_model()
    (explained,) = model.explain(["ant"], k=2)
    assert explained.to_arrow().column_names == [field.name for field in fields(explained.prototypes[0])]
    assert explained.to_arrow()["weight"].to_pylist() == [one.weight for one in explained.prototypes]
    regions = Regions([Region((0.0, 0.0, 0.5, 0.5), (0.2, 0.2), 0.3)])
    assert regions.to_arrow().to_pylist()[0]["box"] == [0.0, 0.0, 0.5, 0.5]
    groups = Duplicates([[Hit("a.jpg", 1.0), Hit("b.jpg", 0.99)], [Hit("c.jpg", 0.98)]], 0.98)
    assert groups.to_arrow()["group"].to_pylist() == [0, 0, 1]
    assert "b.jpg" in groups._repr_html_()
    for label in ("ant", "bee"):
        draw_many(tmp_path / label, 2)
    measured = evaluate({"one": model, "two": model}, Protocol(task="classification", data=str(tmp_path)))
    assert measured.to_arrow()["model"].to_pylist() == ["one", "two"]
    assert measured.to_arrow()["top1"].to_pylist() == [one.metrics["top1"] for one in measured]


def test_models_and_classifiers_in_a_notebook():
    model = tiny_model()
    assert "5 classes × 16 features" in Page(model._repr_html_()).text
    shown = model.classifier(["<script>alert(1)</script>", *(f"label {n}" for n in range(80))])._repr_html_()
    assert "<script>alert(1)</script>" in Page(shown).text
    assert "<script>" not in shown
    assert "31 more" in shown


def test_the_stub_for_type_checkers_names_what_is_there():
    tree = ast.parse(Path(headword.__file__).read_text("utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    stub = {alias.name: line.module for line in block.body for alias in line.names}
    assert stub == headword._HOMES
