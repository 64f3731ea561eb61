"""Heads too small, or too poor, to be sure of anything: modest, marked, and remembered as such."""

from __future__ import annotations

import copy
import json

import pytest
import timm
import torch
from torch import nn

import headword
from headword.aligners.pairs import Pairs
from headword.errors import HeadwordError
from headword.files import sealed
from headword.scoring.calibration import FEW, Scores, fit_softmax, names_taught, prior_scores, scores_from
from support.commands import run

NAMES = ("cat", "dog", "car", "tree", "house")
LABELS = ["a wedding", "a quiet street", "a bird"]


def own(vision, rows: int) -> nn.Module:
    """The embedded network with some rows of its head, as somebody's own classifier."""
    module = copy.deepcopy(vision.source.model)
    module.classifier = nn.Linear(vision.dim, rows)
    module.classifier.weight.data = vision.head.weight[:: len(vision.head.weight) // rows][:rows].clone()
    return module


def of_rows(embedded, rows: int, names=None, **options):
    classes = embedded.vision.labels.classes[:: 1000 // rows][:rows]
    names = names or [c.name for c in classes]
    transform = embedded.vision.source.transform
    module = own(embedded.vision, rows)
    return headword.recycle(
        module, embedded.text, class_names=names, transform=transform, words="plain", **options
    )


@pytest.fixture(scope="module")
def small(tmp_path_factory, embedded):
    """A classifier of five classes on the disk, and its model by the command line: (what it said, folder)."""
    folder = tmp_path_factory.mktemp("small")
    torch.manual_seed(0)
    classifier = timm.create_model("test_resnet.r160_in1k", pretrained=False, num_classes=5)
    nn.init.normal_(classifier.get_classifier().weight)
    timm.models.save_for_hf(
        classifier, folder / "vision", model_config={"label_names": list(NAMES)}, safe_serialization=True
    )
    shown = run("recycle", "--vision", folder / "vision", "--out", folder / "model")
    return " ".join(shown.split()), folder / "model"


def test_recycle_says_what_to_expect_and_what_would_help(small) -> None:
    shown, folder = small
    assert "it learnt from 5 class names, too few to tell what it knows" in shown
    assert "the prior for so few classes" in shown
    assert "What helps: --captions" in shown
    assert "fitted on 0" not in shown
    said = " ".join(run("inspect", folder).split())
    assert "Expect little beyond its own classes: it learnt from 5 class names" in said
    assert json.loads(run("inspect", folder, "--json", "-"))["model"]["doubt"].startswith("it learnt from 5")


def test_all_labels_are_marked_and_modest(small, pictures) -> None:
    _, folder = small
    arguments = ("classify", folder, pictures["cat"], "--labels", ",".join(LABELS))
    shown = run(*arguments)
    assert all(f"{label} *" in shown for label in LABELS)
    assert "* Take all with care: it learnt from 5 class names" in " ".join(shown.split())
    said = json.loads(run(*arguments, "--json", "-"))
    assert said["out_of_depth"] == LABELS
    assert said["doubt"].startswith("it learnt from 5")
    assert said["model"]["scores"]["scale"] == pytest.approx(24 * 5 / 19)
    explained = json.loads(run("explain", folder, "a bird", "--json", "-"))["results"][0]
    assert (explained["familiarity"], explained["out_of_depth"]) == (None, True)


def test_a_model_remembers_and_an_older_one_loads(small, pictures, tmp_path) -> None:
    loaded = headword.load(small[1])
    assert loaded.doubt is not None
    assert [d.out_of_depth for d in loaded.depths(LABELS)] == [True] * len(LABELS)
    assert "take with care: it learnt from 5" in repr(loaded)
    again = headword.load(loaded.save(tmp_path / "again"))
    assert (again.scores, again.doubt) == (loaded.scores, loaded.doubt)
    config = json.loads((tmp_path / "again" / "headword.json").read_text())
    del config["doubt"]
    config["scores"] = {"scale": 20.0, "sigmoid_scale": 20.0, "threshold": 0.2, "fitted_on": 0}
    (tmp_path / "again" / "headword.json").write_text(json.dumps(sealed(config)))
    old = headword.load(tmp_path / "again")
    assert old.scores.as_json() == config["scores"]
    assert old.doubt == loaded.doubt
    assert old.classify(pictures["cat"], LABELS).shape == (1, 3)


def test_index_tags_search_and_the_api_say_so(small, pictures, tmp_path) -> None:
    import shutil

    from headword.search import Index, build_index
    from support.serving import served

    (tmp_path / "in").mkdir()
    for name in ("cat", "coffee"):
        shutil.copy(pictures[name], tmp_path / "in" / pictures[name].name)
    build_index(small[1], tmp_path / "in", tmp_path / "index")
    said = json.loads(run("search", tmp_path / "index", "a bird", "--json", "-"))
    assert said["doubt"].startswith("it learnt from 5")
    assert "Take with care: it learnt from 5" in run("search", tmp_path / "index", "a bird")
    assert "Take these with care: it learnt from 5" in run("tag", tmp_path / "index", "--labels", "x,y")
    with served(Index.open(tmp_path / "index")) as live:
        reply = live.post("/search", {"text": "a bird"}).json
        assert reply["doubt"].startswith("it learnt from 5")
        picture = reply["hits"][0]["path"]
        for where, more in (("/classify", {"pictures": [picture]}), ("/tag", {})):
            assert live.post(where, {"labels": LABELS, **more}).json["doubt"].startswith("it learnt from 5")


@pytest.mark.parametrize("rows", [10, 49, 51])
def test_own_modules_of_every_size(embedded, pictures, rows) -> None:
    model = of_rows(embedded, rows)
    assert (model.doubt is None) == (rows >= FEW)
    assert (model.familiarity_fit is None) == (rows < FEW)
    assert model.scores.fitted_on == (rows if rows >= 10 else 0)
    if rows <= 10:
        assert model.scores.scale < 12
        assert model.classify([pictures["cat"], pictures["coffee"]], LABELS).max() < 0.7
    none = model.classify(pictures["cat"], LABELS, none_of_these=True)
    assert none.shape == (1, 4)


def test_one_class_or_one_name_is_refused(embedded) -> None:
    with pytest.raises(HeadwordError, match="all of the head's classes are called 'cat'"):
        of_rows(embedded, 2, names=["cat", "cat"])
    twice = of_rows(embedded, 4, names=["cat", "cat", "dog", "car"])
    assert twice.doubt is not None
    assert "3 class names" in twice.doubt


def test_captions_lift_the_doubt(embedded, pictures) -> None:
    texts = [
        f"{thing} {place}" for thing in NAMES for place in ("at home", "at night", "in the rain", "far away")
    ]
    texts += [f"a picture of {n} apples" for n in range(40)]
    features = torch.randn(len(texts), embedded.vision.dim, generator=torch.Generator().manual_seed(0))
    captions = Pairs(features, embedded.text.encode(texts), tuple(texts), ("caption",) * len(texts))
    model = of_rows(embedded, 5, pairs=captions)
    assert names_taught(model.pairs) == len(texts)
    assert model.scores.fitted_on == len(texts)
    assert model.doubt is not None  # what was drawn at random is found by chance alone
    assert "no better than chance" in model.doubt


def test_a_poor_head_is_doubted_and_a_good_one_is_not(embedded) -> None:
    assert embedded.doubt is None
    assert Scores(20.0, 20.0, 0.0, 100, 5, 5.0).doubt(100) is not None
    assert Scores(20.0, 20.0, 0.0, 100, 30, 5.0).doubt(100) is None
    assert Scores(20.0, 20.0, 0.0, 100).doubt(100) is None  # an older model, which did not count
    order = torch.randperm(len(embedded.pairs), generator=torch.Generator().manual_seed(1))
    shuffled = embedded.pairs.image[order]
    head = [row for row, source in enumerate(embedded.pairs.source) if source == "head"][:200]
    poor = Pairs(shuffled[head], embedded.pairs.text[head], embedded.pairs.names[:200], ("head",) * 200)
    from headword.scoring.calibration import fit_scores

    scores = fit_scores(embedded.aligner, poor)
    assert "no better than chance" in (scores.doubt(200) or "")
    assert scores.scale < 10


def test_the_prior_decides_for_few_rows_and_is_nothing_beside_many() -> None:
    drawn = torch.Generator().manual_seed(0)
    cosines = torch.rand(4000, 5, generator=drawn).double() - 0.5
    target = torch.multinomial((12 * cosines).softmax(dim=1), 1, generator=drawn)[:, 0]
    alone = fit_softmax([cosines], [target])
    assert fit_softmax([cosines], [target], 6.0) == pytest.approx(alone, rel=0.02)
    few = fit_softmax([cosines[:3]], [target[:3]], 6.0)
    assert 3.0 < few < 9.0
    assert prior_scores(5).scale < prior_scores(10).scale < prior_scores(50).scale < 20
    assert scores_from(None, prior_scores(5)) == prior_scores(5)
