"""What MkDocs does for headword's site: the command reference, and what pages link outside docs/."""

from __future__ import annotations

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
    return files


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
