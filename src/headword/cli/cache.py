"""`headword cache`: what was kept of earlier runs."""

from __future__ import annotations

import typer

from headword.cli.app import CommandGroup, app, command, shown_examples
from headword.cli.common import Output

commands = typer.Typer(
    name="cache",
    cls=CommandGroup,
    help="Show or clear what was kept of earlier runs.\n\n"
    "HEADWORD_CACHE says where it is, HEADWORD_CACHE_LIMIT how large it may be (20GB, or 0 for none).",
    epilog=shown_examples("cache info", "cache clear"),
    no_args_is_help=True,
)
app.add_typer(commands)


@command("cache info", "cache info --json -", group=commands)
def info(output: Output) -> None:
    """Show what is in the cache, and how large it may become."""
    from headword.cache import cache_folder, cache_limit, entries

    kept = entries()
    rows = [
        (e.kind, e.name, f"{e.vectors:,}" if e.vectors else "–", f"{e.bytes / 1e6:,.1f} MB") for e in kept
    ]
    held = sum(entry.bytes for entry in kept)
    output.table(f"Cache {cache_folder()}", ("kind", "of", "vectors", "size"), rows)
    output.say(f"{held / 1e6:,.1f} MB of at most {cache_limit() / 1e6:,.0f} MB (HEADWORD_CACHE_LIMIT)")
    output.next_step("headword cache clear removes all of it")
    output.result(
        metrics={"bytes": held, "limit_bytes": cache_limit()},
        folder=str(cache_folder()),
        entries=[{"kind": e.kind, "of": e.name, "vectors": e.vectors, "bytes": e.bytes} for e in kept],
    )


@command("cache clear", "cache clear --quiet", group=commands)
def clear(output: Output) -> None:
    """Remove everything from the cache."""
    from headword import cache

    freed = cache.clear()
    output.say(f"{freed / 1e6:,.1f} MB removed from {cache.cache_folder()}")
    output.result(metrics={"freed_bytes": freed}, folder=str(cache.cache_folder()))
