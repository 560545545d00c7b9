"""The npm package in Node, compared with Python; and what `bitgaze export-web` writes."""

import base64
import dataclasses
import json
import ntpath
import re
import shutil
import struct
import subprocess
import zlib
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from damage import append, change_number, cut, cut_out, flip_bits, flip_in_front, overwrite
from PIL import Image

import oracle
from bitgaze import Encoder, Gallery, GalleryError
from bitgaze.cli.main import main
from bitgaze.encoding.contract import DEFAULT_MODEL, read_model
from bitgaze.encoding.images import Preprocess, part, prepared
from bitgaze.encoding.looks import choose
from bitgaze.gallery import website
from bitgaze.gallery.adaptation import Adaptation, adapted_codes
from bitgaze.gallery.flat.gallery import FlatGallery
from bitgaze.gallery.flat.writer import BATCH_ITEMS, Batch, Origin, write_flat
from bitgaze.hamming import pack
from codes import clustered_codes, random_codes
from conftest import PETS, ROOT

PACKAGE = ROOT / "web" / "dist" / "index.js"
DRIVER = Path(__file__).parent / "web_driver.mjs"
MODEL = read_model(DEFAULT_MODEL)
DAMAGE = (append, change_number, cut, cut_out, flip_bits, flip_in_front, overwrite)

is_built = pytest.mark.skipif(
    not PACKAGE.is_file() or shutil.which("node") is None,
    reason="the npm package is not built (make web), or Node is not installed",
)


def text(content):
    return base64.b64encode(np.ascontiguousarray(content)).decode()


def array(answer, shape=(-1,)):
    return np.frombuffer(base64.b64decode(answer), np.uint8).reshape(shape)


def node(folder, cases, model=DEFAULT_MODEL):
    """The answers of the npm package to some cases, see web_driver.mjs."""
    (folder / "cases.json").write_text(json.dumps(cases))
    command = ["node", DRIVER, PACKAGE, model, folder / "cases.json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def tensor(values):
    kind = "f" if values.dtype == np.float32 else "u"
    return [kind, [1, *values.shape], text(values)]


def outputs(seed=0, cells=7):
    """What a network might say of an image."""
    values = np.random.default_rng(seed)
    count = 16
    maps = values.normal(size=(count, cells, cells)).cumsum(axis=1).cumsum(axis=2)
    attention = np.maximum(maps.mean(axis=0), 0)
    hashes = values.normal(size=128)
    return {
        "hash": hashes.astype(np.float32),
        "code": pack(hashes.astype(np.float32)),
        "attention": (attention / (attention.max() or 1)).astype(np.float32),
        "class_maps": maps.astype(np.float32),
        "class_probability": np.sort(values.dirichlet(np.full(count, 0.3)))[::-1].astype(
            np.float32
        ),
    }


def map_list(function, values):
    return [function(value) for value in values]


def encoding(pixels, looks=0, seed=0, **more):
    fake = {name: tensor(values) for name, values in outputs(seed).items()}
    height, width = pixels.shape[:2]
    case = {"op": "encode", "width": width, "height": height, "pixels": text(pixels)}
    return case | {"looks": looks, "fake": fake} | more


@is_built
def test_images_are_resized_as_pillow_does_to_the_bit(tmp_path):
    sizes = [(1, 1), (224, 224), (224, 230), (223, 400), (500, 375), (300, 376), (300, 377)]
    sizes += [(449, 900), (1345, 700), (460, 1401), (30, 7), (101, 953)]
    images = [random_codes((height, width, 3), width) for width, height in sizes]
    images = [image if i % 2 else image // 200 * 255 for i, image in enumerate(images)]
    preprocess = Preprocess(224)
    for image, answer in zip(images, node(tmp_path, map_list(encoding, images)), strict=True):
        expected = prepared(Image.fromarray(image), preprocess)
        (found,) = answer["inputs"]
        assert np.array_equal(array(found, expected.shape), expected), image.shape
        assert answer["fingerprint"] == MODEL.fingerprint


@is_built
def test_looks_are_chosen_as_in_python(tmp_path):
    rule = MODEL.contract.looks
    pixels = random_codes((300, 260, 3))
    cases = [encoding(pixels, looks=seed % 4, seed=seed) for seed in range(60)]
    for seed, answer in enumerate(node(tmp_path, cases)):
        fake = outputs(seed)
        maps, probability = fake["class_maps"], fake["class_probability"]
        expected = choose(maps, probability, fake["attention"], rule, seed % 4) if seed % 4 else []
        assert [tuple(box) for box in answer["boxes"][1:] if box] == [one.box for one in expected]
        assert len(answer["boxes"]) == 1 + seed % 4
        for look, found in zip(expected, answer["inputs"][1:], strict=True):
            image = prepared(part(Image.fromarray(pixels), look.box), MODEL.contract.preprocess)
            assert np.array_equal(array(found, image.shape), image)


def batches(codes):
    for first in range(0, len(codes), BATCH_ITEMS):
        some = codes[first : first + BATCH_ITEMS]
        slots = range(first, first + len(some))
        boxes = np.zeros((len(some), codes.shape[1] - 1, 4), np.uint16)
        boxes[:] = [0, 13107, 32768, 65535]
        yield Batch(some, boxes, [f"i\u00e4/{i}" for i in slots], [f'{{"n": {i}}}' for i in slots])


def flat(path, codes, **origin):
    write_flat(
        path, Origin(8 * codes.shape[2], codes.shape[1] - 1, **origin), len(codes), batches(codes)
    )
    return str(path)


@is_built
def test_a_search_of_every_layout_agrees_with_the_specification(tmp_path):
    shapes = [(0, 1, 16), (1, 1, 16), (4097, 1, 16), (500, 1, 3), (700, 1, 8), (300, 1, 40)]
    shapes += [(33, 2, 16), (1000, 4, 16), (257, 3, 5), (64, 8, 2)]
    cases, expected = [], []
    for number, (n, views, width) in enumerate(shapes):
        codes = clustered_codes(n * views, width, number).reshape(n, views, width)
        queries = random_codes((4, views, width), 99)
        if n:
            queries[:2] = codes[:1] ^ np.uint8([[1]])
        allowed = random_codes((n + 7) // 8, 5) if number % 2 else None
        radius = 3 * width if number % 3 == 0 else None
        file = flat(tmp_path / f"{number}.flat", codes)
        filtered = None if allowed is None else text(allowed)
        case = {"op": "search", "file": file, "queries": map_list(text, queries), "k": 12}
        cases.append(case | {"radius": radius, "filter": filtered, "asBlob": number % 2 == 0})
        unit = 1 if views == 1 else 2 * views
        one, many = (codes[:, 0], queries[:, 0]) if views == 1 else (codes, queries)
        bits = None if allowed is None else np.unpackbits(allowed, bitorder="little")[:n] > 0
        most = 8 * width * unit if radius is None else radius * unit
        found = oracle.range_search(one, many, most, 12, bits)
        expected.append([[(distance / unit, slot) for distance, slot in row] for row in found])
    for shape, answer, rows in zip(shapes, node(tmp_path, cases), expected, strict=True):
        assert (answer["items"], answer["looks"]) == (shape[0], shape[1] - 1)
        found = [[(hit["distance"], hit["slot"]) for hit in row] for row in answer["results"]]
        assert found == rows, shape
        for hit in chain.from_iterable(answer["results"]):
            assert (hit["key"], hit["metadata"]) == (f"i\u00e4/{hit['slot']}", {"n": hit["slot"]})


@is_built
def test_hits_are_those_of_python(tmp_path, pets_gallery):
    file = tmp_path / "pets.flat"
    pets_gallery.export_flat(file)
    with FlatGallery(file, encoder=pets_gallery.encoder) as gallery:
        items = list(gallery.items())
        queries = [np.concatenate([item.code[None], item.looks]) for item in items[:4]]
        places = 1 + pets_gallery.looks
        queries = [np.resize(query, (places, 16)) for query in queries]
        case = {"op": "search", "file": str(file), "queries": map_list(text, queries), "k": 4}
        (answer,) = node(tmp_path, [case | {"radius": None}])
        assert answer["model"] == MODEL.fingerprint
        for query, row in zip(queries, answer["results"], strict=True):
            hits = gallery.search_code(query, k=4)
            assert [hit["key"] for hit in row] == [hit.key for hit in hits]
            assert [hit["distance"] for hit in row] == [hit.distance for hit in hits]
            for found, hit in zip(row, hits, strict=True):
                assert found["metadata"] == hit.metadata
                assert found["sameKind"] == pytest.approx(hit.same_kind)
                assert found["box"] == (
                    None if hit.box is None else pytest.approx(hit.box, abs=1e-6)
                )


@is_built
def test_an_adapted_gallery_gives_its_adaptation_to_queries(tmp_path):
    values = np.random.default_rng(3)
    rotation = np.linalg.qr(values.normal(size=(128, 128)))[0].astype(np.float32)
    adaptation = Adaptation(values.normal(size=128).astype(np.float32), rotation)
    origin = {"fingerprint": MODEL.fingerprint, "model": "general-128", "adaptation": adaptation}
    file = flat(tmp_path / "adapted.flat", random_codes((20, 1, 16)), **origin)
    cases = [encoding(random_codes((9, 9, 3)), seed=seed, adaptation=file) for seed in range(8)]
    for seed, answer in enumerate(node(tmp_path, cases)):
        expected = adapted_codes(outputs(seed)["hash"], adaptation)
        assert np.array_equal(array(answer["codes"]), expected)


@is_built
def test_damage_is_an_error_and_never_a_wrong_gallery(tmp_path):
    content = Path(flat(tmp_path / "sound.flat", random_codes((40, 3, 16)))).read_bytes()
    chance = np.random.default_rng(7)
    cases = []
    for number in range(210):
        changed = bytearray(content)
        DAMAGE[number % len(DAMAGE)](changed, chance)
        cases.append({"op": "open", "file": text(np.frombuffer(bytes(changed), np.uint8))})
    answers = node(tmp_path, cases)
    errors = [answer for answer in answers if answer != "opened"]
    assert {answer["error"] for answer in errors} == {"FormatError"}
    assert 70 < len(errors) < 210  # the header has a checksum; codes are not read for theirs


def resealed(content, at, layout, *numbers):
    """The flat file with something else in its header, whose checksum matches."""
    content = bytearray(content)
    struct.pack_into(layout, content, at, *numbers)
    (size,) = struct.unpack_from("<I", content, 16)
    content[12:16] = bytes(4)
    content[12:16] = zlib.crc32(content[:size]).to_bytes(4, "little")
    return text(np.frombuffer(content, np.uint8))


@is_built
def test_a_wrong_table_of_sections_is_named(tmp_path):
    content = Path(flat(tmp_path / "sound.flat", random_codes((40, 3, 16)))).read_bytes()
    info, lookup = content.index(b"info\0\0\0\0"), content.index(b"lookup\0\0")
    longer = content + bytes(64)
    cases = [
        (resealed(content, 8, "<I", 1), None),
        (resealed(content, lookup, "8s", b"offsets"), "two sections have the name offsets"),
        (resealed(longer, 24, "<Q", len(longer)), "does not end with its last section"),
        (resealed(content, info + 16, "<Q", 2**20), "the table of sections"),
    ]
    answers = node(tmp_path, [{"op": "open", "file": file} for file, _ in cases])
    assert answers[0] == "opened"
    for (_, expected), answer in zip(cases[1:], answers[1:], strict=True):
        assert answer["error"] == "FormatError"
        assert expected in answer["message"]


@is_built
def test_wrong_arguments_are_named(tmp_path):
    file = flat(tmp_path / "plain.flat", random_codes((5, 1, 16)))
    looking = flat(
        tmp_path / "looks.flat", random_codes((5, 2, 16)), fingerprint="ab" * 32, model="m"
    )
    pixels = random_codes((4, 4, 3))
    search = {
        "op": "search",
        "file": file,
        "queries": [text(random_codes(16))],
        "k": 1,
        "radius": None,
    }
    cases = [
        (search | {"k": 0}, "k is 0, expected at least 1"),
        (search | {"radius": -1}, "radius is -1"),
        (search | {"filter": text(random_codes(3))}, "the filter has 3 bytes, expected 1"),
        (search | {"queries": [text(random_codes(32))]}, "has 2 codes, expected 1"),
        (search | {"file": looking, "queries": [text(random_codes(144))]}, "expected 1 to 8"),
        (encoding(pixels, looks=4), "looks is 4, expected 0 to 3 with this model"),
        (encoding(pixels) | {"width": 5}, "5 x 4 have 48 numbers, expected 3 for each pixel"),
        ({"op": "model", "content": text(random_codes(50))}, "not an ONNX file"),
        ({"op": "model", "content": ""}, "an ONNX file without a bitgaze contract"),
        ({"op": "open", "file": text(random_codes(200))}, "not a flat file"),
    ]
    for (_, expected), answer in zip(
        cases, node(tmp_path, [case for case, _ in cases]), strict=True
    ):
        assert expected in answer["message"]


@is_built
def test_the_example_in_the_readme_runs_with_the_model(tmp_path, pets, pets_gallery):
    """With onnxruntime in WebAssembly, from decoded pixels."""
    (code,) = re.findall(r"```js\n(.*?)```", (ROOT / "web" / "README.md").read_text(), re.DOTALL)
    shutil.copy(DEFAULT_MODEL, tmp_path / "general.onnx")
    pets_gallery.export_flat(tmp_path / "photos.flat")
    modules = tmp_path / "node_modules"
    modules.mkdir()
    for path in (ROOT / "web" / "node_modules").iterdir():
        (modules / path.name).symlink_to(path)
    (modules / "bitgaze").symlink_to(ROOT / "web")
    with Image.open(pets / PETS[0]) as image:
        pixels = np.array(image.convert("RGB"))
    height, width, _ = pixels.shape
    (tmp_path / "pixels").write_bytes(pixels)
    given = f"""const data = await readFile("pixels");
        const image = {{ width: {width}, height: {height}, data }};
        const model"""
    (tmp_path / "example.mjs").write_text(code.replace("const model", given, 1))
    command = ["node", "example.mjs"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    expected = pets_gallery.search(pixels, 5)
    found = [line for line in done.stdout.splitlines() if line.startswith(("/", "by hand"))]
    assert [f"{hit.key} {hit.distance:g}" for hit in expected] == [
        " ".join(re.match(r"(.+?) ([\d.]+) ", line).groups()) for line in found
    ]


@pytest.fixture
def page(tmp_path, monkeypatch):
    """A page to export, in place of the built one."""
    site = tmp_path / "page"
    (site / "ort").mkdir(parents=True)
    (site / "index.html").write_text("<p>page</p>")
    (site / "ort" / "runtime.wasm").write_bytes(b"wasm")
    monkeypatch.setattr(website, "SITE", site)
    return site


def test_export_web(page, pets, pets_gallery, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["export-web", str(out), "-g", str(pets_gallery.path), "--thumbnail", "64"]) == 0
    printed = capsys.readouterr()
    assert "5 images" in printed.out
    index = json.loads((out / "site.json").read_text())
    assert (index["name"], index["items"]) == ("pets", len(pets_gallery))
    written = {p.relative_to(out).as_posix(): p for p in out.rglob("*") if p.is_file()}
    assert index["files"].keys() == written.keys() - {"site.json"}
    assert all(
        index["files"][name][0] == p.stat().st_size
        for name, p in written.items()
        if name != "site.json"
    )
    assert written["model.onnx"].read_bytes() == DEFAULT_MODEL.read_bytes()
    assert written["gallery.flat"].stat().st_mode & 0o777 == 0o644
    pack = written["thumbnails.pack"].read_bytes()
    ends = np.frombuffer(pack[: 8 * (len(pets_gallery) + 1)], "<u8").tolist()
    with FlatGallery(out / "gallery.flat") as exported:
        for slot, key in enumerate(exported):
            image = pack[ends[slot] : ends[slot + 1]]
            assert (image[:3] == b"\xff\xd8\xff") == key.endswith(PETS)  # one was added by hand
        # Without the folders above.
        assert {key for key in exported if key.endswith(PETS)} == {
            f"{pets.name}/{key}" for key in PETS
        }
    assert ends[-1] == len(pack)
    (out / ".git" / "refs").mkdir(parents=True)
    (out / ".git" / "refs" / "main").write_text("a checkout")
    (out / ".thumbnails.pack.new").write_text("an export that was interrupted")
    again = main(["export-web", str(out), "-g", str(pets_gallery.path), "--thumbnail", "0"])
    assert again == 0
    assert not (out / "thumbnails.pack").exists()
    listed = json.loads((out / "site.json").read_text())["files"].keys()
    assert listed == index["files"].keys() - {"thumbnails.pack"}


def test_export_web_says_what_is_wrong(page, pets_gallery, tmp_path, capsys):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("x")
    with pytest.raises(GalleryError, match="holds something else; name a new or empty folder"):
        website.export_web(pets_gallery, tmp_path / "other")
    with pytest.raises(GalleryError, match="is no folder"):
        website.export_web(pets_gallery, tmp_path / "other" / "thesis.tex")
    with pytest.raises(ValueError, match="thumbnail_px is 8, expected 0 or 16 to 2048"):
        website.export_web(pets_gallery, tmp_path / "out", thumbnail_px=8)
    with (
        Gallery(tmp_path / "own.bitgaze", bits=64) as own,
        pytest.raises(GalleryError, match="has codes without a model"),
    ):
        website.export_web(own, tmp_path / "out")
    shutil.rmtree(page)
    assert main(["export-web", str(tmp_path / "out"), "-g", str(pets_gallery.path)]) == 2
    assert "was installed without the web page" in capsys.readouterr().err


def test_export_web_names_images_that_are_gone(page, encoder, examples, tmp_path, capsys):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("owl", "duck"):
        shutil.copy(examples / "birds" / f"{name}.jpg", photos)
    with Gallery(tmp_path / "g.bitgaze", encoder=encoder, looks=0) as gallery:
        gallery.sync(photos)
    (photos / "owl.jpg").unlink()
    shutil.copy(examples / "fish" / "goldfish.jpg", photos / "duck.jpg")
    out = tmp_path / "out"
    assert main(["export-web", str(out), "-g", str(tmp_path / "g.bitgaze"), "--json"]) == 1
    printed = capsys.readouterr()
    failed = json.loads(printed.out)["failed"]
    assert sorted(Path(key).name for key in failed) == ["duck.jpg", "owl.jpg"]
    assert "no such file" in printed.err.lower()
    assert "changed" in printed.err


def test_export_web_takes_the_model_that_is_named(page, examples, tmp_path, capsys):
    content = bytearray(DEFAULT_MODEL.read_bytes())
    content[len(content) // 2] ^= 1  # one bit of a weight
    model = tmp_path / "mine.onnx"
    model.write_bytes(content)
    path, out = tmp_path / "g.bitgaze", tmp_path / "out"
    with Encoder(model) as encoder, Gallery(path, encoder=encoder, looks=0) as gallery:
        gallery.add("owl", examples / "birds" / "owl.jpg")
    command = ["export-web", str(out), "-g", str(path), "--thumbnail", "0"]
    assert main(command) == 2  # the gallery remembers no file, and bitgaze's is another
    assert "-m FILE" in capsys.readouterr().err
    assert main([*command, "-m", str(DEFAULT_MODEL)]) == 2
    assert not out.exists()
    assert main([*command, "-m", str(model)]) == 0
    assert (out / "model.onnx").read_bytes() == content


def test_export_web_writes_no_keys_with_drives(page, pets_gallery, tmp_path, monkeypatch):
    """On Windows, folders of two drives have nothing in common."""
    sources = dataclasses.replace(pets_gallery.sources, folders=("C:\\cats", "D:\\dogs"))
    monkeypatch.setattr(Gallery, "sources", sources)
    monkeypatch.setattr(website.os.path, "commonpath", ntpath.commonpath)
    with pytest.raises(GalleryError, match="on several drives, so keys cannot be written relative"):
        website.export_web(pets_gallery, tmp_path / "out")
    assert not (tmp_path / "out").exists()
