"""Makes the pictures of the docs from real commands on the gallery: terminals as SVG, the page as PNG.

    python docs/pictures.py [NAME…]

Needs the extra `dev` and Chromium. Everything is written to docs/pictures/.
"""

from __future__ import annotations

import base64
import io
import os
import pty
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from html import escape
from itertools import groupby
from pathlib import Path

import pyte
from PIL import Image
from playwright.sync_api import Page, sync_playwright
from rich.console import Console
from rich.style import Style
from rich.text import Text

import headword
from headword.data.gallery import gallery

OUT = Path(__file__).with_name("pictures")
LABELS = "a mountain lake,a cup of coffee,a cat,a flower,a rocket,old coins"
TERMINALS = {
    "search": [
        "headword index model holiday --out index",
        "headword search index something hot to drink -k 3",
    ],
    "classify": [f'headword classify model holiday --labels "{LABELS}" --centre-on collection'],
    "inspect": ["headword inspect embedded"],
    "explain": ['headword explain model "a zebra" "a birthday party"'],
    "joint": ["headword recycle --vision embedded:lite0 --vision embedded:lite1 --out both --overwrite"],
    "evaluate": [
        "headword evaluate model --aligners kernel-ridge,ridge,procrustes --task classification"
        " --data pictures --centre-on collection"
    ],
    "teach": [
        'headword teach model --labels "a cat,a temple,a flower" --examples shown --out taught --overwrite'
    ],
    "embed": ["headword embed model holiday --out features"],
    "train": ["headword train --data shapes:images=512 --steps 40 --batch-size 32 --out run"],
}
"""Names of pictures, and the commands on them."""
SCREENSHOTS = ("page", "teach-page", "lead")
PORT = 7913
ROWS = (281, 285, 504, 970, 812)
"""Of the head, on the lead picture."""
WORDS = ("something hot to drink", "a place to pray", "something that blooms", "it flies to space")
"""What the lead picture asks."""


def terminal(commands: list[str], columns: int = 80) -> str:
    """The commands and what they left on a terminal, as SVG that loads nothing."""
    console = Console(record=True, width=columns, file=io.StringIO())
    for command in commands:
        console.print(Text("$ " + command, style="bold"))
        screen = pyte.Screen(columns, 200)
        stream = pyte.ByteStream(screen)
        size = f"stty cols {columns} rows 60; exec {command}"
        code = os.waitstatus_to_exitcode(pty.spawn(["sh", "-c", size], partial(feed, stream)))
        if code:
            sys.exit(f"{command}: exit code {code}")
        for row in range(screen.cursor.y):
            console.print(line(screen, row))
    # The fonts that Rich names are on a server elsewhere.
    page = console.export_svg(title="", unique_id="headword")
    while (start := page.find("@font-face")) >= 0:
        page = page[:start] + page[page.index("}", start) + 1 :]
    return page


def feed(stream: pyte.ByteStream, file: int) -> bytes:
    """Pass what a command prints to the screen, and on."""
    read = os.read(file, 65536)
    stream.feed(read)
    return read


def line(screen: pyte.Screen, row: int) -> Text:
    """A line of the screen with its colours."""
    cells = [screen.buffer[row][place] for place in range(screen.columns)]
    text = Text()
    for (fg, bold), run in groupby(cells, key=lambda cell: (cell.fg, cell.bold)):
        colour = None if fg == "default" else {"brown": "yellow"}.get(fg, fg if fg.isalpha() else f"#{fg}")
        text.append("".join(cell.data for cell in run), Style(color=colour, bold=bold))
    text.rstrip()
    return text


def lead(model: headword.DualEncoder) -> str:
    """What headword does, as a page: rows and names of a head, untaught words, the pictures they find."""
    pictures = gallery()
    paths = [picture.path for picture in pictures]
    places, _ = model.centre_on(paths).search(paths, list(WORDS), k=1)

    def image(place: int) -> str:
        path = pictures[place].path
        kind = "jpeg" if path.suffix == ".jpg" else "png"
        return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"

    found = "".join(
        f"<figure><figcaption>“{escape(words)}”</figcaption><img src='{image(int(place))}'></figure>"
        for words, place in zip(WORDS, places[:, 0], strict=True)
    )
    head, labels = model.vision.named_head()
    rows = "".join(
        f"<li>{escape(labels.classes[row].name)}<span>{cells(head.weight[row, :14].tolist())}</span></li>"
        for row in ROWS
    )
    page = Path(__file__).with_name("lead.html").read_text("utf-8")
    return page.replace("ROWS", rows).replace("FOUND", found)


def screenshots(names: set[str], model: headword.DualEncoder) -> None:
    """The page that `headword app` opens, and the lead picture."""
    labels = LABELS.split(",")
    headword.Index.open("index", model=model).tag(labels)
    said = subprocess.Popen(
        ["headword", "app", "index", "--port", str(PORT)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert said.stdout is not None
        said.stdout.readline()
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"]
            )
            page = browser.new_page(viewport={"width": 1200, "height": 760})
            page.request.post(f"http://127.0.0.1:{PORT}/lesson", data={"labels": labels})
            page.goto(f"http://127.0.0.1:{PORT}")
            page.locator("#grid li").first.wait_for()
            if "page" in names:
                page.fill("#words", "something hot to drink in the morning")
                page.locator('#grid li:first-child[data-path="coffee.png"]').wait_for()
                page.wait_for_load_state("networkidle")
                keep(page, "page")
            if "teach-page" in names:
                page.click("#teach-open")
                page.locator("#teach-labels li").first.wait_for()
                page.wait_for_load_state("networkidle")
                keep(page, "teach-page")
            if "lead" in names:
                drawn = browser.new_page(viewport={"width": 1000, "height": 372})
                drawn.set_content(lead(model), wait_until="load")
                keep(drawn, "lead")
            browser.close()
    finally:
        said.terminate()
        said.wait()


def keep(page: Page, name: str) -> None:
    """A picture of the page in 256 colours, a third of the bytes."""
    shot = Image.open(io.BytesIO(page.screenshot()))
    shot.convert("RGB").quantize(256).save(OUT / f"{name}.png", optimize=True)


def cells(weights: list[float]) -> str:
    """The first numbers of a row as a strip of colours."""
    largest = max(map(abs, weights))
    colours = ((178, 64, 36) if weight > 0 else (58, 90, 120) for weight in weights)
    return "".join(
        f"<i style='background:rgba{(*colour, round(abs(weight) / largest, 2))}'></i>"
        for colour, weight in zip(colours, weights, strict=True)
    )


def main() -> None:
    """Make the pictures that are named, or all."""
    names = set(sys.argv[1:] or [*TERMINALS, *SCREENSHOTS])
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for picture in gallery():
            for place in (Path("holiday"), Path("pictures", picture.name)):
                place.mkdir(parents=True, exist_ok=True)
                shutil.copy(picture.path, place / f"{picture.name}{picture.path.suffix}")
        for name in ("cat", "temple", "flower"):
            shutil.copytree(Path("pictures", name), Path("shown", name))
        model = headword.recycle()
        model.save("model")
        headword.build_index("model", "holiday", "index")
        OUT.mkdir(exist_ok=True)
        for name in sorted(names & set(TERMINALS)):
            (OUT / f"{name}.svg").write_text(terminal(TERMINALS[name]), "utf-8")
        if names & set(SCREENSHOTS):
            screenshots(names, model)


if __name__ == "__main__":
    main()
