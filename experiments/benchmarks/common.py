"""What the benchmarks share: data, cached features, and results with all that they depend on."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import platformdirs
import torch
from torch import Tensor

from headword.data.folders import ClassFolders, class_folders
from headword.encoders import VisionEncoder
from headword.extract import image_features
from headword.files import load_tensors, save_tensors
from headword.saved import versions

RESULTS = Path(__file__).parent / "results"
CLASSIFICATION = ("cifar10", "caltech101", "tiny_imagenet", "tf_flowers")


def data_root() -> Path:
    """`$HEADWORD_DATA/data`; says how to set it where it is not set."""
    root = os.environ.get("HEADWORD_DATA")
    if not root or not (Path(root) / "data").is_dir():
        sys.exit("set HEADWORD_DATA to a folder that has data/ (see experiments/benchmarks/README.md)")
    return Path(root) / "data"


def cache_folder() -> Path:
    """Where fitted mappings and features are kept between runs."""
    folder = Path(os.environ.get("HEADWORD_CACHE") or platformdirs.user_cache_dir("headword")) / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def features_of(vision: VisionEncoder, name: str) -> tuple[ClassFolders, Tensor]:
    """A classification set and its image features `[N, d]`, computed once for these weights and files."""
    data = class_folders(data_root() / name)
    listing = "\n".join(f"{path} {path.stat().st_size}" for path in data.paths)
    key = hashlib.sha256(
        f"{vision.fingerprint} {vision.source.transform_settings} {vision.dtype} {listing}".encode()
    )
    file = cache_folder() / f"features-{key.hexdigest()[:32]}.safetensors"
    if not file.exists():
        save_tensors(file, {"features": image_features(vision, data.paths)})
    return data, load_tensors(file)["features"]


def write(name: str, result: dict[str, Any]) -> None:
    """Write a result beside the others, with versions, machine and date."""
    stamped = {
        "benchmark": name,
        "date": datetime.date.today().isoformat(),
        **result,
        "environment": {
            **versions(),
            "python": platform.python_version(),
            "processor": _processor(),
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "load_average": [round(x, 2) for x in os.getloadavg()],
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(stamped, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
