"""`headword train`: captioned images → a CLIP or SuperCLIP model."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Option

from headword.cli import options
from headword.cli.app import command
from headword.cli.common import Output, quoted
from headword.errors import HeadwordError

if TYPE_CHECKING:
    from headword.training.run import TrainResult


@command("train --data shapes --out run", "train --data pairs.jsonl --epochs 5 --out run --resume auto")
def train(
    output: Output,
    out: Annotated[
        Path,
        Option(
            "--out",
            "-o",
            help="The run's folder; the model is in its model/. With --export, the model's folder.",
        ),
    ],
    data: Annotated[
        str | None,
        Option(
            help="shapes[:images=N,size=N], a caption file (.jsonl, .csv, .json), wds:SHARDS, or a folder of "
            "class folders.  [default: shapes]"
        ),
    ] = None,
    config: Annotated[
        Path | None, Option(help="A YAML file of options, such as a run's config.yaml.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        Option("--set", metavar="KEY=VALUE", help="Any option (docs/training.md); may be repeated."),
    ] = None,
    method: Annotated[
        Literal["superclip", "clip", "superclass"] | None, Option(help="Which losses.  [default: superclip]")
    ] = None,
    model: Annotated[
        str | None, Option(help="small, timm:NAME, or an architecture of open_clip's.  [default: small]")
    ] = None,
    backbone: Annotated[
        str | None, Option(help="A trained timm classifier, or a saved model, to become the image tower.")
    ] = None,
    image_size: Annotated[int | None, Option(help="Side of the images in pixels.")] = None,
    steps: Annotated[int | None, Option(help="Optimiser steps.  [default: 1500]")] = None,
    epochs: Annotated[int | None, Option(help="Passes over the data, in place of --steps.")] = None,
    batch_size: Annotated[int | None, Option(help="Pairs a step.  [default: 64]")] = None,
    accumulate: Annotated[
        int | None, Option(help="Pieces a batch is computed in, to save memory.  [default: 1]")
    ] = None,
    lr: Annotated[float | None, Option(help="Highest learning rate.  [default: 0.001]")] = None,
    workers: Annotated[int | None, Option(help="Processes that decode images.  [default: 0]")] = None,
    eval_data: Annotated[
        str | None, Option(help="A caption file or class folders to measure on as it goes.")
    ] = None,
    seed: Annotated[int | None, Option(help="Seed of what is random.  [default: 0]")] = None,
    device: Annotated[
        options.DeviceName | None, options.common_option(help="Where to compute.  [default: auto]")
    ] = None,
    dtype: Annotated[
        options.DtypeName | None, options.common_option(help="Precision of the towers.  [default: auto]")
    ] = None,
    wandb: Annotated[str | None, Option(help="Log to this Weights & Biases project, too.")] = None,
    resume: Annotated[
        str | None,
        Option(
            metavar="auto|FOLDER",
            help="Go on from the last checkpoint in --out, or from one; options are the run's where none are "
            "given.",
        ),
    ] = None,
    export: Annotated[
        Path | None,
        Option(
            metavar="RUN|CHECKPOINT",
            help="Train nothing: make a run's last checkpoint, or RUN/checkpoints/step-…, a model at --out.",
        ),
    ] = None,
    keep_token_head: Annotated[
        bool,
        Option(
            "--keep-token-head",
            help="Keep the token head beside the model, to recycle its words: headword recycle --vision "
            "RUN/model --head tokens.",
        ),
    ] = False,
    overwrite: Annotated[
        bool, Option("--overwrite", help="Replace a run (with --export, a model) at --out.")
    ] = False,
) -> None:
    """Train a CLIP or SuperCLIP model.

    In several processes: torchrun --nproc-per-node N -m headword train, and its options.
    """
    flags: dict[str, Any] = {
        "data": data, "method": method, "model": model, "backbone": backbone,
        "image_size": image_size, "steps": steps, "epochs": epochs, "batch_size": batch_size,
        "accumulate": accumulate, "lr": lr, "workers": workers, "eval_data": eval_data, "seed": seed,
        "device": device, "dtype": dtype, "wandb": wandb,
    }  # fmt: skip
    if export is not None:
        others = {**flags, "config": config, "set": set_, "resume": resume}
        for name in (name.replace("_", "-") for name, value in others.items() if value):
            raise HeadwordError(f"--export trains nothing, so --{name} does not go with it; leave one out")
        _export(output, export, out, overwrite, keep_token_head)
        return
    from headword.training.checkpoint import going_on, options_of
    from headword.training.config import TrainConfig
    from headword.training.export import save_trained

    if config is None and resume is not None:
        config = options_of(out, resume)
    settings = TrainConfig.from_sources(config, set_ or (), **flags, keep_token_head=keep_token_head or None)
    from headword.training.in_training import is_shapes, measure_shapes, training_evaluators
    from headword.training.run import train as run

    evaluators = training_evaluators(settings, say=output.say)
    watch = None if output.quiet else lambda record: output.say(_line(record))
    result = run(
        settings, out, evaluators=evaluators, resume=resume, overwrite=overwrite, watch=watch, say=output.say
    )
    if result.model is None:  # a process beside the first
        return
    try:
        metrics = dict(result.metrics)
        if is_shapes(settings.data):
            held_out = measure_shapes(result.model, split="test")
            metrics |= {f"held_out/{name}": value for name, value in held_out.items()}
        provenance = {
            "config": settings.as_dict(),
            "steps": result.steps,
            "data_fingerprint": result.data_fingerprint,
            "metrics": metrics,
        }
        save_trained(
            result.model, result.blueprint, result.folder / "model", provenance=provenance,
            keep_token_head=settings.keep_token_head, token_counts=result.token_counts, overwrite=True,
        )  # fmt: skip
    except KeyboardInterrupt:
        raise KeyboardInterrupt(going_on(result.folder)) from None
    output.facts(f"Trained into {out}", _facts(result, metrics))
    output.next_step(_use(out / "model", settings.data))
    output.result(
        model={"architecture": result.blueprint.model_cfg, "frozen": list(result.frozen)},
        protocol={"config": settings.as_dict(), "data_fingerprint": result.data_fingerprint},
        metrics={**metrics, "images_per_second": result.images_per_second},
        seed=settings.seed,
        resumed_from=result.resumed_from,
        corrupt=result.corrupt,
        out=str(out),
    )


def _export(output: Output, export: Path, out: Path, overwrite: bool, keep_token_head: bool) -> None:
    from headword.training.checkpoint import checkpoint_at
    from headword.training.export import export_checkpoint

    source = checkpoint_at(export)
    training = export_checkpoint(source, out, keep_token_head=keep_token_head, overwrite=overwrite)
    output.say(f"Step {training['steps']:,} of {source.parent.parent} is a model now: {out}")
    output.next_step(_use(out, training["config"]["data"]))
    output.result(
        model={"path": str(out)},
        protocol={"config": training["config"], "data_fingerprint": training["data_fingerprint"]},
        metrics=training["metrics"],
        seed=training["config"]["seed"],
        exported_from=str(source),
        out=str(out),
    )


def _use(model: Path, data: str) -> str:
    shapes = data.partition(":")[0] == "shapes"
    labels = "a red circle,two blue stars" if shapes else "one thing,another thing"
    return f'headword classify {quoted(model)} IMAGE --labels "{labels}"'


def _facts(result: TrainResult, metrics: Mapping[str, float]) -> list[tuple[str, str]]:
    facts = [("steps", f"{result.steps:,}")]
    if result.resumed_from:
        facts.append(("resumed after step", f"{result.resumed_from:,}"))
    facts.append(("speed", f"{result.images_per_second:,.0f} images/s"))
    if result.corrupt:
        facts.append(("unreadable samples replaced", f"{result.corrupt:,}"))
    facts += [(name, f"{value:.1f} %") for name, value in metrics.items()]
    if result.best is not None:
        facts.append(("best", f"{result.best.metric} {result.best.value:.1f} % at step {result.best.step:,}"))
    return facts


def _line(record: Mapping[str, float]) -> str:
    """A record for a terminal of 80 columns."""
    step = f"step {int(record['step']):>7,}"
    if "loss" in record:
        return (
            f"{step}  loss {record['loss']:.3f} (contrastive {record['contrastive']:.3f}, token "
            f"{record['token']:.3f})  lr {record['lr']:.1e}  {record['images_per_second']:,.0f}/s"
        )
    measured = [f"{name}\xa0{value:.1f}\xa0%" for name, value in record.items() if name != "step"]
    indent = " " * len(f"{step}  ")
    return textwrap.fill(
        "  ".join(measured), 79, initial_indent=f"{step}  ", subsequent_indent=indent, break_on_hyphens=False
    ).replace("\xa0", " ")
