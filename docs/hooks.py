"""What MkDocs does for the site: the command reference, notebooks, and what pages link outside docs/."""

from __future__ import annotations

import base64
import json
import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\]\(((?:\.\./)+)([^)#\s]+)(#[^)\s]*)?\)")
PROJECT = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "reporting.md",
}
"""Pages that lie at the root of a checkout, and where they are on the site."""


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made: the project's own and a page of every command's help."""
    for name, page in PROJECT.items():
        text = (ROOT / name).read_text("utf-8").replace("](docs/", "](")
        files.append(File.generated(config, page, content=text))
    files.append(File.generated(config, "reference/commands.md", content=commands()))
    for notebook in sorted((ROOT / "docs/notebooks").glob("*.ipynb")):
        files.append(
            File.generated(config, f"notebooks/{notebook.stem}.md", content=page_of(notebook, config, files))
        )
    return files


def page_of(notebook: Path, config: Any, files: Files) -> str:
    """A notebook as Markdown: its cells, and what they put out."""
    parts = []
    for cell in json.loads(notebook.read_text("utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(
            f"```python\n{source}\n```" if cell["cell_type"] == "code" else source.replace(".ipynb)", ".md)")
        )
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if "image/png" in data:
                name = f"notebooks/{notebook.stem}-{len(parts)}.png"
                files.append(File.generated(config, name, content=base64.b64decode(data["image/png"])))
                parts.append(f"![What the cell above shows]({Path(name).name})")
            else:
                text = "".join(output.get("text") or data["text/plain"])
                parts.append(f"```text\n{text}\n```")
    parts.append(f"[The notebook itself]({notebook.name})")
    return "\n\n".join(parts)


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Lead links out of docs/ to a copy on the site."""

    def link(match: re.Match[str]) -> str:
        source = os.path.normpath(Path("docs", page.file.src_uri).parent / match[1] / match[2])
        target = PROJECT.get(source, source)
        if target == "README.md":
            target = "index.md"
        elif target == source:
            if source.startswith("docs/") or not (ROOT / source).is_file():
                return f"]({match[1]}{match[2]}{match[3] or ''})"
            if files.get_file_from_path(source) is None:
                files.append(File.generated(config, source, abs_src_path=str(ROOT / source)))
        depth = page.file.src_uri.count("/")
        return f"]({'../' * depth}{target}{match[3] or ''})"

    return LINK.sub(link, markdown)


def on_post_page(output: str, **_about: Any) -> str:
    """Name the search's dialog for those who hear it; the theme does not."""
    return output.replace(
        'data-md-component="search" role="dialog"',
        'data-md-component="search" role="dialog" aria-label="Search"',
    )


def commands() -> str:
    """Every command's help, as `headword COMMAND -h` prints it at 100 columns."""
    from typer.main import get_command

    from headword.cli import app

    os.environ["COLUMNS"] = "100"
    group = get_command(app)
    parts = ["# Commands\n\nWhat `headword COMMAND -h` prints.\n"]
    with group.make_context("headword", [], resilient_parsing=True) as context:
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            with command.make_context(name, [], parent=context, resilient_parsing=True) as inner:
                parts.append(f"## {name}\n\n```text\n{command.get_help(inner)}\n```\n")
    return "\n".join(parts)
