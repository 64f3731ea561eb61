"""Every notebook runs, and its outputs are those that are stored in it.

`python tests/docs/test_notebooks.py` writes the outputs anew.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

NUMBER = re.compile(r"\d+(?:\.\d+)?")
NOTEBOOKS = sorted((Path(__file__).parents[2] / "docs" / "notebooks").glob("*.ipynb"))


def run(path: Path) -> Any:
    """The notebook with new outputs."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    options = {"timeout": 300, "record_timing": False, "coalesce_streams": True}
    NotebookClient(notebook, resources={"metadata": {"path": str(path.parent)}}, **options).execute()
    for cell in notebook.cells:
        # Libraries warn there of what this environment has not.
        cell["outputs"] = [output for output in cell.get("outputs", ()) if output.get("name") != "stderr"]
        if cell["cell_type"] != "code":
            del cell["outputs"]
    return notebook


def texts(cells: list[Any]) -> list[str]:
    """What cells print and show, pictures by their kind alone."""
    found = []
    for cell in cells:
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            shown = "a picture" if "image/png" in data else output.get("text") or data["text/plain"]
            found.append("".join(shown).rstrip())
    return found


@pytest.mark.filterwarnings("ignore::DeprecationWarning:zmq", "ignore::DeprecationWarning:jupyter_client")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path: Path) -> None:
    stored = texts(json.loads(path.read_text("utf-8"))["cells"])
    assert stored
    ran = texts(run(path).cells)
    # Another version of torch may round the last digit that is shown otherwise.
    assert [NUMBER.sub("#", text) for text in ran] == [NUMBER.sub("#", text) for text in stored]
    numbers, before = NUMBER.findall("\n".join(ran)), NUMBER.findall("\n".join(stored))
    assert [float(n) for n in numbers] == pytest.approx([float(n) for n in before], rel=0.06, abs=0.02)


if __name__ == "__main__":
    import nbformat

    for notebook in NOTEBOOKS:
        nbformat.write(run(notebook), notebook)
