"""`headword app`: the web page and the HTTP API of an index."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

from headword.cli import options
from headword.cli.app import command
from headword.cli.common import Output
from headword.errors import MissingExtraError

if TYPE_CHECKING:
    from headword.server.serving import Address


@command("app index", "app index --open --port 8000", name="app", json=False)
def serve(
    output: Output,
    index: options.Index,
    host: Annotated[
        str, Option(help="Where to listen; anything but the default opens it to other machines.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, Option(min=0, max=65535, help="0 for any that is free; 7860 where not given and free.")
    ] = None,
    open_page: Annotated[bool, Option("--open", help="Open the page in the browser.")] = False,
    classifier: options.TaughtClassifier = None,
    model: options.IndexModel = None,
    vision: options.Vision = None,
    device: options.Device = "auto",
) -> None:
    """Search and tag an index in the browser.

    While it runs, headword search asks it, and answers at once.
    """
    from headword.search import Index

    try:
        from headword.server.serving import prepared
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in {"fastapi", "starlette", "uvicorn", "pydantic", "anyio"}:
            raise
        raise MissingExtraError("the web server", "search") from None

    def ready(address: Address, announced: bool) -> None:
        output.say(f"{address.url} (Ctrl-C stops it)")
        if not address.loopback:
            typer.echo(
                f"headword: warning: whoever reaches this machine can see the pictures of {opened.root} and "
                "change their tags; there is no password",
                err=True,
            )
        if not announced:
            output.say(f"{index} cannot be written, so headword search will not find this server")
        if open_page:
            typer.launch(address.url)

    opened, taught = Index.open(index, model=model, vision=vision, device=device), None
    if classifier is not None:
        from headword.teaching import load_classifier

        taught = load_classifier(classifier, model=opened.model)
    with prepared(opened, host=host, port=port, taught=taught, ready=ready) as server:
        try:
            server.run()
        except KeyboardInterrupt:
            output.say("stopped")
