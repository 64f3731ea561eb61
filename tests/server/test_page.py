"""The page in a real headless Chromium, over a real server; and its files without one."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from headword.search import Index
from support.browser import first, focused, keep, opened_page, status, tiles
from support.serving import base64_of, gallery_index, served

LABELS = ["a cat", "a cup of coffee", "a rocket launch", "a building", "text on paper"]


# ---- without a browser


def test_page_needs_nothing_from_elsewhere():
    """All it refers to is its own, and nothing is inline that its policy forbids."""
    folder = files("headword.server") / "static"
    contents = {file.name: file.read_text("utf-8") for file in folder.iterdir()}
    page = contents["index.html"]
    assert {*re.findall(r'(?:src|href)="/static/([^"]+)"', page)} <= set(contents)
    for name, text in contents.items():
        found = re.findall(r"https?://[^\s\"'`)]+", text)
        assert set(found) <= {"http://www.w3.org/2000/svg"}, name
        for imported in re.findall(r'from "\./([^"]+)"', text):
            assert imported in contents
    assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=", page)
    used = set(
        re.findall(
            r'\$\("([\w-]+)"\)', "".join(text for name, text in contents.items() if name.endswith(".js"))
        )
    )
    there = re.findall(r'\sid="([\w-]+)"', page)
    assert used <= set(there)
    assert len(there) == len(set(there))
    for labelled in re.findall(r'aria-(?:labelledby|describedby)="([\w-]+)"', page):
        assert labelled in there


# ---- with one


@pytest.fixture(scope="module")
def live(chromium, embedded, saved, pictures, tmp_path_factory):
    index = gallery_index(saved, pictures, tmp_path_factory.mktemp("page"))
    with served(Index.open(index, model=embedded)) as server:
        yield server


@pytest.fixture
def page(browser, live):
    with opened_page(browser, live, 14) as opened:
        yield opened


@pytest.mark.browser
def test_type_and_see(page, live):
    assert focused(page) == "words"
    page.keyboard.type("something hot to drink", delay=20)
    first(page, "coffee.png")
    status(page, "“something hot to drink”")
    shown = [tile.get_attribute("data-path") for tile in page.locator("#grid li").all()]
    wanted = live.post("/search", {"text": "something hot to drink", "k": 60}).json["hits"]
    assert shown == [hit["path"] for hit in wanted]
    assert page.locator("#grid li .score").first.text_content() == f"{wanted[0]['score']:.2f}"
    keep(page, "light")
    page.keyboard.type(' -"a cup of coffee"', delay=5)
    status(page, "without “a cup of coffee”")
    score = float(page.locator('[data-path="coffee.png"] .score').text_content().replace("−", "-"))
    assert score < wanted[0]["score"] - 0.1
    assert "q=something+hot" in page.url
    page.reload()
    status(page, "without “a cup of coffee”")


@pytest.mark.browser
def test_a_late_answer_is_not_shown(page):
    """The answer to what is no longer asked comes last, and changes nothing."""
    late = []

    def hold(route):
        if "rocket" in (route.request.post_data or ""):
            late.append(route)
        else:
            route.continue_()

    page.route("**/search", hold)
    page.fill("#words", "rocket")
    page.wait_for_timeout(300)
    page.fill("#words", "a kitten")
    first(page, "cat.png")
    assert len(late) == 1
    late[0].continue_()
    page.wait_for_timeout(300)
    first(page, "cat.png")
    status(page, "a kitten")


@pytest.mark.browser
def test_drop_a_picture(page, pictures):
    data = base64_of(pictures["flower"])
    transfer = page.evaluate_handle(
        """async (data) => {
            const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], "mine.jpg", { type: "image/jpeg" }));
            return transfer;
        }""",
        data,
    )
    page.dispatch_event("body", "dragenter", {"dataTransfer": transfer})
    assert page.locator("#drop").is_visible()
    page.dispatch_event("body", "drop", {"dataTransfer": transfer})
    first(page, "flower.jpg")
    status(page, "like your picture")
    assert not page.locator("#drop").is_visible()
    assert page.locator("#example-picture").is_visible()
    assert page.evaluate("document.getElementById('example-picture').naturalWidth") > 0
    page.fill("#words", "the red planet")
    status(page, "“the red planet”")
    page.click("#example-remove")
    status(page, re.compile(r"^(?!.*your picture).*the red planet"))


@pytest.mark.browser
def test_choose_a_picture_by_keyboard(page, pictures, tmp_path):
    page.focus("#pick")
    with page.expect_file_chooser() as choosing:
        page.wait_for_timeout(300)  # until Chromium knows that someone else chooses the file
        page.keyboard.press("Enter")
    choosing.value.set_files(pictures["rocket"])
    first(page, "rocket.jpg")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    page.set_input_files("#file", tmp_path / "broken.png")
    status(page, "is not an image")
    page.wrong[:] = [line for line in page.wrong if "400" not in line]  # Chromium's own note of the answer
    (tmp_path / "notes.txt").write_text("no picture")
    page.set_input_files("#file", tmp_path / "notes.txt")
    status(page, "notes.txt is not a picture")
    page.wrong[:] = [line for line in page.wrong if "ERR_FILE" not in line and "blob:" not in line]


@pytest.mark.browser
def test_more_like_this_and_back(page):
    page.fill("#words", "a flower in bloom")
    first(page, "flower.jpg")
    page.click('[data-path="flower.jpg"] .like')
    status(page, "like flower.jpg")
    tiles(page, 13)  # without itself
    assert "like=flower.jpg" in page.url
    page.go_back()
    first(page, "flower.jpg")
    assert page.input_value("#words") == "a flower in bloom"


@pytest.mark.browser
def test_keyboard_alone(page):
    page.keyboard.press("ArrowDown")
    assert focused(page) == page.locator("#grid li").first.get_attribute("data-path")
    page.keyboard.press("/")
    assert focused(page) == "words"
    page.keyboard.type("a cat")
    first(page, "cat.png")
    page.keyboard.press("ArrowDown")
    assert focused(page) == "cat.png"
    width = page.evaluate("parseFloat(getComputedStyle(document.activeElement).outlineWidth)")
    assert width >= 2  # the focus can be seen
    page.keyboard.press("ArrowRight")
    second = focused(page)
    assert second == page.locator("#grid li").nth(1).get_attribute("data-path")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    assert focused(page) == second
    page.keyboard.press("o")
    name = page.locator("#picture-name")
    assert name.text_content() == second.rsplit("/", 1)[-1]
    page.keyboard.press("ArrowLeft")
    assert name.text_content() == "cat.png"
    page.keyboard.press("Escape")
    assert not page.locator("#picture").is_visible()
    assert focused(page) == second
    page.keyboard.press("Enter")
    assert name.text_content() == second.rsplit("/", 1)[-1]
    page.keyboard.press("Escape")
    page.keyboard.press("m")
    status(page, "like ")
    assert focused(page) == "words"
    page.keyboard.press("Escape")
    status(page, "14 pictures")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Escape")
    assert focused(page) == "words"


@pytest.mark.browser
def test_labels_and_tags(page, live):
    page.click("#labels-open")
    page.click("#labels-apply")
    assert "at least one" in page.locator("#labels-problem").text_content()
    page.fill("#labels-words", "\n".join(LABELS))
    page.check("#labels-none")
    page.focus("#labels-words")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#tags button")
    said = {row["tag"]: row["count"] for row in live.get("/tags").json["tags"]}
    shown = {
        button.get_attribute("data-tag"): int(button.locator(".count").text_content())
        for button in page.locator("#tags button").all()
    }
    assert shown == said
    assert 3 < sum(said.values()) <= 14
    page.click('#tags [data-tag="a cat"]')
    tiles(page, said["a cat"])
    status(page, "tagged “a cat”")
    assert page.locator('#tags [data-tag="a cat"]').get_attribute("aria-pressed") == "true"
    page.fill("#words", "whiskers")
    first(page, "cat.png")
    tiles(page, said["a cat"])
    keep(page, "tags")
    page.locator('[data-path="cat.png"]').hover()
    page.click('[data-path="cat.png"] .open')
    page.wait_for_selector("#picture-fits li")
    assert "a cat" in page.locator("#picture-fits li").first.text_content()
    keep(page, "picture")
    page.keyboard.press("Escape")
    page.click('#tags [data-tag="a cat"]')
    tiles(page, 14)


@pytest.mark.browser
def test_about_the_model(page):
    page.click("#about-open")
    facts = page.locator("#about-facts").text_content()
    for fact in (
        "embedded:lite0",
        "apache-2.0",
        "1,000 classes",
        "14 pictures of this folder",
        "kernel-ridge",
    ):
        assert fact in facts, fact
    page.fill("#classes-find", "tabby")
    page.wait_for_function("() => document.getElementById('classes').textContent === 'tabby'")
    keep(page, "about")
    page.click("#about .close")
    assert not page.locator("#about").is_visible()


@pytest.mark.browser
def test_dark_by_system_and_by_choice(page):
    def brightness() -> float:
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(float, re.findall(r"[\d.]+", colour)[:3])) / 3

    assert brightness() > 200
    page.emulate_media(color_scheme="dark")
    assert brightness() < 60
    keep(page, "dark")
    page.click("#theme")
    assert brightness() > 200
    page.reload()
    assert brightness() > 200
    assert page.locator("#theme").get_attribute("aria-pressed") == "false"


CONTRAST = """(pairs) => {
    const parse = (text) => text.match(/[\\d.]+/g).slice(0, 3).map((x) => x / 255);
    const light = (c) => parse(c).map((x) => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4)
        .reduce((sum, x, i) => sum + x * [0.2126, 0.7152, 0.0722][i], 0);
    return pairs.map(([selector, ground]) => {
        const [a, b] = [light(getComputedStyle(document.querySelector(selector)).color),
            light(getComputedStyle(document.querySelector(ground)).backgroundColor)];
        return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    });
}"""


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_read_by_everyone(page, scheme):
    """Text stands out by 4.5 to 1 (WCAG AA), and whatever can be pressed or filled has a name."""
    page.emulate_media(color_scheme=scheme)
    pairs = [["#status", "body"], [".how", "body"], [".name a", "body"], ["#about-open", "body"]]
    pairs += [[".main", ".main"], ["#pick", "#pick"], ["#labels-how", "dialog"], ["#words", ".box"]]
    assert min(page.evaluate(CONTRAST, pairs)) >= 4.5
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input:not([hidden]), textarea, a")].filter((e) =>
            !(e.textContent.trim() || e.getAttribute("aria-label") || e.labels?.length || e.placeholder)
        ).map((e) => e.outerHTML)"""
    )
    assert nameless == []


@pytest.mark.browser
def test_360_pixels_wide(page):
    page.set_viewport_size({"width": 360, "height": 740})
    page.fill("#words", "a kitten")
    first(page, "cat.png")
    keep(page, "narrow")
    widest = """() => Math.max(...[...document.querySelectorAll("body *")]
        .filter((e) => !e.closest(".tags, .skip, .unseen")).map((e) => e.getBoundingClientRect().right))"""
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate(widest) <= 360
    for opener in ("#about-open", "#help-open", "#labels-open", "#grid .open"):
        page.locator(opener).first.click()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert page.evaluate(widest) <= 360
        page.keyboard.press("Escape")


@pytest.mark.browser
def test_what_the_server_cannot_do(page):
    """The line where answers end; that nothing answers; an answer that does not come."""

    def judged(*relevances):
        def fulfil(route):
            answer = route.fetch().json()
            for hit, relevance in zip(answer["hits"], relevances, strict=False):
                hit["relevance"] = relevance
            route.fulfill(json={**answer, "hits": answer["hits"][: len(relevances)], "least_shown": 0.4})

        return fulfil

    page.route("**/search", judged(0.9, 0.1, 0.5, 0.1))
    page.fill("#words", "a kitten")
    page.wait_for_selector("#grid li:nth-child(4).below")
    assert page.locator("#grid .below").count() == 1
    status(page, "2 above the line probably show it")
    page.unroute("**/search")
    page.route("**/search", judged(0.1, 0.1))
    page.fill("#words", "the mood of a Tuesday")
    page.wait_for_selector("#mark:visible")
    assert "No picture seems to show this" in page.locator("#mark").text_content()
    assert not page.locator("#grid .below").count()
    page.unroute("**/search")
    page.route("**/search", lambda route: route.abort())
    page.fill("#words", "hello")
    status(page, "does not answer")
    page.unroute("**/search")
    page.fill("#words", "a cat")
    first(page, "cat.png")
    assert not page.locator("#mark").is_visible()
    page.wrong[:] = [line for line in page.wrong if "ERR_FAILED" not in line]  # the answer that was kept back


@pytest.fixture(scope="module")
def marked_up(chromium, embedded, saved, pictures, tmp_path_factory):
    """Two pictures, one of them with a file name that is markup, and tags that are."""
    named = {"<img src=x onerror=window.pwned=1>": pictures["rocket"], "flower": pictures["flower"]}
    index = Index.open(gallery_index(saved, named, tmp_path_factory.mktemp("markup")), model=embedded)
    index.tag(["a rocket launch <script>window.pwned=1</script>", "<b onclick=window.pwned=1>a flower</b>"])
    with served(index) as server:
        yield server


@pytest.mark.browser
@pytest.mark.attack
@pytest.mark.parametrize("width", [1280, 360])
def test_names_and_tags_that_are_markup(browser, marked_up, width):
    """They are text wherever they are shown, and nothing in them runs."""
    script = "a rocket launch <script>window.pwned=1</script>"
    with opened_page(browser, marked_up, 2, width) as page:
        shown = page.locator("#grid li .file").all_text_contents()
        odd = next(name for name in shown if "onerror" in name)
        assert odd.startswith("<img src=x onerror=window.pwned=1>")
        assert script in page.locator("#tags").text_content()
        page.locator("#tags button").filter(has_text="<script>").click()
        tiles(page, 1)
        status(page, f"“{script}”")
        page.locator("#grid .open").first.click()
        assert page.locator("#picture-name").text_content() == odd
        assert script in page.locator("#picture-fits li").first.text_content()
        page.keyboard.press("Escape")
        page.locator("#tags button").filter(has_text="<script>").click()
        tiles(page, 2)
        page.locator("#grid li").filter(has_text="onerror").locator(".like").click()
        status(page, f"like {odd}")
        page.fill("#words", "<img src=x onerror=window.pwned=1>")
        status(page, "“<img src=x onerror=window.pwned=1>”")
        page.click("#labels-open")
        assert script in page.input_value("#labels-words")
        assert page.evaluate("typeof window.pwned") == "undefined"
        assert page.locator("img[src='x'], script:not([src]), [onerror], [onclick]").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth") <= width
