"""`python -m experiments NAME`: the papers' experiments and ours, and the benchmarks, one name each."""

from __future__ import annotations

import ast
import functools
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from headword.cli import options
from headword.cli.app import Command, CommandGroup
from headword.cli.common import Output
from headword.errors import HeadwordError, near

HERE = Path(__file__).parent
FILES = {
    file.stem.replace("_", "-"): file
    for folder in ("recipes", "benchmarks")
    for file in sorted((HERE / folder).glob("*.py"))
    if not file.stem.startswith("_")
}
"""Every experiment by its name: a recipe has a `RECIPE`, a benchmark a function `run` with its options."""

ALL = "all"


class Experiments(CommandGroup):
    """Experiments, imported when they are run."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - the interface's
        """Their names."""
        return [*FILES, ALL]

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - the interface's
        """One line each: the first of its file's docstring."""
        lines = {name: _first_line(file) for name, file in FILES.items()} | {ALL: "Every recipe."}
        with formatter.section("Experiments"):
            formatter.write_dl(list(lines.items()))

    def get_command(self, ctx: Any, name: str) -> Any:  # noqa: ARG002 - the interface's
        """The command of one experiment."""
        if name != ALL and name not in FILES:
            hint = near(name, FILES, n=1) or "."
            raise HeadwordError(
                f"there is no experiment {name!r}{hint} The experiments are {', '.join(FILES)}"
            )
        single = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None, add_completion=False)
        benchmark = name != ALL and FILES[name].parent.name == "benchmarks"
        single.command(name, cls=Command)((_benchmark if benchmark else _recipe)(name))
        return typer.main.get_command(single)


app = typer.Typer(
    cls=Experiments,
    help="Run an experiment: a paper's, found there and measured here; one of our own; a benchmark.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _root(
    ctx: typer.Context, _list: Annotated[bool, typer.Option("--list", help="As without a name.")] = False
) -> None:
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


def _first_line(file: Path) -> str:
    return (ast.get_docstring(ast.parse(file.read_text())) or "").split("\n", 1)[0]


def _benchmark(name: str) -> Callable[..., None]:
    """A benchmark's command: its options are the arguments of its `run`, and its result is written."""
    run = importlib.import_module(f"experiments.benchmarks.{FILES[name].stem}").run

    @functools.wraps(run)
    def command(**options: Any) -> None:
        from experiments.harness import write

        result = run(**options)
        write(result.pop("file", FILES[name].stem), result)

    command.__doc__ = ast.get_docstring(ast.parse(FILES[name].read_text()))
    return command


def _recipe(name: str) -> Callable[..., None]:
    """A recipe's command, or that of all recipes."""
    from experiments.recipes import RECIPES

    chosen = list(RECIPES.values()) if name == ALL else [RECIPES[name]]

    def command(
        out: Annotated[
            Path, typer.Option("--out", "-o", help="Gets a folder NAME with page, figures and result.")
        ] = Path("experiments-out"),
        data: Annotated[
            Path | None, typer.Option(help="Has data/ and weights/; $HEADWORD_DATA when not given.")
        ] = None,
        without: Annotated[
            list[str] | None,
            typer.Option(help="A mapping to leave out; mlp takes an hour to fit, once. May be repeated."),
        ] = None,
        seed: Annotated[int, typer.Option(help="Of draws, shuffles and starts.")] = 0,
        overwrite: Annotated[
            bool, typer.Option("--overwrite", help="Replace earlier results at --out.")
        ] = False,
        device: options.Device = "auto",
        quiet: options.Quiet = False,
        json_to: options.Json = None,
    ) -> None:
        from experiments import bench as benches
        from experiments import report
        from headword.evaluation.subjects import check_aligners

        output = Output(quiet, json_to, "experiments")
        if without:
            check_aligners(without)
        bench = benches.Bench(
            root=benches.data_root(data),
            device=device,
            seed=seed,
            without=tuple(without or ()),
            say=output.note,
        )
        for recipe in chosen:
            report.check_place(out / recipe.name, overwrite=overwrite)
            bench.check(recipe.sets, recipe.weights)
        results = []
        for recipe in chosen:
            with output.progress("images") as progress:
                bench.progress = progress
                done = report.reproduce(recipe, bench, out / recipe.name, overwrite=overwrite)
            _show(output, done)
            results.append(done.parts)
        output.next_step(f"open {done.folder / report.PAGE}")
        output.result(**({"seed": seed, "results": results} if name == ALL else results[0]))

    command.__doc__ = "Run every recipe." if name == ALL else f"{chosen[0].title}\n\n{chosen[0].lead}"
    return command


def _show(output: Output, done: Any) -> None:
    output.say(done.recipe.title)
    output.say()
    for table in done.findings.tables:
        output.table(table.title, table.columns, table.shown())
    verdicts = [(found, done.findings.verdicts[key]) for key, found in done.recipe.claims.items()]
    rows = [(found, verdict.measured, verdict.outcome.value) for found, verdict in verdicts]
    output.table("Found there, measured here", ("the paper", "here", "so it"), rows)
    for note in done.findings.notes:
        output.say(note)
    output.say()


if __name__ == "__main__":
    app(prog_name="python -m experiments")
