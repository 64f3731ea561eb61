"""Two gloo processes, as torchrun starts them, end where one does: DDP and FSDP2, cached gradients. A task's
losses, gradients and word counts are those of one process with the joint batch."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from headword.files import load_tensors
from headword.training import SuperClassTask, SuperCLIP, SuperCLIPTask, checkpoint
from headword.training.objective import freeze_unreached
from headword.training.run import train
from headword.training.trainer import Evaluator
from support.training import tiny

WORLD = 2
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "ddp, cached": ({}, {"accumulate": 2}),
    "fsdp, cached": ({"sigmoid": True, "vision_layers": 2}, {"accumulate": 2, "strategy": "fsdp"}),
    "ddp, superclass": ({"method": "superclass"}, {}),
    "ddp, coca": ({"model": "tiny-coca"}, {}),
}
"""What both runs have, and what the two processes have besides."""


COCA: dict[str, Any] = {
    "embed_dim": 16,
    "custom_text": True,
    "vision_cfg": {
        "image_size": 32, "patch_size": 16, "layers": 1, "width": 32, "head_width": 16,
        "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True,
    },
    "text_cfg": {
        "context_length": 15, "vocab_size": 49408, "layers": 1, "width": 32, "heads": 2,
        "embed_cls": True, "output_tokens": True,
    },
    "multimodal_cfg": {"context_length": 15, "vocab_size": 49408, "layers": 1, "width": 32, "heads": 2},
}  # fmt: skip


def know_coca(folder: Path) -> None:
    """Tell open_clip of a CoCa that is small."""
    file = folder / "tiny-coca.json"
    file.write_text(json.dumps(COCA))
    open_clip.add_model_config(file)


def run(case: str, out: Path, *, joint: bool) -> None:
    shared, besides = CASES[case]
    options = {"steps": 4, "checkpoint_every": 2, "keep_last": 2, **shared, **({} if joint else besides)}
    result = train(tiny(**options), out, evaluators={"all": Evaluator(("scale",), logit_scale)})
    if not joint and case.startswith("fsdp"):  # once more from the middle, sharded again
        train(tiny(**options), out.with_name("again"), resume=checkpoint.folder_of(out, 2))
    assert (result.model is None) == (os.environ.get("RANK", "0") != "0")
    assert ("text_decoder" in result.frozen) == (case == "ddp, coca")


def logit_scale(model: SuperCLIP) -> dict[str, float]:
    return {"scale": model.clip.logit_scale.item()}


TASKS: dict[str, dict[str, Any]] = {
    "clip": {},
    "siglip": {"bias": -10.0},
    "reference counting": {"loss": {"reference_counting": True}},
    "superclass": {"task": SuperClassTask},
}
PAIRS = 6
WORDS = ("a", "red", "blue", "boat", "dog", "on", "the", "lake", "and", "two", "rain", "!")


def build_small(case: str) -> SuperCLIP:
    torch.manual_seed(0)
    text = {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    vision = {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8}
    clip = CLIP(embed_dim=8, vision_cfg=vision, text_cfg=text, init_logit_bias=TASKS[case].get("bias"))
    return SuperCLIP(clip, SimpleTokenizer(context_length=12))


def joint_batch(step: int) -> tuple[Tensor, list[str]]:
    g = torch.Generator().manual_seed(10 + step)
    images = torch.randn(PAIRS, 3, 16, 16, generator=g)
    picks = torch.randint(0, len(WORDS), (PAIRS, 6), generator=g)
    captions = [" ".join(WORDS[i] for i in row[: 1 + n]) for n, row in enumerate(picks.tolist())]
    captions[1] = ""
    return images, captions


def descend(case: str, rank: int, world: int) -> dict[str, Any]:
    """A few steps of gradient descent on this rank's share of the joint batches."""
    model = build_small(case)
    task = TASKS[case].get("task", SuperCLIPTask)(model, **TASKS[case].get("loss", {}))
    freeze_unreached(task)
    wrapped = DistributedDataParallel(task) if world > 1 else task
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    values, gradients = [], []
    for step in range(2):
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


def worker(rank: int, folder: str, port: int) -> None:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), GROUP_RANK="0", WORLD_SIZE=str(WORLD),
        LOCAL_WORLD_SIZE=str(WORLD), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
        GLOO_SOCKET_IFNAME="lo", TORCHELASTIC_RUN_ID="test",
    )  # fmt: skip
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    torch.save({case: descend(case, rank, WORLD) for case in TASKS}, f"{folder}/tasks{rank}.pt")
    (own := Path(folder) / f"rank{rank}").mkdir()
    know_coca(own)
    for case in CASES:
        run(case, Path(folder) / case / "two", joint=False)
    interrupted(rank, Path(folder) / "interrupted")


def interrupted(rank: int, out: Path) -> None:
    """A signal to the second process alone: both end with the same step, one speaks, and go on."""

    def signalled(model: SuperCLIP) -> dict[str, float]:  # in the first process, while the second waits
        os.kill(int((out.parent / "pid").read_text()), signal.SIGTERM)
        return {"nothing": 0.0}

    if rank == 1:
        (out.parent / "pid").write_text(str(os.getpid()))
    config = tiny(steps=8, checkpoint_every=100, eval_every=3)
    evaluators = {"a": Evaluator(("nothing",), signalled)}
    with pytest.raises(SystemExit if rank else KeyboardInterrupt) as ended:
        train(config, out, evaluators=evaluators)
    if rank == 0:
        assert "step 5 is kept; go on with: torchrun --nproc-per-node 2 -m headword train" in str(ended.value)
    assert checkpoint.steps_of(out) == [3, 5]
    train(config, out, resume="auto")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(worker, args=(str(folder), port), nprocs=WORLD)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_two_processes_end_where_one_does(case: str, two: Path) -> None:
    one = two / case / "one"
    know_coca(two)
    run(case, one, joint=True)
    assert_same(checkpoint.folder_of(two / case / "two", 4), checkpoint.folder_of(one, 4))
    mine, wanted = (
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (two / case / "two", one)
    )
    assert [line["step"] for line in mine] == [line["step"] for line in wanted]
    for line, other in zip(mine, wanted, strict=True):
        for name in {"loss", "contrastive", "token", "grad_norm", "n_empty", "all/scale"} & line.keys():
            assert line[name] == pytest.approx(other[name], rel=1e-4), name


def test_processes_that_one_signal_stopped_go_on_to_the_same_end(two: Path) -> None:
    train(tiny(steps=8), two / "uninterrupted")
    assert_same(checkpoint.folder_of(two / "interrupted", 8), checkpoint.folder_of(two / "uninterrupted", 8))


def test_shards_are_restored_from_a_checkpoint(two: Path) -> None:
    case = two / "fsdp, cached"
    again, through = (checkpoint.folder_of(case / name, 4) for name in ("again", "two"))
    for file in (checkpoint.MODEL, checkpoint.OPTIMIZER):
        mine, wanted = load_tensors(again / file), load_tensors(through / file)
        for name, tensor in wanted.items():
            assert torch.equal(mine[name], tensor), name


def assert_same(folder: Path, other: Path) -> None:
    """Equal but for rounding: AdamW divides small gradients by small ones."""
    for file, tolerance in ((checkpoint.MODEL, 1e-3), (checkpoint.OPTIMIZER, 1e-4)):
        mine, wanted = load_tensors(folder / file), load_tensors(other / file)
        assert mine.keys() == wanted.keys()
        for name, tensor in wanted.items():
            value = mine[name].reshape(tensor.shape)
            if tensor.is_floating_point():
                assert (value - tensor).norm() <= tolerance * tensor.norm() + 1e-7, name
            else:
                assert torch.equal(value, tensor), name


@pytest.mark.parametrize("case", TASKS)
def test_two_ranks_equal_one_process_with_the_joint_batch(case: str, two: Path) -> None:
    joint = descend(case, 0, 1)
    each = [torch.load(two / f"tasks{rank}.pt")[case] for rank in range(WORLD)]
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
