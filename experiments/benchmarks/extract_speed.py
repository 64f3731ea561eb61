"""Images a second: a plain loop, `image_features`, and the engine on batches that are in memory.

The arms of a round follow each other, so that what else runs on the machine slows all of them, and ratios are
taken within rounds. Then the same for photographs of 2,000 pixels: reduced against full decoding.

Run it with OMP_WAIT_POLICY=passive.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from experiments.bench import data_root
from experiments.harness import own_cache, seconds
from headword.data.items import Item, file_item
from headword.data.safe_images import load_image
from headword.encoders import VisionEncoder, load_vision
from headword.extract import image_features
from headword.extract.decode import DecodedBatch, Decoding, decoded
from headword.extract.engines import open_engine
from headword.extract.job import Job
from headword.extract.machine import available_cpus

Arms = Mapping[str, Callable[[], Any]]


def run(images: int = 2000, photos: int = 64, rounds: int = 5, engine: str = "auto") -> dict[str, Any]:
    """Time small images, and large photographs where there are to be some."""
    vision = load_vision("embedded", device="cpu")
    paths = sorted((data_root() / "data" / "flickr8k" / "images").iterdir())[:images]
    for path in paths:  # from memory, not from the disk
        path.read_bytes()
    with own_cache():
        result = {"engine": engine, "small": small_images(vision, paths, rounds, engine)}
        if photos:
            spread = paths[:: max(1, len(paths) // photos)][:photos]
            result["large"] = large_photos(vision, spread, rounds, engine)
    return {"file": "extract_speed" + ("" if engine == "auto" else f"_{engine}"), **result}


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
    job = Job(vision, len(paths), engine=engine)
    decoding = Decoding(job.plan, vision.source.transform, job.draft)
    batches = [batch.pixels for batch in all_decoded([file_item(path) for path in paths], decoding)]
    opened, choice, note = open_engine(vision, job.choice, job.plan, batches[0])
    print(f"engine {choice}, {note or 'as chosen'}")
    return lambda: list(opened(batches))


def all_decoded(items: Sequence[Item], decoding: Decoding) -> list[DecodedBatch]:
    """Every batch."""
    return list(decoded(items, decoding, batch_size=32, workers=available_cpus()))


def rates(arms: Arms, count: int, rounds: int) -> dict[str, list[float]]:
    """Items a second of each arm, round by round."""
    times: dict[str, list[float]] = {arm: [] for arm in arms}
    for _ in range(rounds):
        for arm, work in arms.items():
            times[arm].append(count / seconds(work))
        print({arm: round(values[-1], 1) for arm, values in times.items()}, flush=True)
    return times


def times_as_fast(rate: Mapping[str, list[float]], one: str, other: str) -> float:
    """The median over rounds of one arm's rate over another's."""
    return statistics.median(map(float.__truediv__, rate[one], rate[other]))


def small_images(vision: VisionEncoder, paths: Sequence[Path], rounds: int, engine: str) -> dict[str, Any]:
    """Against the plain loop and against memory; the quick arms stand on both sides of the slow one."""
    ours = partial(image_features, vision, paths, cache=False, engine=engine)
    first = seconds(lambda: image_features(vision, paths[:64], cache=False, engine=engine))
    memory = in_memory(vision, paths, engine)
    memory()
    features, plain = ours(), plain_loop(vision, paths)
    arms: Arms = {
        "headword": ours, "memory": memory, "plain": lambda: plain_loop(vision, paths),
        "memory again": memory, "headword again": ours,
    }  # fmt: skip
    rate = rates(arms, len(paths), rounds)
    for arm in ("headword", "memory"):  # what changes meanwhile is averaged out of the ratio
        rate[arm] = [2 / (1 / a + 1 / b) for a, b in zip(rate[arm], rate.pop(f"{arm} again"), strict=True)]
    return {
        "images": len(paths),
        "images_per_second": {arm: statistics.median(values) for arm, values in rate.items()},
        "images_per_second_all": rate,
        "headword_over_plain": times_as_fast(rate, "headword", "plain"),
        "headword_over_memory": times_as_fast(rate, "headword", "memory"),
        "cosine_to_plain": float(torch.cosine_similarity(features, plain).mean()),
        "start_of_engine_seconds": first,
    }


def photos_of(paths: Sequence[Path], folder: Path, grain: float) -> list[Path]:
    """Enlarged to 2,000 pixels, with the grain of a sensor, as JPEG files of quality 90."""
    files = []
    for number, path in enumerate(paths):
        image = load_image(path).resize((2000, 2000), Image.Resampling.LANCZOS)
        noise = np.random.default_rng(number).normal(0, grain, (2000, 2000, 3))
        pixels = (np.asarray(image) + noise).clip(0, 255).astype(np.uint8)
        files.append(folder / f"{number}.jpg")
        Image.fromarray(pixels).save(files[-1], quality=90)
    return files


def large_photos(vision: VisionEncoder, paths: Sequence[Path], rounds: int, engine: str) -> dict[str, Any]:
    """Reduced against full decoding, by itself and with the embedding."""
    result: dict[str, Any] = {"photos": len(paths)}
    for name, grain in (("smooth", 0.0), ("grain", 4.0)):
        with tempfile.TemporaryDirectory() as folder:
            photos = [file_item(path) for path in photos_of(paths, Path(folder), grain)]
            arms: dict[str, Callable[[], Any]] = {}
            features: dict[str, Tensor] = {}
            for arm in ("draft", "full"):
                job = Job(vision, 10_000, engine=engine, draft=arm == "draft")
                decoding = Decoding(job.plan, vision.source.transform, job.draft)
                arms[f"decode_{arm}"] = partial(all_decoded, photos, decoding)
                arms[f"embed_{arm}"] = partial(all_features, job, photos)
                features[arm] = arms[f"embed_{arm}"]()
            whole = Decoding(None, vision.source.transform, False)
            arms["decode_timm"] = partial(all_decoded, photos, whole)
            rate = rates(arms, len(photos), rounds)
            cosine = torch.cosine_similarity(features["draft"], features["full"])
            result[name] = {
                "grain": grain,
                "megabytes": sum(Path(item.file or "").stat().st_size for item in photos) / len(photos) / 1e6,
                "images_per_second": {arm: statistics.median(values) for arm, values in rate.items()},
                "decode_draft_over_full": times_as_fast(rate, "decode_draft", "decode_full"),
                "decode_draft_over_timm": times_as_fast(rate, "decode_draft", "decode_timm"),
                "embed_draft_over_full": times_as_fast(rate, "embed_draft", "embed_full"),
                "cosine_mean": float(cosine.mean()),
                "cosine_min": float(cosine.min()),
            }
    return result


def all_features(job: Job, items: Sequence[Item]) -> Tensor:
    """Every item's features."""
    return torch.cat([computed.features for computed in job.run(items)])
