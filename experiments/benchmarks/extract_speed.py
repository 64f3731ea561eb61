"""Images a second: the loop a user would write, `image_features`, and the engine on batches that are in
memory.

The arms of a round follow each other, so that what else runs on the machine slows all of them, and ratios are
taken within rounds. With --photos the same for photographs of 2,000 pixels: reduced against full decoding.

Run: OMP_WAIT_POLICY=passive python -m experiments extract-speed [--images 2000] [--rounds 5] [--photos 64]
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from experiments.benchmarks.common import data_root, write
from headword.data.images import load_image
from headword.data.items import Item, file_item
from headword.encoders import VisionEncoder, load_vision
from headword.extract import image_features
from headword.extract.decode import Batch, Decoding, decoded
from headword.extract.engines import open_engine
from headword.extract.job import Job
from headword.extract.machine import available_cpus


class Files(Dataset[Tensor]):
    """What a user writes: open, convert, transform."""

    def __init__(self, paths: Sequence[Path], transform: Callable[[Image.Image], Tensor]) -> None:
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        return self.transform(Image.open(self.paths[index]).convert("RGB"))


def plain_loop(vision: VisionEncoder, paths: Sequence[Path]) -> Tensor:
    """timm in float32 as it comes, a DataLoader with batches of 32 and 2 workers."""
    import timm

    model: Any = timm.create_model("tf_efficientnet_lite0").eval()
    model.load_state_dict(vision.source.model.state_dict())
    loader = DataLoader(Files(paths, vision.source.transform), batch_size=32, num_workers=2)
    with torch.no_grad():
        return torch.cat(
            [model.forward_head(model.forward_features(batch), pre_logits=True) for batch in loader]
        )


def in_memory(vision: VisionEncoder, paths: Sequence[Path], engine: str) -> Callable[[], list[Tensor]]:
    """The chosen engine on decoded batches, which are all in memory."""
    job = Job.of(vision, len(paths), engine=engine)
    items = [file_item(path) for path in paths]
    decoding = Decoding(job.plan, vision.source.transform, job.draft)
    batches = [b.pixels for b in decoded(items, decoding, batch_size=32, workers=available_cpus())]
    opened, note = open_engine(vision, job.choice, job.plan, batches[0])
    print(f"engine {opened.choice}, {note or 'as chosen'}")
    return lambda: list(opened.features(batches))


def timed(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def small_images(vision: VisionEncoder, paths: Sequence[Path], rounds: int, engine: str) -> dict[str, Any]:
    """Figure 1."""
    first = timed(lambda: image_features(vision, paths[:64], cache=False, engine=engine))
    memory = in_memory(vision, paths, engine)
    ours = partial(image_features, vision, paths, cache=False, engine=engine)
    memory()
    features = ours()
    seconds: dict[str, list[float]] = {"plain": [], "headword": [], "memory": []}
    for _ in range(rounds):
        seconds["headword"].append(timed(ours))
        seconds["memory"].append(timed(memory))
        start = time.perf_counter()
        plain = plain_loop(vision, paths)
        seconds["plain"].append(time.perf_counter() - start)
        # A second time after the slow arm: what changes meanwhile is averaged out of the ratio.
        seconds["memory"][-1] = (seconds["memory"][-1] + timed(memory)) / 2
        seconds["headword"][-1] = (seconds["headword"][-1] + timed(ours)) / 2
        print({arm: round(len(paths) / values[-1], 1) for arm, values in seconds.items()}, flush=True)
    rate = {arm: [len(paths) / value for value in values] for arm, values in seconds.items()}
    return {
        "images": len(paths),
        "images_per_second": {arm: statistics.median(values) for arm, values in rate.items()},
        "images_per_second_all": rate,
        "headword_over_plain": statistics.median(map(float.__truediv__, rate["headword"], rate["plain"])),
        "headword_over_memory": statistics.median(map(float.__truediv__, rate["headword"], rate["memory"])),
        "cosine_to_plain": float(torch.cosine_similarity(features, plain).mean()),
        "start_of_engine_seconds": first,
    }


def photos_of(paths: Sequence[Path], folder: Path, grain: float) -> list[Path]:
    """Enlarged to 2,000 pixels, with the grain of a sensor, as JPEG files of quality 90."""
    made = []
    for number, path in enumerate(paths):
        image = load_image(path).resize((2000, 2000), Image.Resampling.LANCZOS)
        noise = np.random.default_rng(number).normal(0, grain, (2000, 2000, 3))
        pixels = (np.asarray(image) + noise).clip(0, 255).astype(np.uint8)
        made.append(folder / f"{number}.jpg")
        Image.fromarray(pixels).save(made[-1], quality=90)
    return made


def all_decoded(items: Sequence[Item], decoding: Decoding) -> list[Batch]:
    return list(decoded(items, decoding, batch_size=32, workers=available_cpus()))


def all_features(job: Job, items: Sequence[Item]) -> Tensor:
    return torch.cat([computed.features for computed in job.run(items)])


def large_photos(vision: VisionEncoder, paths: Sequence[Path], rounds: int, engine: str) -> dict[str, Any]:
    """Figure 2."""
    result: dict[str, Any] = {"photos": len(paths)}
    for name, grain in (("smooth", 0.0), ("grain", 4.0)):
        with tempfile.TemporaryDirectory() as folder:
            photos = [file_item(path) for path in photos_of(paths, Path(folder), grain)]
            arms: dict[str, Callable[[], Any]] = {}
            features: dict[str, Tensor] = {}
            for arm in ("draft", "full"):
                job = Job.of(vision, 10_000, engine=engine, draft=arm == "draft")
                decoding = Decoding(job.plan, vision.source.transform, job.draft)
                arms[f"decode_{arm}"] = partial(all_decoded, photos, decoding)
                arms[f"embed_{arm}"] = partial(all_features, job, photos)
                features[arm] = arms[f"embed_{arm}"]()
            whole = Decoding(None, vision.source.transform, False)
            arms["decode_timm"] = partial(all_decoded, photos, whole)
            seconds = {arm: [timed(run) for _ in range(1)] for arm, run in arms.items()}
            for _ in range(rounds - 1):
                for arm, run in arms.items():
                    seconds[arm].append(timed(run))
            rate = {
                arm: statistics.median(len(photos) / value for value in values)
                for arm, values in seconds.items()
            }

            def ratio(one: str, other: str, seconds: dict[str, list[float]] = seconds) -> float:
                return statistics.median(map(float.__truediv__, seconds[other], seconds[one]))

            result[name] = {
                "grain": grain,
                "megabytes": sum(Path(item.file or "").stat().st_size for item in photos) / len(photos) / 1e6,
                "images_per_second": rate,
                "decode_draft_over_full": ratio("decode_draft", "decode_full"),
                "decode_draft_over_timm": ratio("decode_draft", "decode_timm"),
                "embed_draft_over_full": ratio("embed_draft", "embed_full"),
                "cosine_mean": float(torch.cosine_similarity(features["draft"], features["full"]).mean()),
                "cosine_min": float(torch.cosine_similarity(features["draft"], features["full"]).min()),
            }
            print(name, result[name], flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--photos", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--engine", default="auto")
    given = parser.parse_args()
    vision = load_vision("embedded", device="cpu")
    paths = sorted((data_root() / "flickr8k" / "images").iterdir())[: given.images]
    for path in paths:  # from memory, not from the disk
        path.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HEADWORD_CACHE"] = folder
        result = {"engine": given.engine, "small": small_images(vision, paths, given.rounds, given.engine)}
        if given.photos:
            spread = paths[:: max(1, len(paths) // given.photos)][: given.photos]
            result["large"] = large_photos(vision, spread, given.rounds, given.engine)
    write("extract_speed" if given.engine == "auto" else f"extract_speed_{given.engine}", result)


if __name__ == "__main__":
    main()
