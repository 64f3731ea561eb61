"""`headword tag`: zero-shot labels for all images of an index, written where other programs read them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Option

from headword.cli import options
from headword.cli.app import command
from headword.cli.common import Output, flags, quoted, taught_labels
from headword.errors import HeadwordError

if TYPE_CHECKING:
    from headword.classifier.folder import SavedClassifier
    from headword.search import Index
    from headword.search.sharing import SharedTags


@command(
    'tag index --labels "a cat,a dog" --multi-label --write xmp',
    "tag index --write csv --out tags.csv",
)
def tag(
    output: Output,
    index: options.Index,
    labels: options.Labels = None,
    labels_file: options.LabelsFile = None,
    classifier: options.TaughtClassifier = None,
    template: options.Template = None,
    none_of_these: Annotated[
        bool, Option("--none-of-these", help="Leave images without a tag that no label fits.")
    ] = False,
    multi_label: Annotated[
        bool, Option("--multi-label", help="Give every image all labels that are likely, or none.")
    ] = False,
    write: Annotated[
        Literal["xmp", "csv", "json"] | None,
        Option(
            help="Write the tags for other programs: xmp into a sidecar beside each image (NAME.jpg.xmp; "
            "images stay untouched), csv or json into --out. Without labels, the tags that are there."
        ),
    ] = None,
    out: Annotated[Path | None, Option("--out", "-o", help="The file of --write csv or json.")] = None,
    remove_xmp: Annotated[
        bool, Option("--remove-xmp", help="Only take out of the sidecars what --write xmp put there.")
    ] = False,
    model: options.IndexModel = None,
    vision: options.Vision = None,
    device: options.Device = "auto",
) -> None:
    """Give images the label that fits best, or all that fit.

    A search may then ask for one: --where "tag = 'a cat'". Tags that were given or removed by hand, on the
    page of headword app, stay.
    """
    if (out is not None) != (write in ("csv", "json")):
        raise HeadwordError("--write csv and --write json go with --out FILE, and nothing else does")
    if remove_xmp and (write or labels or labels_file or classifier):
        raise HeadwordError("--remove-xmp goes alone: it takes out what --write xmp put into the sidecars")
    words: list[str] = []
    saved: SavedClassifier | None = None
    if labels is not None or labels_file is not None or classifier is not None or not (write or remove_xmp):
        words, saved = taught_labels(classifier, labels, labels_file, template, none_of_these, multi_label)
    from headword.search import Index

    opened = Index.open(index, model=model, vision=vision, device=device)
    shared = None
    if words:
        _tag(output, index, opened, words, saved, template, none_of_these, multi_label)
    if write is not None or remove_xmp:
        shared = _share(output, opened, write, out)
    about = opened.about()
    tags = about["tags"] or {}
    counts = opened.tags()
    output.next_step(_search_for(index, counts, flags(model=model, vision=vision)))
    output.result(
        model=about["model"]["provenance"],
        protocol={"index": str(index), "labels": tags.get("labels", []),
                  "none_of_these": tags.get("none_of_these", False),
                  "multi_label": tags.get("multi_label", False), "templates": tags.get("template", [])},
        counts=counts,
        doubt=opened.model.doubt if words else None,
        untagged=opened.count("any_tag is null"),
        **({} if shared is None else {"written": asdict(shared)}),
    )  # fmt: skip


def _search_for(index: Path, counts: dict[str, int], more: str) -> str:
    label = max(counts, key=counts.__getitem__, default="a cat").replace("'", "''")
    where = quoted(f"any_tag = '{label}'")
    return f"headword search {quoted(index)} --where {where}{more}"


def _tag(
    output: Output,
    index: Path,
    opened: Index,
    words: list[str],
    saved: SavedClassifier | None,
    template: list[str] | None,
    none_of_these: bool,
    multi_label: bool,
) -> None:
    chosen: Any = words
    if saved is not None:
        from headword.teaching import load_classifier

        chosen = load_classifier(saved, model=opened.model)
    with output.progress("images") as progress:
        counts = opened.tag(
            chosen,
            templates=template,
            none_of_these=none_of_these,
            multi_label=multi_label,
            progress=progress,
        )
    untagged = opened.count("any_tag is null")
    missing = [word for word in words if word not in counts]
    rows = [(label, f"{counts.get(label, 0):,}") for label in [*counts, *missing]]
    output.table(
        f"Tags of {index}", ("tag", "images"), rows + ([("none", f"{untagged:,}")] if untagged else [])
    )
    if opened.model.doubt:
        output.say(f"Take these with care: {opened.model.doubt}.")
    if untagged:
        output.say('Those with none are found by --where "tag is null".')


def _share(output: Output, opened: Index, write: str | None, out: Path | None) -> SharedTags:
    from headword.search.sharing import remove_sidecars, write_sidecars, write_table

    with output.progress("images") as progress:
        if out is not None:
            shared = write_table(opened, out, progress=progress)
            output.say(f"Wrote the tags of {shared.pictures:,} images to {out}")
            return shared
        if write is None:
            shared = remove_sidecars(opened, progress=progress)
            output.say(f"Took what headword had written out of {shared.pictures:,} sidecars")
        else:
            shared = write_sidecars(opened, progress=progress)
            output.say(f"Wrote {shared.pictures:,} sidecars beside the images of {opened.root}")
    output.unreadable(shared.failed)
    return shared
