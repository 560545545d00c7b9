"""The page of `bitgaze serve` in a real browser: Debian's Chromium, driven by Playwright."""

import base64
import contextlib
import json
import math
import os
import shutil
import threading
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import expect, sync_playwright

from bitgaze import Gallery
from bitgaze.gallery.hits import in_bits
from bitgaze.server import reveal
from bitgaze.server.state import Limits
from serving import TOKEN, served

CHROMIUM = "/usr/bin/chromium"
# Contrast depends on the scheme alone, layout on the width alone.
SCREENS = (("light", 390), ("dark", 1280))
SUBJECTS = ("birds", "fish", "windmills")

pytestmark = pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="Chromium is not installed")


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, examples):
    folder = tmp_path_factory.mktemp("page") / "photos"
    for subject in SUBJECTS:
        shutil.copytree(examples / subject, folder / subject)
    return folder


@pytest.fixture(scope="module")
def gallery(folder, encoder):
    with Gallery(folder.parent / "photos.bitgaze", encoder=encoder) as gallery:
        gallery.sync(folder)
        for rank, key in enumerate(gallery):
            gallery.set_metadata(key, {"kind": Path(key).parent.name, "rank": rank})
        yield gallery


@pytest.fixture(scope="module")
def address(gallery):
    with served(gallery) as address:
        yield address


@pytest.fixture(scope="module")
def query(examples):
    return examples.parent / "queries" / "bird.jpg"


@pytest.fixture
def open_page(browser):
    """Open a page; afterwards, its console must be empty and all its requests its server's."""
    with contextlib.ExitStack() as opened:

        def open_one(address, *, allowed=(), **options):
            context = browser.new_context(**options)
            opened.callback(context.close)
            page = context.new_page()
            page.set_default_timeout(20_000)
            logged, requested = [], []
            page.on("console", lambda message: logged.append(message.text))
            page.on("pageerror", lambda error: logged.append(str(error)))
            page.on("request", lambda request: requested.append(request.url))

            def check():
                own = urlsplit(address).netloc
                elsewhere = [
                    url
                    for url in requested
                    if not url.startswith(("data:", "blob:")) and urlsplit(url).netloc != own
                ]
                assert elsewhere == []
                # The browser logs every answer with an error status.
                assert [text for text in logged if not any(part in text for part in allowed)] == []

            opened.callback(check)
            page.goto(address)
            return page

        yield open_one


@pytest.fixture(scope="module")
def copied(tmp_path_factory, examples, encoder):
    """A gallery in which goldfish.jpg has two copies, one of them identical, and two others one."""
    folder = tmp_path_factory.mktemp("copied") / "photos"
    for below in ("fish", "backup", "sent"):
        (folder / below).mkdir(parents=True)
    for name in ("goldfish", "clownfish", "discus-fish", "red-mullet"):
        shutil.copy(examples / "fish" / f"{name}.jpg", folder / "fish")
    shutil.copy(folder / "fish" / "goldfish.jpg", folder / "backup")
    shutil.copy(folder / "fish" / "discus-fish.jpg", folder / "backup")
    for name in ("goldfish", "clownfish"):
        with Image.open(folder / "fish" / f"{name}.jpg") as image:
            image.resize((128, 96)).save(folder / "sent" / f"{name}-small.jpg", quality=60)
    with Gallery(folder.parent / "copied.bitgaze", encoder=encoder, looks=0) as gallery:
        gallery.sync(folder)
        yield gallery


@pytest.fixture
def duplicates(copied, open_page, tmp_path, encoder):
    """A function that opens the page of duplicates of a copy of that gallery."""
    copied.backup(tmp_path / "copied.bitgaze")
    with (
        Gallery(tmp_path / "copied.bitgaze", encoder=encoder) as gallery,
        served(gallery) as address,
    ):

        def open_one(query="", **options):
            page = open_page(f"{address}/duplicates{query}", **options)
            expect(page.locator("#status")).not_to_contain_text("Comparing")
            return page

        open_one.gallery = gallery
        yield open_one


def hits(page):
    """Keys of the visible hits, in order."""
    return page.locator("#hits li:not([hidden]) .search").evaluate_all(
        "all => all.map(one => one.dataset.key)"
    )


def search(page, path):
    page.set_input_files("#file", path)
    expect(page.locator("#status")).to_contain_text("most alike first")


def test_search_by_file(open_page, address, gallery, query):
    page = open_page(address)
    expect(page.locator("#gallery")).to_contain_text(f"{len(gallery)} images in photos.bitgaze")
    expect(page.locator("#hits li.start")).not_to_have_count(0)
    search(page, query)
    expect(page.locator("h1")).to_have_text("Images like bird.jpg")
    expected = gallery.search(query, 24)
    assert hits(page) == [hit.key for hit in expected]
    first = page.locator("#hits li").first
    expect(first.locator(".details")).to_be_hidden()
    page.get_by_label("Show details below images").check()
    expect(first.locator(".chances")).to_contain_text(f"same kind {expected[0].same_kind:.0%}")
    share = first.locator(".bar span").evaluate(
        "bar => bar.offsetWidth / bar.parentElement.offsetWidth"
    )
    assert share == pytest.approx(1 - expected[0].distance / 64, abs=0.02)
    for image in (first.locator(".image"), page.locator("#query .image")):
        assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") > 100


def drag(page, start, end):
    """Draw a rectangle on the query, from one place to another, as shares of its image."""
    figure = page.locator("#query")
    figure.locator(".image").evaluate("image => image.decode()")
    box = figure.locator(".image").bounding_box()
    sides = figure.locator(".image").evaluate("i => [i.naturalWidth, i.naturalHeight]")
    scale = min(box["width"] / sides[0], box["height"] / sides[1])
    left = box["x"] + (box["width"] - sides[0] * scale) / 2
    top = box["y"] + (box["height"] - sides[1] * scale) / 2
    places = [(left + x * sides[0] * scale, top + y * sides[1] * scale) for x, y in (start, end)]
    page.mouse.move(*places[0])
    page.mouse.down()
    page.mouse.move(*places[1], steps=4)
    page.mouse.up()


def region_of(page):
    return tuple(map(float, parse_qs(urlsplit(page.url).query)["region"][0].split(",")))


def test_a_rectangle_searches_for_what_is_inside(open_page, address, gallery, query):
    page = open_page(address)
    search(page, query)
    whole = hits(page)
    expect(page.locator(".divider")).to_have_count(1)
    drag(page, (0.2, 0.3), (0.8, 0.9))
    expect(page.locator("h1")).to_have_text("Images with this part of bird.jpg")
    region = region_of(page)
    assert region == pytest.approx((0.2, 0.3, 0.8, 0.9), abs=0.02)
    expected = gallery.search(query, 24, region=region)
    assert hits(page) == [hit.key for hit in expected] != whole
    expect(page.locator(".divider")).to_have_count(0)  # its radius is of whole images
    boxes = page.locator("#hits li .box")
    assert boxes.count() == sum(hit.box is not None for hit in expected) > 0
    # Keys: move it, search again; Escape returns to the whole image.
    frame = page.locator("#query .region")
    frame.focus()
    frame.press("ArrowLeft")
    frame.press("Enter")
    page.wait_for_url(lambda url: f"region={region[0] - 0.05:.4f}" in url)
    page.locator("#query .region").press("Escape")
    expect(page.locator("h1")).to_have_text("Images like bird.jpg")
    assert hits(page) == whole


def test_words_search_for_what_they_name(open_page, address, gallery, query):
    page = open_page(address, allowed=["404"])
    page.get_by_label("or say what it shows").fill("bird")
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("Images of bird")
    expected = gallery.search_words("bird", 24)
    assert hits(page) == [hit.key for hit in expected]
    first = page.locator("#hits li").first
    expect(first.locator(".chances")).to_contain_text("shows it")
    page.locator("#hits .open").first.click()
    expect(page.locator("#lightbox-numbers")).to_contain_text("shows it")
    page.keyboard.press("Escape")
    page.get_by_label("or say what it shows").fill("democracy")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("democracy")
    search(page, query)  # an image again
    expect(page.locator("h1")).to_have_text("Images like bird.jpg")


def test_a_hit_opens_in_a_light_box(open_page, address, gallery, query):
    page = open_page(address)
    search(page, query)
    expected = gallery.search(query, 24)
    page.locator("#hits .open").nth(1).click()
    box = page.get_by_role("dialog")
    expect(box).to_be_visible()
    expect(box.locator("#lightbox-name")).to_have_text(Path(expected[1].key).name)
    expect(box.locator("#lightbox-path")).to_have_text(expected[1].key)
    box.get_by_text("How it compares").click()
    numbers = box.locator("#lightbox-numbers")
    expect(numbers).to_contain_text(f"{in_bits(expected[1].distance)} of 128")
    item = gallery.get(expected[1].key)
    facts = box.locator("#lightbox-facts")
    expect(facts).to_contain_text(f"{item.properties['width']} \u00d7 ")
    expect(facts).to_contain_text(item.metadata["kind"])
    expect(box.locator("#lightbox-folder")).to_have_text(Path(expected[1].key).parent.name)
    assert box.locator(".box").count() == (expected[1].box is not None)
    image = box.locator(".image")
    width = image.evaluate("image => image.decode().then(() => image.naturalWidth)")
    assert width == item.properties["width"]
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    page.keyboard.press("ArrowLeft")
    expect(box.locator("#lightbox-name")).to_have_text(Path(expected[0].key).name)
    expect(box.locator("#lightbox-before")).to_be_disabled()
    box.get_by_role("button", name="Where the model looked").click()
    expect(box.locator(".attention.loaded")).to_have_count(1)
    page.keyboard.press("Escape")
    expect(box).to_be_hidden()
    expect(page.locator("#hits .open").nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    box.get_by_role("button", name="Search from this").click()
    expect(page.locator("h1")).to_have_text(f"Images like {Path(expected[1].key).name}")


def test_a_look_of_an_item_searches_for_what_is_there(open_page, address, gallery, folder):
    key = str(folder / "birds" / "owl.jpg")
    page = open_page(f"{address}/?key={key}")
    looks = page.locator("#query .look")
    expect(looks).to_have_count(len(gallery.get(key).boxes))
    looks.first.focus()
    looks.first.press("Enter")
    expect(page.locator("h1")).to_have_text("Images with this part of owl.jpg")
    assert any(region_of(page) == pytest.approx(box, abs=1e-3) for box in gallery.get(key).boxes)
    page.locator("#part").click()
    expect(page.locator("h1")).to_have_text("Images like owl.jpg")


def test_back_and_reload_keep_the_search(open_page, address, query):
    page = open_page(address)
    search(page, query)
    found = hits(page)
    page.reload()
    expect(page.locator("h1")).to_have_text("Images like bird.jpg")
    expect(page.locator("#hits li:not(.start)")).to_have_count(24)
    assert hits(page) == found
    page.locator("#hits .search").nth(2).click()
    expect(page.locator("h1")).to_have_text(f"Images like {Path(found[2]).name}")
    page.go_back()
    expect(page.locator("h1")).to_have_text("Images like bird.jpg")
    page.go_back()
    expect(page.locator("#hits li.start")).not_to_have_count(0)
    page.go_forward()
    expect(page.locator("h1")).to_have_text("Images like bird.jpg")


def test_a_click_searches_by_that_image(open_page, address, gallery):
    page = open_page(address)
    page.locator("#hits .open").first.click()
    expect(page.locator("#status")).to_contain_text("most alike first")
    key = parse_qs(urlsplit(page.url).query)["key"][0]
    assert hits(page) == [hit.key for hit in gallery.search(key, 24, exclude_self=True)]
    assert page.evaluate("document.activeElement.id") == "title"


def test_search_by_drop_and_paste(open_page, address, query):
    page = open_page(address)
    content = base64.b64encode(query.read_bytes()).decode()
    for event, kind, carrier in (
        ("drop", "DragEvent", "dataTransfer"),
        ("paste", "ClipboardEvent", "clipboardData"),
    ):
        page.goto(address)
        expect(page.locator("#hits li.start")).not_to_have_count(0)
        script = f"""async (content) => {{
            const blob = await (await fetch("data:image/jpeg;base64," + content)).blob();
            const transfer = new DataTransfer();
            transfer.items.add(new File([blob], "{event}ped.jpg", {{ type: "image/jpeg" }}));
            document.body.dispatchEvent(new {kind}("{event}", {{
                bubbles: true, cancelable: true, {carrier}: transfer }}));
        }}"""
        # The page's policy forbids fetching a data URI.
        script = script.replace(
            'await (await fetch("data:image/jpeg;base64," + content)).blob()',
            "new Blob([Uint8Array.from(atob(content), (c) => c.charCodeAt(0))])",
        )
        page.evaluate(script, content)
        expect(page.locator("h1")).to_have_text(f"Images like {event}ped.jpg")
    page.evaluate(
        "document.body.dispatchEvent(new DragEvent('drop', "
        "{ bubbles: true, cancelable: true, dataTransfer: new DataTransfer() }))"
    )
    expect(page.get_by_role("alert")).to_contain_text("There is no image in that")


def test_filters_narrow_the_search(open_page, address, gallery, folder, query):
    page = open_page(address)
    search(page, query)
    page.locator("#filters summary").click()

    def expect_hits(where):
        expected = [hit.key for hit in gallery.search(query, 24, where=where)]
        assert len(expected) > 0
        page.wait_for_function(
            "keys => JSON.stringify([...document.querySelectorAll('#hits .search')]"
            ".map((one) => one.dataset.key)) === JSON.stringify(keys)",
            arg=expected,
        )

    page.get_by_label("Folder", exact=True).select_option(label="fish")
    expect_hits({"@key": {"like": f"{folder}/fish/%"}})
    page.get_by_label("Name or folder contains").fill("GOLD")
    expect_hits({"@key": {"like": f"{folder}/fish/%gold%"}})
    expect(page.locator("#filter-count")).to_have_text("(1 set)")
    # A trailing space stays in the box while somebody types.
    page.get_by_label("Name or folder contains").fill("goldfish ")
    expect_hits({"@key": {"like": f"{folder}/fish/%goldfish%"}})
    expect(page.get_by_label("Name or folder contains")).to_have_value("goldfish ")
    page.get_by_role("button", name="Clear filters").click()
    expect_hits({})
    page.get_by_label("kind", exact=True).select_option("windmills")
    expect_hits({"kind": "windmills"})
    page.get_by_label("rank, to").fill("40")
    expect_hits({"kind": "windmills", "rank": {"<=": 40}})
    # The address holds all filters.
    page.reload()
    expect_hits({"kind": "windmills", "rank": {"<=": 40}})
    page.get_by_label("rank, to").evaluate("(box) => (box.closest('details').open = true)")
    page.get_by_label("Name or folder contains").fill("no such name")
    expect(page.get_by_role("alert")).to_contain_text("No image matches the filters")
    page.get_by_role("alert").get_by_role("button", name="Clear filters").click()
    expect_hits({})


def test_the_radius_hides_distant_hits(open_page, address, gallery, query):
    page = open_page(address)
    search(page, query)
    found = gallery.search(query, 24)
    radius = math.ceil(found[5].distance)
    slider = page.get_by_label("How alike")
    slider.fill(str(radius))
    near = [hit.key for hit in found if hit.distance <= radius]
    assert hits(page) == near
    expect(page.locator("#radius-text")).to_have_text("somewhat alike or more")
    assert f"radius={radius}" in page.url
    page.reload()
    expect(page.locator("#status")).to_contain_text(f"{len(near)} images")
    assert hits(page) == near
    slider.fill("0")
    expect(page.get_by_role("alert")).to_contain_text("The image that is most alike is")
    page.get_by_role("button", name="Show all").click()
    assert len(hits(page)) == 24
    assert "radius" not in page.url


def test_show_more_doubles_the_hits(open_page, address, gallery, query):
    page = open_page(address)
    search(page, query)
    page.get_by_role("button", name="Show more").click()
    expect(page.locator("#hits li")).to_have_count(min(48, len(gallery)))


def test_hover_and_tap_show_attention(open_page, address, query):
    page = open_page(address)
    search(page, query)
    first = page.locator("#hits li").first
    heat = first.locator(".attention")
    expect(heat).to_have_css("opacity", "0")
    first.locator(".search").hover()
    expect(heat).to_have_css("opacity", "1")
    assert heat.evaluate("image => image.decode().then(() => image.naturalWidth)") > 100
    page.mouse.move(0, 0)
    expect(heat).to_have_css("opacity", "0")
    page.get_by_label("Show where the model looked", exact=True).check()
    expect(page.locator("#hits .attention.loaded")).to_have_count(24)
    expect(page.locator("#query .attention")).to_have_css("opacity", "1")

    phone = open_page(address, has_touch=True, viewport={"width": 390, "height": 844})
    search(phone, query)
    expect(phone.locator("#hits .eye").first).to_be_hidden()  # nothing lies on the images
    phone.locator("#hits .open").first.tap()
    eye = phone.get_by_role("button", name="Where the model looked")
    eye.tap()
    expect(eye).to_have_attribute("aria-pressed", "true")
    expect(phone.locator("#lightbox .attention")).to_have_css("opacity", "1")
    eye.tap()
    expect(phone.locator("#lightbox .attention")).to_have_css("opacity", "0")


def test_the_keyboard_reaches_everything(open_page, address, query):
    page = open_page(address)
    expect(page.locator("#hits li.start")).not_to_have_count(0)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the images")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    first = page.locator("#hits .open").first
    expect(first).to_be_focused()
    expect(first).to_have_css("outline-style", "solid")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#hits .open").nth(1)).to_be_focused()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    expect(first).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_contain_text("most alike first")
    expect(page.locator("h1")).to_be_focused()


def test_roles_and_names_for_screen_readers(open_page, address, gallery, query):
    page = open_page(address)
    search(page, query)
    expect(page.locator("#status[role=status]")).to_have_text("24 images, most alike first")
    hit = gallery.search(query, 1)[0]
    name = f"Open {Path(hit.key).name}, number 1, alike, same kind {hit.same_kind:.0%}"
    expect(page.get_by_role("button", name=name)).to_have_count(1)
    expect(page.locator("#hits").get_by_role("listitem")).to_have_count(24)
    expect(page.get_by_role("slider", name="How alike")).to_have_attribute("aria-valuetext", "any")


def test_rows_are_full_and_nothing_jumps(open_page, address, query):
    page = open_page(address)
    search(page, query)
    rows = page.evaluate(
        """() => {
            const boxes = [...document.querySelectorAll("#hits .rows:first-child .figure")]
                .map((one) => one.getBoundingClientRect());
            const list = document.querySelector("#hits .rows").getBoundingClientRect();
            const first = boxes.filter((box) => box.top === boxes[0].top);
            return { heights: first.map((box) => box.height), right: first.at(-1).right,
                     edge: list.right, count: boxes.length };
        }"""
    )
    assert max(rows["heights"]) - min(rows["heights"]) < 0.5
    assert 1 < len(rows["heights"]) < rows["count"]
    assert rows["right"] == pytest.approx(rows["edge"], abs=1)
    # Since the cards were there; before, no image was.
    jumped = page.evaluate(
        """() => new Promise((resolve) => {
            const seen = (list) => list.getEntries().filter((one) => !one.hadRecentInput);
            const watch = (list) => resolve(seen(list).map((one) => one.value));
            new PerformanceObserver(watch).observe({ type: "layout-shift", buffered: true });
            setTimeout(() => resolve([]), 300);
        })"""
    )
    assert sum(jumped) < 0.1
    assert page.locator("#hits .figure").first.evaluate(
        "figure => getComputedStyle(figure).aspectRatio !== 'auto'"
    )


def test_a_line_divides_what_is_probably_unrelated(open_page, address, gallery, query):
    page = open_page(address)
    search(page, query)
    radius = page.evaluate("fetch('/api/gallery').then((one) => one.json())")["unrelated"]["radius"]
    near = [hit.key for hit in gallery.search(query, 24) if hit.distance <= radius]
    lists = page.locator("#hits .rows")
    expect(page.locator("#hits h2")).to_have_text("Probably unrelated from here on")
    expect(lists.first.get_by_role("listitem")).to_have_count(len(near))
    slider = page.get_by_label("How alike")
    slider.fill(str(radius // 2))
    expect(page.locator("#hits h2")).to_be_hidden()


def test_copies_among_hits_are_folded(open_page, copied, examples):
    with served(copied) as address:
        page = open_page(address)
        search(page, examples / "fish" / "goldfish.jpg")
        expect(page.locator("#hits .copy").first).to_have_text("identical file")
        assert len([key for key in hits(page) if "goldfish" in key]) == 3
        cards = page.locator("#hits li:visible")
        whole = len(hits(page))
        expect(cards).to_have_count(whole - 4)
        fold = page.get_by_role("button", name="+ 2 copies")
        fold.click()
        expect(cards).to_have_count(whole - 2)
        expect(page.get_by_role("button", name="hide copies")).to_be_focused()
        page.locator("#hits .open").nth(2).click()
        expect(page.locator("#lightbox-place")).to_have_text(f"3 of {whole - 2}")


def test_the_page_says_when_the_gallery_has_grown(open_page, encoder, tmp_path, examples):
    path = tmp_path / "g.bitgaze"
    with Gallery(path, encoder=encoder, looks=0) as gallery, served(gallery) as address:
        gallery.add("one", examples / "fish" / "goldfish.jpg")
        page = open_page(address)
        page.clock.install()
        page.reload()
        expect(page.locator("#hits li")).to_have_count(1)
        page.clock.fast_forward(5_100)
        page.wait_for_load_state("networkidle")
        expect(page.locator("#news")).to_be_hidden()
        with Gallery(path, encoder=encoder) as other:  # as `bitgaze index` does
            other.add("two", examples / "fish" / "clownfish.jpg")
        page.clock.fast_forward(5_100)
        expect(page.locator("#news")).to_contain_text("1 new image")
        expect(page.locator("#hits li")).to_have_count(1)
        page.locator("#news").get_by_role("button", name="Show").click()
        expect(page.locator("#hits li")).to_have_count(2)
        expect(page.locator("#gallery")).to_contain_text("2 images")
        expect(page.locator("#news")).to_be_hidden()


def test_a_file_is_shown_in_its_folder(open_page, gallery, query, monkeypatch):
    shown = []
    monkeypatch.setattr(reveal, "_has_desktop", lambda: True)
    monkeypatch.setattr(reveal.click, "launch", lambda path, locate: shown.append(path) or 0)
    with served(gallery, is_local=True) as address:
        page = open_page(address)
        search(page, query)
        page.locator("#hits .open").first.click()
        with page.expect_response("**/api/reveal?*") as answer:
            page.get_by_role("button", name="Show in folder").click()
        assert answer.value.ok
        assert shown == [gallery.search(query, 1)[0].key]


# ---- duplicates ---------------------------------------------------------------------------------


def test_duplicates_by_tier(duplicates):
    page = duplicates()
    groups = page.locator(".group")
    expect(groups).to_have_count(2)
    expect(page.locator("#status")).to_contain_text("2 groups: 3 copies besides the best")
    expect(page.get_by_role("button", name="Copies 2")).to_have_attribute("aria-pressed", "true")
    goldfish = groups.filter(has_text="goldfish-small.jpg")
    expect(goldfish.get_by_role("heading")).to_have_text("goldfish.jpg and 2 copies")
    expect(goldfish.locator(".tier")).to_have_text(["best", "identical file", "copy"])
    expect(goldfish.locator(".folder")).to_have_text(["fish", "backup", "sent"])
    expect(goldfish.locator("li").nth(2).locator(".facts").first).to_contain_text("128 \u00d7 96")
    page.get_by_role("button", name="Identical files 1").click()
    expect(groups).to_have_count(1)
    expect(groups.get_by_role("heading")).to_have_text("discus-fish.jpg and 1 identical file")
    page.get_by_role("button", name="Look-alikes").click()
    expect(page.get_by_role("alert")).to_contain_text("No look-alikes")
    page.go_back()
    expect(groups.get_by_role("heading")).to_have_text("discus-fish.jpg and 1 identical file")
    # An image opens, and the next one lies in its place.
    groups.locator(".open").first.click()
    box = page.get_by_role("dialog")
    expect(box.locator("#lightbox-place")).to_have_text("1 of 2")
    box.get_by_role("button", name="Mark", exact=True).click()
    expect(box.get_by_role("button", name="Marked")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Escape")
    expect(page.locator(".mark").first).to_have_attribute("aria-checked", "true")


def test_marks_by_keyboard_and_the_list_of_them(duplicates):
    page = duplicates()
    found = [group for group in duplicates.gallery.duplicates() if group.others[-1].tier == "copy"]
    paths = [[one.path for one in (group.best, *group.others)] for group in found]
    bar = page.get_by_role("region", name="Marked images")
    expect(bar).to_be_hidden()
    page.locator(".open").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press(" ")
    marks = page.locator(".group").first.get_by_role("checkbox")
    expect(marks.nth(1)).to_be_checked()
    expect(page.get_by_role("dialog")).to_be_hidden()  # the space bar opened nothing
    expect(bar).to_contain_text("1 image marked")
    page.keyboard.press("k")
    expect(marks.nth(1)).not_to_be_checked()
    expect(marks.first).to_be_checked()

    def saved(form):
        page.get_by_label("List as").select_option(label=form)
        with page.expect_download() as download:
            page.get_by_role("button", name="Save list").click()
        return Path(download.value.path()).read_bytes()

    others = [path for path in paths[0] if path != paths[0][1]]
    assert saved("paths, one a line").decode().splitlines() == others
    assert saved("paths for xargs -0") == b"".join(os.fsencode(path) + b"\0" for path in others)
    assert json.loads(saved("JSON")) == others
    page.keyboard.press("Shift+Tab")
    # All of a group are marked: that is told, not forbidden.
    page.get_by_role("button", name="Clear").click()
    expect(bar).to_be_hidden()
    page.get_by_role("button", name="Mark all but the best").click()
    expect(bar).to_contain_text("3 images marked")
    page.locator(".mark").first.click()
    expect(page.locator(".group").first).to_contain_text("none would be left")
    expect(bar).to_contain_text("In 1 group nothing would be left.")
    page.reload()
    expect(bar).to_contain_text("4 images marked")
    expect(bar).to_contain_text("In 1 group nothing would be left.")
    assert all(Path(path).exists() for group in paths for path in group)


def test_what_is_no_duplicate_leaves_and_comes_back(duplicates):
    page = duplicates()
    group = page.locator(".group").filter(has_text="clownfish")
    group.locator(".open").nth(1).focus()
    page.keyboard.press("d")
    expect(group).to_have_count(0)
    expect(page.locator("#status")).to_contain_text("1 group: 2 copies")
    expect(page.locator(".open:focus, #title:focus")).to_have_count(1)
    assert len(duplicates.gallery.duplicates()) == 2
    page.get_by_role("button", name="Undo").click()
    expect(group).to_have_count(1)
    assert len(duplicates.gallery.duplicates()) == 3


def test_members_that_are_not_shown_are_counted(duplicates):
    page = duplicates()
    body = page.evaluate("fetch('/api/duplicates').then((one) => one.json())")
    groups = [one | {"left_out": 2} for one in body["groups"] if len(one["others"]) == 1]
    page.route("**/api/duplicates?*", lambda route: route.fulfill(json=body | {"groups": groups}))
    page.reload()
    expect(page.locator(".group h2")).to_contain_text("3 copies; 2 of them are not shown")
    page.locator(".group .open").nth(1).focus()
    page.keyboard.press("d")
    expect(page.locator(".group h2")).to_contain_text("2 copies; 2 of them are not shown")
    expect(page.locator(".group .open")).to_have_count(1)


def test_groups_come_a_page_at_a_time(duplicates):
    page = duplicates("?tier=copy")
    body = page.evaluate("fetch('/api/duplicates').then((one) => one.json())")
    page.route(
        "**/api/duplicates?*",
        lambda route: route.fulfill(
            json=body
            | {
                "counts": {"identical": 0, "copy": 2, "look-alike": None},
                "first": int("first=1" in route.request.url),
                "groups": body["groups"][1:]
                if "first=1" in route.request.url
                else body["groups"][:1],
            }
        ),
    )
    page.reload()
    expect(page.locator(".group")).to_have_count(1)
    page.get_by_role("button", name="Show more").click()
    expect(page.locator(".group")).to_have_count(2)
    expect(page.locator(".group").nth(1).locator(".open").first).to_be_focused()
    expect(page.get_by_role("button", name="Show more")).to_be_hidden()


def test_progress_while_groups_are_computed(duplicates):
    page = duplicates()
    held, is_over = [], threading.Event()

    def answer(route):
        if is_over.is_set():
            route.continue_()
        elif "state=s" in route.request.url:
            held.append(route)
        else:
            route.fulfill(status=202, json={"state": "s", "done": 3, "total": 10})

    page.route("**/api/duplicates?*", answer)
    with page.expect_request("**/api/duplicates?*state=s*"):
        page.reload()
    expect(page.get_by_role("progressbar")).to_have_attribute("value", "3")
    expect(page.locator("#status")).to_have_text("Comparing 8 images")
    is_over.set()
    held[0].continue_()
    expect(page.locator(".group")).to_have_count(2)
    expect(page.get_by_role("progressbar")).to_be_hidden()


@pytest.mark.parametrize(("scheme", "width"), SCREENS)
def test_duplicates_are_accessible(duplicates, scheme, width):
    page = duplicates(color_scheme=scheme, viewport={"width": width, "height": 844})
    page.emulate_media(reduced_motion="reduce")
    page.locator(".mark").first.click()
    page.get_by_role("button", name="Mark all but the best").click()
    page.locator(".open").nth(1).focus()

    def check():
        found = Axe().run(page).response["violations"]
        assert found == [], [(one["id"], one["nodes"][0]["html"]) for one in found]
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")

    check()
    page.locator(".open").nth(1).click()
    expect(page.get_by_role("dialog")).to_be_visible()
    check()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Look-alikes").click()
    expect(page.get_by_role("alert")).to_contain_text("No look-alikes")
    check()


@pytest.mark.parametrize(("scheme", "width"), SCREENS)
def test_accessible_and_no_wider_than_the_screen(
    open_page, address, query, scheme, width, tmp_path
):
    page = open_page(
        address,
        allowed=["422"],
        color_scheme=scheme,
        reduced_motion="reduce",
        viewport={"width": width, "height": 844},
    )

    def check():
        found = Axe().run(page).response["violations"]
        assert found == [], [(one["id"], one["nodes"][0]["html"]) for one in found]
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")

    expect(page.locator("#hits li.start")).not_to_have_count(0)
    check()
    search(page, query)
    assert page.locator("#query").bounding_box()["width"] > 100
    page.locator("#filters summary").click()
    page.locator("#hits .eye").first.evaluate("button => button.click()")
    check()
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    page.set_input_files("#file", tmp_path / "bad.jpg")
    expect(page.get_by_role("alert")).not_to_be_empty()
    check()
    page.goto(f"{address}/api/docs")
    expect(page.get_by_role("heading", name="POST /api/search")).to_be_visible()
    check()


def test_a_file_that_is_not_an_image(open_page, address, query, tmp_path):
    page = open_page(address, allowed=["422"])
    search(page, query)
    (tmp_path / "notes.jpg").write_text("no image")
    page.set_input_files("#file", tmp_path / "notes.jpg")
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("This file cannot be read as an image")
    expect(alert).to_contain_text("Try a JPEG")
    search(page, query)
    expect(alert).to_be_empty()


def test_a_file_that_is_too_large(open_page, gallery, query, tmp_path):
    (tmp_path / "huge.jpg").write_bytes(bytes(3_000_000))
    with served(gallery, limits=Limits(upload_bytes=1_000_000)) as address:
        page = open_page(address)
        expect(page.locator("#hits li.start")).not_to_have_count(0)
        page.set_input_files("#file", tmp_path / "huge.jpg")
        alert = page.get_by_role("alert")
        expect(alert).to_contain_text("huge.jpg has 3 MB, the limit is 1 MB. Save a smaller copy")


def test_try_again_after_the_server_comes_back(open_page, gallery, query):
    with served(gallery) as address:
        page = open_page(address, allowed=["ERR_CONNECTION_REFUSED"])
        expect(page.locator("#hits li.start")).not_to_have_count(0)
        page.wait_for_load_state("networkidle")  # thumbnails too: the server is about to stop
    page.set_input_files("#file", query)
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("The server does not answer")
    expect(alert.locator("code")).to_have_text("bitgaze serve")
    with served(gallery, port=urlsplit(address).port):
        alert.get_by_role("button", name="Try again").click()
        expect(page.locator("h1")).to_have_text("Images like bird.jpg")


def test_an_empty_gallery_that_fills_up(open_page, encoder, tmp_path, examples):
    with Gallery(tmp_path / "new.bitgaze", encoder=encoder) as empty, served(empty) as address:
        page = open_page(address)
        expect(page.locator("h1")).to_have_text("This gallery is empty")
        expect(page.locator("#message code")).to_contain_text("bitgaze index")
        empty.sync(examples / "fish")
        page.get_by_role("button", name="Check again").click()
        expect(page.locator("#hits li.start")).not_to_have_count(0)


def test_a_gallery_of_codes(open_page, tmp_path, gallery):
    with Gallery(tmp_path / "own.bitgaze", bits=128) as own:
        for key in list(gallery)[:5]:
            own.add_code(Path(key).name, gallery.get(key).code)
        with served(own) as address:
            page = open_page(address)
            expect(page.locator("#hits .no-image").first).to_contain_text("added by hand")
            expect(page.locator("#file")).to_be_hidden()
            page.locator("#hits .open").first.click()
            expect(page.locator("#status")).to_contain_text("4 images, most alike first")


def test_a_missing_file_is_named(open_page, encoder, tmp_path, examples):
    shutil.copytree(examples / "fish", tmp_path / "fish")
    with Gallery(tmp_path / "g.bitgaze", encoder=encoder) as gallery:
        gallery.sync(tmp_path / "fish")
        for path in (tmp_path / "fish").iterdir():
            path.unlink()
        with served(gallery) as address:
            page = open_page(address, allowed=["404"])
            expect(page.locator("#hits .no-image").first).to_have_text(
                "the file is gone, has changed or cannot be read"
            )


def test_the_token_opens_the_page(open_page, gallery, query):
    with served(gallery, token=TOKEN) as address:
        page = open_page(address, allowed=["401"])
        expect(page.get_by_role("alert")).to_contain_text("This page requires a token")
        page.goto(f"{address}/?token={TOKEN}")
        expect(page.locator("#hits li.start")).not_to_have_count(0)
        assert page.url == f"{address}/"
        search(page, query)
