"""Two gloo processes equal one process with the joint batch: losses, gradients, word counts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from headword.training import SuperClassTask, SuperCLIP, SuperCLIPTask
from headword.training.objective import freeze_unreached

WORLD, LOCAL, STEPS = 2, 3, 2
CASES: dict[str, dict[str, Any]] = {
    "clip": {},
    "siglip": {"bias": -10.0},
    "reference counting": {"loss": {"reference_counting": True}},
    "superclass": {"task": SuperClassTask},
}
WORDS = ("a", "red", "blue", "boat", "dog", "on", "the", "lake", "and", "two", "rain", "!")


def build(case: str) -> SuperCLIP:
    torch.manual_seed(0)
    text = {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    vision = {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8}
    clip = CLIP(embed_dim=8, vision_cfg=vision, text_cfg=text, init_logit_bias=CASES[case].get("bias"))
    return SuperCLIP(clip, SimpleTokenizer(context_length=12))


def joint_batch(step: int) -> tuple[Tensor, list[str]]:
    g = torch.Generator().manual_seed(10 + step)
    images = torch.randn(WORLD * LOCAL, 3, 16, 16, generator=g)
    picks = torch.randint(0, len(WORDS), (WORLD * LOCAL, 6), generator=g)
    captions = [" ".join(WORDS[i] for i in row[: 1 + n]) for n, row in enumerate(picks.tolist())]
    captions[1] = ""
    return images, captions


def train(case: str, rank: int, world: int) -> dict[str, Any]:
    """A few steps of gradient descent on this rank's share of the joint batches."""
    model = build(case)
    task = CASES[case].get("task", SuperCLIPTask)(model, **CASES[case].get("loss", {}))
    freeze_unreached(task)
    wrapped = DistributedDataParallel(task) if world > 1 else task
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    values, gradients = [], []
    for step in range(STEPS):
        images, captions = joint_batch(step)
        mine = slice(rank * len(images) // world, (rank + 1) * len(images) // world)
        texts = model.tokenize(captions[mine]).ids
        losses = wrapped(task.training_forward, {"images": images[mine], "texts": texts})
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        zero = torch.zeros(())
        values.append([losses.get(name, zero).item() for name in ("contrastive", "token", "n_empty")])
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    return {"losses": torch.tensor(values), "gradients": gradients, "counts": task.loss.state_dict()}


def worker(rank: int, folder: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD)
    torch.save({case: train(case, rank, WORLD) for case in CASES}, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(worker, args=(str(folder),), nprocs=WORLD)
    return [torch.load(Path(folder) / f"rank{rank}.pt") for rank in range(WORLD)]


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_equal_one_process_with_the_joint_batch(case: str, ranks: list[dict[str, Any]]) -> None:
    joint = train(case, 0, 1)
    each = [rank[case] for rank in ranks]
    losses = torch.stack([r["losses"] for r in each])
    assert torch.allclose(losses.mean(dim=0)[:, :2], joint["losses"][:, :2], atol=1e-5)
    assert torch.equal(losses.sum(dim=0)[:, 2], joint["losses"][:, 2])
    for rank in each:
        for name, count in joint["counts"].items():
            assert torch.allclose(rank["counts"][name], count, atol=1e-6), name
            assert count.any()
        for mine, want in zip(rank["gradients"], joint["gradients"], strict=True):
            assert mine.keys() == want.keys()
            for name, gradient in want.items():
                difference = (mine[name] - gradient).norm()
                assert difference <= 1e-4 * gradient.norm() + 1e-7, (name, difference, gradient.norm())
