"""What the benchmarks share: data, cached features, and results with all that they depend on."""

from __future__ import annotations

import datetime
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headword.data.folders import ClassFolders, class_folders
from headword.encoders import VisionEncoder
from headword.extract import image_features
from headword.results import versions

RESULTS = Path(__file__).parent / "results"
CLASSIFICATION = ("cifar10", "caltech101", "tiny_imagenet", "tf_flowers")


def data_root() -> Path:
    """`$HEADWORD_DATA/data`; says how to set it where it is not set."""
    root = os.environ.get("HEADWORD_DATA")
    if not root or not (Path(root) / "data").is_dir():
        sys.exit("set HEADWORD_DATA to a folder that has data/ (see experiments/benchmarks/README.md)")
    return Path(root) / "data"


def features_of(vision: VisionEncoder, name: str) -> tuple[ClassFolders, Tensor]:
    """A classification set and its image features `[N, d]`."""
    data = class_folders(data_root() / name)
    return data, image_features(vision, data.paths)


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
