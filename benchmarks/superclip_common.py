"""What SuperCLIP's benchmarks write: figures, with all that they depend on."""

from __future__ import annotations

import json
import os
import platform
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import open_clip
import torch


def finish(out: Path | None, name: str, device: str = "cpu", **parts: Any) -> None:
    """Print the metrics; write them to `out` with date, versions and machine."""
    print(json.dumps(parts["metrics"], indent=2))
    if out is None:
        return
    result = {
        "schema": 1,
        "benchmark": name,
        "date": datetime.now(timezone.utc).date().isoformat(),
        **parts,
        "environment": {
            "torch": torch.__version__,
            "open_clip": open_clip.__version__,
            "python": platform.python_version(),
            "processor": _processor(),
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "load_average": [round(x, 2) for x in os.getloadavg()],
            "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        },
    }
    out.write_text(json.dumps(result, indent=2) + "\n")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor() or platform.machine()
