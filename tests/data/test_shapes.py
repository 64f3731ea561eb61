"""The generated set: pure, true to its captions, with its combinations held out; and the protocol on it."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from headword.data.shapes import (
    ATTRIBUTES,
    COLOURS,
    RELATIONS,
    SHAPES,
    SIZES,
    Group,
    Scene,
    Shapes,
    held_out,
    questions,
)
from headword.data.shapes.drawing import _placed, draw
from headword.data.shapes.scene import Dice
from headword.data.shapes.wording import caption, captions, rewritten
from headword.errors import HeadwordError
from headword.evaluation.shape_questions import evaluate_shapes

NUMBERS = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4}
SIZE_WORDS = {
    "small": "small",
    "little": "small",
    "tiny": "small",
    "large": "large",
    "big": "large",
    "huge": "large",
}
RELATION_WORDS = {
    "left": "left of", "right": "right of", "above": "above", "over": "above", "higher": "above",
    "below": "below", "under": "below", "lower": "below",
}  # fmt: skip


def parse(text: str) -> Scene:
    """Reads a caption back: the naive inverse of the wording."""
    groups, relation = [], None
    count, size, colour = 1, "", ""
    words = text.replace(".", " ").replace(",", " ").split()
    for place, word in enumerate(words):
        singular = "cross" if word == "crosses" else word.removesuffix("s") if word not in SHAPES else word
        if singular in SHAPES and colour:
            groups.append(Group(count, size, colour, singular))
            count, size, colour = 1, "", ""
        elif word in SIZE_WORDS:
            size = SIZE_WORDS[word]
        elif word in COLOURS:
            colour = word
        elif (
            word in NUMBERS
            and words[place + 1 : place + 2]
            and words[place + 1] not in ("picture", "drawing")
        ):
            count = NUMBERS[word]
        elif word in RELATION_WORDS and relation is None:
            relation = RELATION_WORDS[word]
        elif word in ("top", "bottom") and relation is None:
            relation = {"top": "above", "bottom": "below"}[word]
    return Scene(tuple(groups), relation)


def mirrored(scene: Scene) -> Scene:
    assert scene.relation is not None
    return Scene(scene.groups[::-1], RELATIONS[scene.relation])


def scenes(n=300, split="train"):
    data = Shapes(split, images=n)
    return [data.scene(i) for i in range(n)]


def test_examples_are_pure_functions_of_seed_split_and_number():
    digest = hashlib.sha256()
    for split in ("train", "val", "test"):
        example = Shapes(split, images=3)[2]
        again = Shapes(split, images=7)[2]
        assert example.image.tobytes() == again.image.tobytes()
        assert (example.captions, example.rewritten) == (again.captions, again.rewritten)
        digest.update(repr((example.scene, example.captions, example.rewritten)).encode())
        assert Shapes(split, seed=1)[2].image.tobytes() != example.image.tobytes()
    # Written down, so that no version of Python or of this code makes another set unnoticed.
    assert digest.hexdigest()[:16] == "73e983a0eb52f173"
    with pytest.raises(IndexError):
        Shapes("train", images=3)[3]


def test_a_quarter_of_the_combinations_is_held_out_evenly():
    out = [(shape, colour) for shape in SHAPES for colour in COLOURS if held_out(shape, colour)]
    assert len(out) == 16
    assert set(Counter(shape for shape, _ in out).values()) == {2}
    assert set(Counter(colour for _, colour in out).values()) == {2}
    for split in ("train", "val", "test"):
        seen = {(g.shape, g.colour) for scene in scenes(400, split) for g in scene.groups}
        assert all(held_out(*kind) == (split == "test") for kind in seen)
        assert len(seen) == (16 if split == "test" else 48)


def test_scenes_hold_one_to_four_shapes_of_one_or_two_kinds():
    found = scenes(600)
    assert {scene.total for scene in found} == {1, 2, 3, 4}
    assert {len(scene.groups) for scene in found} == {1, 2}
    assert {scene.relation for scene in found} == {None, *RELATIONS}
    for scene in found:
        assert (scene.relation is None) == (len(scene.groups) == 1)
        assert len({(g.colour, g.shape) for g in scene.groups}) == len(scene.groups)


def test_shapes_stand_apart_and_as_the_relation_says():
    for n, scene in enumerate(scenes(200)):
        places = _placed(scene, Dice("test", n))
        assert Counter(id(group) for group, _, _ in places) == {id(g): g.count for g in scene.groups}
        for i, (_, (x, y), r) in enumerate(places):
            assert r < x < 1 - r
            assert r < y < 1 - r
            for _, (u, v), s in places[:i]:
                assert ((x - u) ** 2 + (y - v) ** 2) ** 0.5 > r + s
        if scene.relation is not None:
            axis = 0 if scene.relation in ("left of", "right of") else 1
            first, second = ([p[axis] for g, p, _ in places if g is group] for group in scene.groups)
            if scene.relation in ("left of", "above"):
                assert max(first) < min(second)
            else:
                assert min(first) > max(second)


def test_every_wording_says_what_is_in_the_scene():
    for n, scene in enumerate(scenes(300)):
        assert parse(caption(scene)) == scene
        dice = Dice("words", n)
        *full, brief = captions(scene, dice)
        long = rewritten(scene, dice)
        for text in (*full, long):
            said = parse(text)
            assert said == scene or said == mirrored(scene), (text, scene)
        said = parse(brief)
        assert said.relation is None
        want = Counter((g.count, g.colour, g.shape) for g in scene.groups)
        assert Counter((g.count, g.colour, g.shape) for g in said.groups) == want
        assert {g.size for g in said.groups} == {""}
        assert len(long) > max(map(len, full)) or scene.relation is None


def test_colours_and_sizes_are_in_the_picture():
    for name, value in COLOURS.items():
        for size in SIZES:
            scene = Scene((Group(1, size, name, "square"),))
            image = draw(scene, Dice("x", name, size), 64)
            pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(-1, 3).float()
            near = (pixels - torch.tensor(value)).abs().amax(dim=1) <= 14
            low, high = ((1.7 * 64 * r) ** 2 for r in SIZES[size])
            assert 0.6 * low <= int(near.sum()) <= 1.1 * high, (name, size)


def test_pictures_of_any_size_show_the_same():
    data = [Shapes("val", images=1, size=size)[0].image for size in (32, 64, 128)]
    assert [image.size for image in data] == [(32, 32), (64, 64), (128, 128)]
    small, middle, large = (image.resize((16, 16), Image.Resampling.BOX) for image in data)
    for other in (small, large):
        a, b = (torch.frombuffer(bytearray(i.tobytes()), dtype=torch.uint8).float() for i in (middle, other))
        assert (a - b).abs().mean() < 3


def test_questions_differ_in_exactly_one_attribute():
    kinds = Counter()
    for scene in scenes(200, "test"):
        for question in questions(scene):
            kinds[question.attribute] += 1
            right, *wrong = map(parse, question.candidates)
            assert right == scene
            assert len(set(question.candidates)) == len(question.candidates) >= 2
            for other in wrong:
                differences = {
                    name
                    for a, b in zip(right.groups, other.groups, strict=True)
                    for name in ("count", "size", "colour", "shape")
                    if getattr(a, name) != getattr(b, name)
                } | ({"relation"} if right.relation != other.relation else set())
                assert differences == {question.attribute}
                assert other.total <= 4
    assert set(kinds) == set(ATTRIBUTES)
    alone = questions(Scene((Group(1, "small", "red", "circle"),)))
    assert [(q.attribute, len(q.candidates)) for q in alone] == [
        ("colour", 8), ("shape", 8), ("size", 2), ("count", 4),
    ]  # fmt: skip


def vector(text: str, blind: str = "") -> list[float]:
    """A caption's attributes as numbers: an ideal text encoder, perhaps blind to one attribute."""
    scene = parse(text)
    parts = []
    for group in (*scene.groups, Group(0, "", "", ""))[:2]:
        for name, known in (("count", range(5)), ("size", SIZES), ("colour", COLOURS), ("shape", SHAPES)):
            value = getattr(group, name)
            parts += [float(value == k and name != blind) for k in known]
    return [*parts, *(float(scene.relation == k and blind != "relation") for k in RELATIONS), 1.0]


def perfect(blind: str, split: str, n: int):
    data = Shapes(split, images=n)
    answers = {data[i].image.tobytes(): caption(data.scene(i)) for i in range(n)}
    return (
        lambda images: torch.tensor([vector(answers[image.tobytes()]) for image in images]),
        lambda texts: torch.tensor([vector(text, blind) for text in texts]),
    )


def test_protocol_on_planted_encoders():
    found = evaluate_shapes(*perfect("", "test", 60), images=60)
    assert {found[name] for name in (*ATTRIBUTES, "overall", "i2t_r1", "t2i_r1")} == {100.0}
    assert found["chance_colour"] == found["chance_shape"] == pytest.approx(12.5)
    assert (found["chance_size"], found["chance_relation"]) == (50.0, 25.0)
    assert 25 <= found["chance_count"] <= 50
    distinct = len({caption(scene) for scene in scenes(60, "test")})
    assert found["retrieval_images"] == distinct <= 60
    for blind in ATTRIBUTES:
        found = evaluate_shapes(*perfect(blind, "val", 40), images=40, split="val")
        assert [name for name in ATTRIBUTES if found[name] < 100] == [blind]
        assert found[blind] == 0, "a tie is no answer"
        assert found["overall"] == pytest.approx(80)


def test_guessing_gives_chance():
    generator = torch.Generator().manual_seed(0)

    def guess(items):
        return torch.randn(len(items), 64, generator=generator)

    found = evaluate_shapes(guess, guess, images=300)
    for name in (*ATTRIBUTES, "overall"):
        assert abs(found[name] - found[f"chance_{name}"]) < 10


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"split": "training"}, "no split 'training'; its splits are train, val, test"),
        ({"images": 0}, "at least one image"),
        ({"size": 8}, "at least 16 pixels"),
    ],
)
def test_what_cannot_be_meant(options, said):
    with pytest.raises(HeadwordError, match=said):
        Shapes(**options)


def test_masks_are_where_the_ink_is():
    data = Shapes("val", images=8, size=64)
    for index in range(len(data)):
        picture = np.array(data.picture(index)).astype(int)
        found = data.masks(index)
        assert [group for group, _ in found] == [g for g in data.scene(index).groups for _ in range(g.count)]
        for group, image in found:
            mask = np.array(image) > 0
            assert 0 < mask.sum() < mask.size / 4
            inside = np.median(picture[mask], axis=0)
            assert abs(inside - COLOURS[group.colour]).max() <= 40, group
