"""The page that `bitgaze export-web` writes, in Debian's Chromium, driven by Playwright."""

import base64
import contextlib
import functools
import http.server
import shutil
import threading
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import expect, sync_playwright

from bitgaze import Gallery
from bitgaze.gallery.website import SITE, export_web

CHROMIUM = "/usr/bin/chromium"
SUBJECTS = ("birds", "fish", "windmills")
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
READY = "#file:not([disabled])"

pytestmark = pytest.mark.skipif(
    not Path(CHROMIUM).exists() or not (SITE / "index.html").is_file(),
    reason="Chromium is not installed, or the page is not built (make web)",
)


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@contextlib.contextmanager
def served(folder):
    """A plain web server; yields its address and a function that stops it."""
    handler = functools.partial(Handler, directory=folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()

    def stop():
        server.shutdown()
        thread.join()
        server.server_close()

    try:
        yield f"http://localhost:{server.server_port}/", stop
    finally:
        stop()


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", *CAMERA]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        expect.set_options(timeout=60_000)  # on a busy machine the network takes seconds
        yield browser
        expect.set_options(timeout=5_000)
        browser.close()


@pytest.fixture(scope="module")
def gallery(tmp_path_factory, examples, encoder):
    folder = tmp_path_factory.mktemp("web")
    for subject in SUBJECTS:
        (folder / "photos" / subject).mkdir(parents=True)
        for path in sorted((examples / subject).iterdir())[:6]:
            shutil.copy(path, folder / "photos" / subject)
    with Gallery(folder / "animals.bitgaze", encoder=encoder) as gallery:
        gallery.sync(folder / "photos")
        yield gallery


@pytest.fixture(scope="module")
def site(gallery):
    folder = gallery.path.parent / "site"
    export_web(gallery, folder)
    return folder


@pytest.fixture(scope="module")
def address(site):
    with served(site) as (address, _):
        yield address


@pytest.fixture(scope="module")
def context(browser, address):
    """A browser that has been here before: its console stays empty, its requests are the site's."""
    logged, requested = [], []
    context = browser.new_context(permissions=["camera", "clipboard-read", "clipboard-write"])
    context.set_default_timeout(60_000)
    context.on("console", lambda message: logged.append(message.text))
    context.on("weberror", lambda error: logged.append(str(error.error)))
    context.on("request", lambda request: requested.append(request.url))
    yield context
    elsewhere = [url for url in requested if not url.startswith((address, f"blob:{address}"))]
    assert elsewhere == []
    assert logged == []
    context.close()


@pytest.fixture(scope="module")
def page(context, address):
    """One page for several tests: a page that loads compiles the network, for a second."""
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector(READY, state="attached")
    yield page
    page.close()


@pytest.fixture
def query(examples):
    return examples.parent / "queries" / "bird.jpg"


def keys(page):
    return page.locator("#hits .name").evaluate_all("all => all.map((one) => one.title)")


def relative(hits, gallery):
    folder = gallery.path.parent
    return [Path(hit.key).relative_to(folder).as_posix() for hit in hits]


def test_the_page_finds_what_python_finds(page, gallery, query):
    page.set_input_files("#file", query)
    expect(page.locator("h1")).to_have_text("Images like bird.jpg")
    expect(page.locator("#status")).to_contain_text("18 images, nearest first")
    hits = gallery.search(query, 18)
    assert keys(page) == relative(hits, gallery)
    first = page.locator("#hits li").first
    expect(first.locator(".chances")).to_have_text(f"same kind {hits[0].same_kind:.0%}")
    expect(page.locator("#gallery")).to_have_text("18 images in animals")
    image = first.locator(".image")
    assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") > 100
    box, placed = hits[0].box, first.locator(".box")
    assert (placed.count() == 1) == (box is not None)

    first.locator(".open").click()
    expect(page.locator("#lightbox .stage")).to_have_css("background-color", "rgb(22, 20, 27)")
    expect(page.locator("#lightbox-facts")).to_contain_text("bits that differ")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#lightbox-place")).to_have_text("2 of 18")
    page.click("#lightbox-search")
    second = Path(hits[1].key).name
    expect(page.locator("h1")).to_have_text(f"Images like {second}")
    assert keys(page) == relative(gallery.search(hits[1].key, 18), gallery)


def test_it_works_without_a_network_after_the_first_visit(browser, site, gallery, query):
    context = browser.new_context()
    context.set_default_timeout(60_000)
    page = context.new_page()
    with served(site) as (address, stop):
        page.goto(address)
        page.wait_for_selector(READY, state="attached")
        expect(page.locator("#offline")).to_have_text("Works offline")
        stop()
        context.set_offline(True)
        page.goto(address)
        page.wait_for_selector(READY, state="attached")
        page.set_input_files("#file", query)
        expect(page.locator("h1")).to_have_text("Images like bird.jpg")
        assert keys(page) == relative(gallery.search(query, 18), gallery)
        assert page.evaluate("crossOriginIsolated")  # so threads are allowed
    context.close()


def test_images_that_are_dropped_pasted_and_photographed(page, query):
    content = base64.b64encode(query.read_bytes()).decode()
    give = """([content, name, data]) => {
      const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
      const transfer = new DataTransfer();
      transfer.items.add(new File([bytes], "given.jpg", { type: "image/jpeg" }));
      const options = { bubbles: true, cancelable: true, [data]: transfer };
      const kind = name === "paste" ? ClipboardEvent : DragEvent;
      document.body.dispatchEvent(new kind(name, options));
    }"""
    page.evaluate(give, [content, "dragover", "dataTransfer"])
    expect(page.locator("#drop")).to_be_visible()
    page.evaluate(give, [content, "drop", "dataTransfer"])
    expect(page.locator("h1")).to_have_text("Images like given.jpg")
    expect(page.locator("#drop")).to_be_hidden()
    dropped = keys(page)
    page.evaluate(give, [content, "paste", "clipboardData"])
    expect(page.locator("h1")).to_have_text("Images like the pasted image")
    assert keys(page) == dropped

    page.click("#camera")
    page.locator("#video").evaluate("video => new Promise((done) => (video.onplaying = done))")
    page.click("#shutter")
    expect(page.locator("h1")).to_have_text("Images like the camera's picture")
    expect(page.locator("#viewfinder")).to_be_hidden()
    assert page.locator("#video").evaluate("video => video.srcObject") is None


def test_what_is_no_image_is_said_to_be_none(page, tmp_path, query):
    (tmp_path / "notes.jpg").write_text("not an image")
    page.set_input_files("#file", tmp_path / "notes.jpg")
    expect(page.locator("#message")).to_contain_text("cannot decode the file as an image")
    page.set_input_files("#file", query)
    expect(page.locator("h1")).to_have_text("Images like bird.jpg")
    expect(page.locator("#message")).to_be_empty()


def test_images_that_browsers_must_turn_shrink_and_put_on_white(page, gallery, query, tmp_path):
    with Image.open(query) as image:
        large = image.convert("RGB").resize((1700, 1303))  # decoded at half its size
    exif = Image.Exif()
    exif[0x0112] = 6
    large.save(tmp_path / "turned.jpg", exif=exif, quality=90)
    mask = Image.linear_gradient("L").resize(large.size)
    large.putalpha(mask)
    large.resize((400, 300)).save(tmp_path / "transparent.png")
    for name in ("turned.jpg", "transparent.png"):
        page.set_input_files("#file", tmp_path / name)
        expect(page.locator("h1")).to_have_text(f"Images like {name}")
        hit = gallery.search(tmp_path / name, 1)[0]
        assert keys(page)[:1] == relative([hit], gallery)
        title = page.locator("#hits .bar").first.get_attribute("title")
        assert float(title.split()[0]) == pytest.approx(hit.distance, abs=1)


def test_phones(browser, address, query):
    """A narrow page does not scroll sideways, and has no barriers in light and in dark colours."""
    screen = {"width": 390, "height": 844}
    phone = browser.new_context(viewport=screen, has_touch=True, is_mobile=True, bypass_csp=True)
    phone.set_default_timeout(60_000)
    page = phone.new_page()
    page.goto(address)
    expect(page.locator("#hits li.start")).to_have_count(18)
    page.locator("#hits li .open").nth(3).tap()
    expect(page.locator("h1")).to_contain_text("Images like")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert Axe().run(page).response["violations"] == []
    phone.close()
