"""Two gloo processes, as torchrun starts them, end where one does: DDP and FSDP2, cached gradients."""

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
import torch.multiprocessing as mp

from headword.files import load_tensors
from headword.training import SuperCLIP, checkpoint
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


def worker(rank: int, folder: str, port: int) -> None:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), GROUP_RANK="0", WORLD_SIZE=str(WORLD),
        LOCAL_WORLD_SIZE=str(WORLD), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
        GLOO_SOCKET_IFNAME="lo", TORCHELASTIC_RUN_ID="test",
    )  # fmt: skip
    torch.set_num_threads(1)
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
