"""`headword locate`: where words are in pictures."""

from __future__ import annotations

import itertools
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headword.cli import options
from headword.cli.app import command
from headword.cli.common import Output, expand_images, printable
from headword.errors import HeadwordError
from headword.files.writing import check_new_file, new_file

if TYPE_CHECKING:
    from PIL import Image


@command(
    'locate model photo.jpg "a dog" "a frisbee" --out where.png',
    'locate model holiday/ "a dog" --json where.json',
)
def locate(
    output: Output,
    model: options.Model,
    images: Annotated[str, typer.Argument(metavar="PICTURE|FOLDER", help="A picture, a folder or a glob.")],
    words: Annotated[list[str], typer.Argument(help='Words, "each in quotation marks".')],
    out: Annotated[
        Path | None, typer.Option(help="Draw the maps over the picture into this file; of many, a folder.")
    ] = None,
    boxes: Annotated[bool, typer.Option("--boxes", help="Name all regions, not just the strongest.")] = False,
    masks: Annotated[
        Path | None,
        typer.Option(help="Write class ids a pixel into pictures here: 1 for the first words, 0 for none."),
    ] = None,
    background: Annotated[
        str | None, typer.Option(help="Words, parted by commas, that compete with yours for a mask's pixels.")
    ] = None,
    size: Annotated[int | None, typer.Option(help="Longer side in pixels to read pictures at.")] = None,
    refine: Annotated[bool, typer.Option(help="Average several passes; --no-refine is one.")] = True,
    template: options.Template = None,
    vision: options.Vision = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
) -> None:
    """Show where words are in pictures.

    A map's values are shares of the picture's cosine with the words; words of which no place says enough are
    nowhere.
    """
    from headword.data.safe_images import load_image
    from headword.dense.regions import BACKGROUND, mask_image, overlay, regions, segment
    from headword.encoders.prompts import check_labels, tidy_labels
    from headword.model import load

    words = check_labels(words)
    others = tidy_labels(background.split(",")) if background else list(BACKGROUND)
    asked = words + [word for word in others if masks is not None and word not in words]
    if masks is not None and len(words) > 255:
        raise HeadwordError(f"a mask tells at most 255 words apart, got {len(words)}")
    files = expand_images([images])
    several = len(files) > 1
    if out is not None and not several:
        _format(check_new_file(out, overwrite=True))
    for folder in (masks, out if several else None):
        if folder is not None and folder.is_file():
            raise HeadwordError(f"{folder} is a file; give the name of a folder")
    encoder = load(model, vision=vision, device=device, dtype=dtype)
    locator = encoder.locator
    chosen = locator.size(size)
    vectors = encoder.encode_text(asked, templates=template or encoder.templates)
    least = dict(zip(words, locator.least(vectors), strict=False))
    shown, kept = _Kept(out), _Kept(masks)
    results, unread = [], {}
    with output.progress("images") as progress:
        for done, file in enumerate(files, start=1):
            try:
                picture = load_image(file)
            except HeadwordError as error:
                if not several:
                    raise
                unread[str(file)] = str(error)
                continue
            shares = locator.map(picture, vectors, chosen, refine=refine)
            found = [
                regions(one, least=least[word])[: None if boxes else 1]
                for word, one in zip(words, shares, strict=False)
            ]
            if out is not None:
                drawn = overlay(picture, shares[: len(words)], words, found)
                _save(drawn, shown.place(file.name) if several else out)
            if masks is not None:
                labels = segment(shares, picture.height, picture.width)
                _save(mask_image(labels, len(words)), kept.place(file.stem))
            regions_of = {word: [asdict(one) for one in its] for word, its in zip(words, found, strict=True)}
            results.append({"path": str(file), "size": list(picture.size), "regions": regions_of})
            output.table(printable(str(file)), ("words", "region", "share"), _rows(regions_of))
            if progress is not None:
                progress(done, len(files))
    output.unreadable(unread)
    if not results:
        raise HeadwordError(f"none of {len(files)} images could be read: {next(iter(unread.values()))}")
    if not locator.exact:
        output.say("Places are approximate: this classifier's feature is not a mean over places.")
    output.result(
        model=encoder.provenance(),
        protocol={"words": words, "templates": list(template or encoder.templates), "size": chosen,
                  "refine": refine, "exact": locator.exact, "least_shares": least,
                  "mask_ids": {word: n for n, word in enumerate(words, start=1)} if masks else None},
        results=results,
        skipped=unread,
    )  # fmt: skip


class _Kept:
    """Names in a folder, each once: pictures of several folders may share one."""

    def __init__(self, folder: Path | None) -> None:
        self.folder, self.names = folder or Path(), set[str]()

    def place(self, name: str) -> Path:
        """Where the picture of a name goes."""
        choices = itertools.chain([name], (f"{name}-{n}" for n in itertools.count(2)))
        chosen = next(choice for choice in choices if choice not in self.names)
        self.names.add(chosen)
        return self.folder / f"{chosen}.png"


def _format(path: Path) -> str:
    """What a picture's name says that it is."""
    known = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
    if path.suffix.lower() not in known:
        raise HeadwordError(f"{path} is to be a picture: let its name end in {', '.join(known)}")
    return known[path.suffix.lower()]


def _save(picture: Image.Image, path: Path) -> None:
    """Write a picture that is whole or not there."""
    with new_file(path) as temporary:
        picture.save(temporary, _format(path))


def _rows(found: dict[str, list[dict[str, Any]]]) -> list[tuple[str, str, str]]:
    rows = []
    for word, its in found.items():
        rows += [(word, " ".join(f"{side:.0%}" for side in one["box"]), f"{one['share']:.2f}") for one in its]
        if not its:
            rows.append((word, "nowhere", ""))
    return rows
