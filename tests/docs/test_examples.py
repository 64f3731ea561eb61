"""Every Python example of the README and the docs runs, page by page, as a reader would type it.

A page's blocks share one namespace, in a folder with what pages take for granted: `holiday/` and `pictures/`,
two pictures by themselves, captions, a saved model. A block that needs a network or a GPU, or is a sketch,
has a comment before it: `<!-- not run: why -->`.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from open_clip import CLIP

import headword
from headword.data.gallery import gallery
from headword.data.safe_images import load_image

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"(<!-- not run: [^>]+ -->\n+)?^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
PAGES = [
    page
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    if BLOCK.search(page.read_text("utf-8"))
]
SHORTER = {
    "steps=1500": "steps=2",
    'open_clip.create_model("ViT-B-32")': "tiny_clip()",
    '"embedded:lite1", "embedded:lite2"])': '"embedded:lite1"], words="plain")',
    "recycle(aligner=": 'recycle(words="plain", aligner=',
    'recycle("embedded", centre_on': 'recycle("embedded", words="plain", centre_on',
}
"""What would take minutes or gigabytes, and what is run for it."""


@pytest.fixture
def start(
    model: headword.DualEncoder, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """The names that pages take for granted, and the folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(saved, "model")
    for folder in ("holiday", "pictures"):
        Path(folder).mkdir()
        for picture in gallery():
            shutil.copy(picture.path, Path(folder) / f"{picture.name}{picture.path.suffix}")
    shutil.copy("holiday/temple.jpg", "beach.jpg")
    shutil.copy("holiday/flower.jpg", "cake.jpg")
    paths = headword.list_images("holiday/")
    titles = {picture.name: picture.title for picture in gallery()}
    lines = [{"image": str(path), "captions": [titles[path.stem]], "split": "test"} for path in paths]
    Path("captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return {
        "headword": headword,
        "tiny_clip": tiny_clip,
        "model": model,
        "paths": paths,
        "labels": ["a temple", "a cup of coffee", "a cat"],
        "batches": [paths[:5], paths[5:]],
        "reference_images": paths[:8],
        "reference_texts": list(titles.values())[:8],
    }


def tiny_clip() -> CLIP:
    """A model of ViT-B-32's shapes outside and little inside."""
    vision = {"layers": 1, "width": 32, "head_width": 16, "patch_size": 32, "image_size": 224}
    return CLIP(16, vision, {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1})


def examples(page: Path) -> Iterator[str]:
    """Its blocks, each at the page's own lines, so that an error names the right one."""
    text = page.read_text("utf-8")
    for block in BLOCK.finditer(text):
        if block[1] is None:
            code = "\n" * text.count("\n", 0, block.start(2)) + block[2]
            for long, short in SHORTER.items():
                code = code.replace(long, short)
            yield code


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_examples(page: Path, start: dict[str, Any]) -> None:
    names = start
    for code in examples(page):
        exec(compile(code, str(page), "exec"), names)
    if page.name == "superclip.md":
        assert names["tokens"].n_truncated == 0
        assert names["losses"]["loss"] > 0
        model, plain, images = names["model"].eval(), names["plain"].eval(), names["images"]
        assert torch.equal(model(images)["image_features"], plain.encode_image(images, normalize=True))
    if page.name == "shapes.md":
        assert names["asked"][0].candidates[0] == names["example"].caption


def test_fiftyone_takes_the_model_of_its_page(start: dict[str, Any]) -> None:
    models = pytest.importorskip("fiftyone.core.models", reason="FiftyOne is not installed")
    page = (ROOT / "docs" / "other-tools.md").read_text("utf-8")
    (code,) = (block[2] for block in BLOCK.finditer(page) if "class Headword" in block[2])
    exec(code, start)
    model, paths, labels = start["model"], start["paths"][:3], start["labels"]
    tool = start["Headword"](model, labels)
    assert isinstance(tool, models.Model)
    assert all((tool.has_embeddings, tool.can_embed_prompts))
    pictures = [np.asarray(load_image(path)) for path in paths]
    with tool:
        said = tool.predict_all(pictures)
        embeddings, words = tool.embed_all(pictures), tool.embed_prompts(labels)
    chances = model.classifier(labels).predict_proba(pictures)
    assert [one.label for one in said] == [labels[n] for n in chances.argmax(axis=1)]
    np.testing.assert_allclose([one.confidence for one in said], chances.max(axis=1), atol=1e-5)
    np.testing.assert_allclose(embeddings, model.encode_image(pictures).numpy(), atol=1e-5)
    np.testing.assert_allclose(words, model.encode_text(labels).numpy(), atol=1e-5)


def test_pages_say_why_a_block_is_not_run() -> None:
    for page in PAGES:
        skipped = re.findall(r"<!-- not run: (.*?) -->", page.read_text("utf-8"))
        assert all(len(why) > 5 for why in skipped), page
