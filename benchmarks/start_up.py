"""How quickly the command line answers: `--help`, `import headword`, and `recycle` beyond its imports.

`recycle` on the embedded default is run as a user would, in a process of its own; beside it, in the same run,
a process that only imports torch, timm and tokenizers (the text library the embedded encoder needs), and one
that imports torch, timm and sentence-transformers (what loading the same encoder by its id would import).
Medians.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import write

HEADWORD = str(Path(sys.executable).with_name("headword"))
COMMANDS = {
    "python": [sys.executable, "-c", "pass"],
    "help": [HEADWORD, "--help"],
    "import_headword": [sys.executable, "-c", "import headword"],
    "import_torch_timm_tokenizers": [sys.executable, "-c", "import torch, timm, tokenizers"],
    "import_torch_timm_sentence_transformers": [
        sys.executable,
        "-c",
        "import torch, timm, sentence_transformers",
    ],
}


def main(repeats: int = 3) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in (*COMMANDS, "recycle")}
    steps: dict[str, list[float]] = {}
    for _ in range(repeats):  # interleaved, so that a busy moment touches all
        for name, command in COMMANDS.items():
            seconds[name].append(clock(command))
        with tempfile.TemporaryDirectory() as folder:
            result = Path(folder) / "result.json"
            command = [HEADWORD, "recycle", "--out", f"{folder}/model", "--json", str(result), "--quiet"]
            seconds["recycle"].append(clock(command))
            for step, value in json.loads(result.read_text())["metrics"].items():
                steps.setdefault(step, []).append(value)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    beyond = [r - i for r, i in zip(seconds["recycle"], seconds["import_torch_timm_tokenizers"], strict=True)]
    write(
        "start_up",
        {
            "metrics": {
                "seconds_median": median,
                "recycle_beyond_imports_seconds": statistics.median(beyond),
                "recycle_steps_seconds_median": {step: statistics.median(v) for step, v in steps.items()},
            },
            "protocol": {"repeats": repeats, "processes": "one a measurement, interleaved"},
        },
    )


def clock(command: list[str]) -> float:
    """Wall seconds of a process that must succeed."""
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
