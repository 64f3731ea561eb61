"""The result JSON (schema 1) that every command and every evaluation writes."""

from __future__ import annotations

import os
import platform
from typing import Any

from headword import __version__


def result_json(command: str, **parts: Any) -> dict[str, Any]:
    """A result: `parts` beside what every result has.

    Args:
        command: which command it is the result of.
        **parts: `results`, which come first; `model`, `protocol`, `metrics`, `seed`, `environment` if another
            process did the work, and whatever else the command has to say.
    """
    elsewhere = parts.pop("environment", None)
    first = {"results": parts.pop("results")} if "results" in parts else {}
    return {
        "schema": 1,
        "headword": __version__,
        "command": command,
        **first,
        "model": parts.pop("model", {}),
        "protocol": parts.pop("protocol", {}),
        "metrics": parts.pop("metrics", {}),
        "seed": parts.pop("seed", None),
        "environment": environment() if elsewhere is None else elsewhere,
        **parts,
    }


def environment() -> dict[str, Any]:
    """Versions and machine, as results carry them."""
    import torch

    from headword.saved import versions

    return {
        **versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
