"""Batches are a function of (seed, epoch, step); broken samples are replaced, counted, and not too many."""

from __future__ import annotations

import hashlib
from itertools import pairwise

import pytest
import torch
import torchvision.transforms.functional as tvf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode

from headword.errors import HeadwordError
from headword.training.data import Batches, Sample, TrainTransform
from headword.training.data import batches as module
from headword.training.data.batches import epoch_order


class Numbers:
    """N samples; sample i has the shade i, captions that say i, and perhaps is broken."""

    def __init__(self, n: int, broken=(), blocks=None) -> None:
        self.n, self.broken = n, frozenset(broken)
        self.read: list[int] = []
        if blocks is not None:
            self.blocks = blocks

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(str(self.n).encode()).hexdigest()

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Sample:
        self.read.append(index)
        if index in self.broken:
            raise HeadwordError(f"sample {index} is broken")
        words = (f"{index} a", f"{index} b")
        return Sample(Image.new("RGB", (4, 4), (index, 0, 0)), words, (f"{index} long",), str(index))


def transform(image, generator):
    """Shade and a random number of the sample's own."""
    noise = torch.rand((), generator=generator)
    return torch.tensor([image.getpixel((0, 0))[0], float(noise), 0.0]).view(3, 1, 1)


def tokenize(captions):
    return torch.tensor([[int(caption.split()[0]), ord(caption.split()[1][0])] for caption in captions])


def loader(data, **options) -> Batches:
    return Batches(data, transform=transform, tokenize=tokenize, **{"batch_size": 4, "seed": 5, **options})


def same(left, right) -> bool:
    return (
        torch.equal(left.images, right.images)
        and torch.equal(left.texts, right.texts)
        and (left.ids, left.captions) == (right.ids, right.captions)
    )


def all_same(left, right) -> bool:
    return all(same(a, b) for a, b in zip(left, right, strict=True))


def test_an_epoch_shows_each_sample_once_with_its_own_caption():
    data = Numbers(18)
    batches = loader(data)
    assert batches.steps_per_epoch == 4
    shown = list(batches.epoch(0))
    ids = [int(i) for batch in shown for i in batch.ids]
    assert len(set(ids)) == 16, "the last partial batch is left out"
    for batch in shown:
        assert batch.images[:, 0, 0, 0].tolist() == batch.texts[:, 0].tolist() == list(map(int, batch.ids))
    assert set(shown[0].texts[:, 1].tolist()) <= {ord("a"), ord("b")}
    assert {c.split()[1] for batch in shown for c in batch.captions} == {"a", "b"}
    other = [int(i) for batch in batches.epoch(1) for i in batch.ids]
    assert other != ids
    assert not all_same(shown, list(loader(data, seed=6).epoch(0)))


def test_any_step_is_reached_without_reading_what_came_before():
    data = Numbers(40)
    batches = loader(data)
    whole = list(batches.epoch(2))
    data.read.clear()
    assert all_same(list(batches.epoch(2, start=7)), whole[7:])
    assert len(data.read) == 12
    assert list(batches.epoch(2, start=10)) == []
    with pytest.raises(HeadwordError, match="no step 11 in epoch 2; an epoch has 10 steps"):
        next(batches.epoch(2, start=11))


def test_workers_change_nothing_and_outlive_an_epoch_left_early():
    data = Numbers(24, broken=[3])
    alone, helped = loader(data, max_corrupt=0.1), loader(data, max_corrupt=0.1, workers=1)
    first = list(alone.epoch(0))
    early = helped.epoch(0)
    assert same(next(early), first[0])
    early.close()
    assert all_same(list(helped.epoch(1, start=2)), list(alone.epoch(1, start=2)))
    assert all_same(list(helped.epoch(0)), first)
    assert helped.state_dict() == alone.state_dict() == {"corrupt": {"3": "sample 3 is broken"}}


def test_reading_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(loader(Numbers(12)).epoch(0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_the_global_batch_in_order(world):
    joint = list(loader(Numbers(50), batch_size=8).epoch(3))
    ranks = [
        list(loader(Numbers(50), batch_size=8 // world, rank=rank, world_size=world).epoch(3))
        for rank in range(world)
    ]
    for step, batch in enumerate(joint):
        shares = [rank[step] for rank in ranks]
        assert torch.equal(torch.cat([s.images for s in shares]), batch.images)
        assert tuple(i for s in shares for i in s.ids) == batch.ids


def test_rewritten_share():
    data = Numbers(200)
    counts = {}
    for share in (0.0, 0.3, 1.0):
        said = [c for b in loader(data, rewritten_share=share).epoch(0) for c in b.captions]
        counts[share] = sum(caption.endswith("long") for caption in said)
    assert counts[0.0] == 0
    assert counts[1.0] == 200
    assert 35 <= counts[0.3] <= 85


def test_broken_samples_are_replaced_by_the_same_others():
    broken = {2, 7, 11}
    data = Numbers(30, broken)
    batches = loader(data, batch_size=5, max_corrupt=0.1)
    first = list(batches.epoch(0))
    sound = list(loader(Numbers(30), batch_size=5).epoch(0))
    assert all_same(first, list(loader(data, batch_size=5, max_corrupt=0.1).epoch(0)))
    replaced = 0
    for got, want in zip(first, sound, strict=True):
        for a, b in zip(got.ids, want.ids, strict=True):
            replaced += a != b
            assert (a != b) == (int(b) in broken)
    assert replaced == 3
    assert batches.corrupt == 3
    assert batches.corrupt_names == tuple(f"sample {n} is broken" for n in sorted(broken))
    again = loader(data, batch_size=5, max_corrupt=0.1)
    again.load_state_dict(batches.state_dict())
    list(again.epoch(1))
    assert again.state_dict() == batches.state_dict(), "each is counted once"


def test_too_many_broken_samples_stop_training():
    with pytest.raises(HeadwordError, match=r"of 30 training samples are unreadable, more than the 10\.00%"):
        list(loader(Numbers(30, range(4)), max_corrupt=0.1).epoch(0))
    assert len(list(loader(Numbers(30, range(3)), max_corrupt=0.1).epoch(0))) == 7
    with pytest.raises(HeadwordError, match="no readable sample was found in 100 draws"):
        list(loader(Numbers(30, range(30)), max_corrupt=1.0).epoch(0))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch_size": 0}, "batch_size must be positive"),
        ({"rank": 1}, "rank below world_size"),
        ({"workers": -1}, "workers not negative"),
        ({"rewritten_share": 1.5}, "shares from 0 to 1"),
        ({"max_corrupt": -0.1}, "shares from 0 to 1"),
        ({"batch_size": 8, "world_size": 2}, "has 12 samples, fewer than one batch of 16"),
    ],
)
def test_what_cannot_be_meant(options, said):
    with pytest.raises(HeadwordError, match=said):
        loader(Numbers(12), **options)


@given(
    blocks=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    piece=st.integers(1, 10),
    window=st.integers(2, 30),
    epoch=st.integers(0, 3),
)
@settings(max_examples=60, deadline=None)
def test_order_in_blocks_is_a_permutation_that_reads_stretches(blocks, piece, window, epoch):
    data = Numbers(sum(blocks), blocks=blocks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PIECE", piece)
        patch.setattr(module, "WINDOW", window)
        order = epoch_order(data, seed=1, epoch=epoch).tolist()
        again = epoch_order(data, seed=1, epoch=epoch).tolist()
    assert order == again
    assert sorted(order) == list(range(len(data)))
    if len(data) > window:
        for start in range(0, len(order), window):
            part = sorted(order[start : start + window])
            stretches = 1 + sum(b != a + 1 for a, b in pairwise(part))
            assert stretches <= sum(-(-n // piece) for n in blocks)
            if min(blocks) >= piece:  # a window is made of whole pieces, but for its two ends
                assert stretches <= window // piece + 2 + len(blocks)


def test_shards_are_mixed():
    data = Numbers(40_000, blocks=[10_000] * 4)
    order = epoch_order(data, seed=0, epoch=0)
    shards = torch.bincount(order[:64] // 10_000, minlength=4)
    assert (shards > 4).all(), "a batch holds samples of every shard"
    assert sorted(order.tolist()) == list(range(40_000))


@given(
    width=st.integers(3, 90), height=st.integers(3, 90), seed=st.integers(0, 99), least=st.floats(0.05, 1.0)
)
@settings(max_examples=80, deadline=None)
def test_crops_are_torchvisions(width, height, seed, least):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=generator)
    image = Image.fromarray(noise.numpy())
    augment = TrainTransform(size=(10, 12), scale=(least, 1.0), mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 2.0))
    left, top, right, bottom = augment.crop(width, height, torch.Generator().manual_seed(seed))
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    whole = 3 / 4 <= width / height <= 4 / 3
    share = (right - left) * (bottom - top) / (width * height)
    assert share <= 1
    if whole and min(width, height) > 30:
        assert share >= least - 0.1  # rounded to pixels
    made = augment(image, torch.Generator().manual_seed(seed))
    crop = tvf.resized_crop(image, top, left, bottom - top, right - left, [10, 12], InterpolationMode.BICUBIC)
    want = tvf.normalize(tvf.to_tensor(crop), (0.1, 0.2, 0.3), (0.5, 1.0, 2.0))
    assert torch.allclose(made, want, atol=1e-6)


def test_crop_sizes_are_spread_as_torchvisions_are():
    from torchvision.transforms import RandomResizedCrop

    augment = TrainTransform(size=8, scale=(0.3, 1.0))
    boxes = [augment.crop(100, 80, torch.Generator().manual_seed(n)) for n in range(1000)]
    ours = torch.tensor([(r - x) * (b - y) for x, y, r, b in boxes]) / 8000
    torch.manual_seed(0)
    image = Image.new("RGB", (100, 80))
    boxes = [RandomResizedCrop.get_params(image, [0.3, 1.0], [3 / 4, 4 / 3]) for _ in range(1000)]
    theirs = torch.tensor([h * w for _, _, h, w in boxes]) / 8000
    assert abs(ours.mean() - theirs.mean()) < 0.03
    assert abs(ours.std() - theirs.std()) < 0.03


def test_half_are_mirrored():
    image = Image.new("RGB", (2, 1), "black")
    image.putpixel((0, 0), (255, 255, 255))
    mirror = TrainTransform(size=(1, 2), scale=(1.0, 1.0), ratio=(2.0, 2.0), flip=True)
    made = [mirror(image, torch.Generator().manual_seed(n)) for n in range(200)]
    flipped = sum(float(m[0, 0, 0]) < float(m[0, 0, 1]) for m in made)
    assert 70 <= flipped <= 130
    plain = TrainTransform(size=(1, 2), scale=(1.0, 1.0), ratio=(2.0, 2.0))
    assert all(float(plain(image, torch.Generator().manual_seed(n))[0, 0, 0]) > 0 for n in range(20))


@pytest.mark.parametrize(
    "options",
    [
        {"scale": (0.0, 1.0)},
        {"scale": (0.9, 0.5)},
        {"ratio": (0.0, 1.0)},
        {"interpolation": "x"},
        {"size": 0},
    ],
)
def test_augmentation_that_cannot_be_meant(options):
    with pytest.raises(HeadwordError):
        TrainTransform(**{"size": 8, **options})
