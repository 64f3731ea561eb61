"""`python -m experiments NAME`: the papers' experiments and ours, one name each."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headword.cli import options
from headword.cli.app import LoneCommand
from headword.cli.common import Output
from headword.errors import HeadwordError
from headword.files import expand

if TYPE_CHECKING:
    from experiments.recipes.publish import Published


app = typer.Typer(
    name="experiments",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command(
    cls=LoneCommand,
    epilog="Examples: python -m experiments --list; python -m experiments setting-1 --without mlp",
)
def reproduce(
    name: Annotated[str | None, typer.Argument(help="A recipe's name, or all.", metavar="NAME")] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Gets a folder NAME with page, figures and result.")
    ] = Path("experiments-out"),
    data: Annotated[
        Path | None, typer.Option(help="Has data/ and weights/; $HEADWORD_DATA when not given.")
    ] = None,
    list_recipes: Annotated[bool, typer.Option("--list", help="Show the recipes and end.")] = False,
    without: Annotated[
        list[str] | None,
        typer.Option(help="A mapping to leave out; mlp takes an hour to fit, once. May be repeated."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of draws, shuffles and starts.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace earlier results at --out.")] = False,
    device: options.Device = "auto",
    quiet: options.Quiet = False,
    json_to: options.Json = None,
) -> None:
    """Run a paper's experiment: found there, measured here.

    The result is a table, figures and a page.
    """
    output = Output(quiet, json_to)
    from experiments.recipes import RECIPES, recipe_of

    if list_recipes:
        output.table("Recipes", ("name", "question"), [(r.name, r.title) for r in RECIPES.values()])
        output.next_step(f"python -m experiments {next(iter(RECIPES))}")
        output.result("experiments", recipes=[{"name": r.name, "title": r.title} for r in RECIPES.values()])
        return
    if name is None:
        raise HeadwordError(f"name a recipe, or all; the recipes are {', '.join(RECIPES)}")
    chosen = list(RECIPES.values()) if name == "all" else [recipe_of(name)]
    from experiments.recipes.bench import Bench
    from experiments.recipes.publish import check_place
    from experiments.recipes.publish import reproduce as run

    if without:
        from headword.evaluation.subjects import check_aligners

        check_aligners(without)
    bench = Bench(root=_root(data), device=device, seed=seed, without=tuple(without or ()), say=output.note)
    for recipe in chosen:
        check_place(out / recipe.name, overwrite=overwrite)
        bench.check(recipe.sets, recipe.weights)
    results = []
    for recipe in chosen:
        with output.progress("images") as progress:
            bench.progress = progress
            done = run(recipe, bench, out / recipe.name, overwrite=overwrite)
        _show(output, done)
        results.append(done.parts)
        page = done.folder / "report.html"
    output.next_step(f"open {page}")
    if name == "all":
        output.result("experiments", seed=seed, results=results)
    else:
        output.result("experiments", **results[0])


def _root(data: Path | None) -> Path:
    said = data or os.environ.get("HEADWORD_DATA")
    if not said:
        raise HeadwordError(
            "there is no data to measure on; set HEADWORD_DATA to a folder with data/ and weights/, or give "
            "it as --data"
        )
    root = expand(said)
    if not root.is_dir():
        raise HeadwordError(f"there is no folder {root}")
    return root


def _show(output: Output, done: Published) -> None:
    output.say(done.recipe.title)
    output.say()
    for table in done.findings.tables:
        output.table(table.title, table.columns, table.shown())
    verdicts = [
        (
            claim.found,
            done.findings.verdicts[claim.key].measured,
            done.findings.verdicts[claim.key].outcome.value,
        )
        for claim in done.recipe.claims
    ]
    output.table("Found there, measured here", ("the paper", "here", "so it"), verdicts)
    for note in done.findings.notes:
        output.say(note)
    output.say()


if __name__ == "__main__":
    app(prog_name="python -m experiments")
