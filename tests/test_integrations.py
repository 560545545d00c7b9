"""The examples for scikit-learn, Chroma and LanceDB find what a gallery finds."""

import runpy

import numpy as np
import pytest

from bitgaze import HammingIndex
from conftest import ROOT, smooth_image


@pytest.fixture(scope="module")
def images():
    return [np.array(smooth_image(seed)) for seed in range(6)]


@pytest.fixture(scope="module")
def distances(images, encoder):
    """Hamming distance of the first image to all."""
    codes = encoder.encode(images).codes
    index = HammingIndex(bits=encoder.bits)
    index.add(codes)
    found, ids = index.search(codes[:1], k=6)
    return dict(zip(ids[0].tolist(), found[0].tolist(), strict=True))


def codes_class(name):
    return runpy.run_path(str(ROOT / "examples" / f"{name}.py"))["Codes"]


def test_scikit_learn(images, encoder):
    pytest.importorskip("sklearn")
    codes = codes_class("with_sklearn")().fit_transform(images)
    assert np.array_equal(codes, encoder.encode(images).codes)


def test_chroma(images, distances):
    chromadb = pytest.importorskip("chromadb")
    settings = chromadb.Settings(anonymized_telemetry=False)
    collection = chromadb.EphemeralClient(settings).create_collection(
        "images", embedding_function=codes_class("with_chroma")()
    )
    collection.add(ids=[str(n) for n in range(len(images))], images=images)
    found = collection.query(query_images=images[:1], n_results=6)
    pairs = zip(found["ids"][0], found["distances"][0], strict=True)
    assert {int(key): round(distance) for key, distance in pairs} == distances


def test_lancedb(images, distances, tmp_path):
    lancedb = pytest.importorskip("lancedb")
    from lancedb.pydantic import LanceModel, Vector

    codes = codes_class("with_lancedb").create(max_retries=0)

    class Picture(LanceModel):
        path: str = codes.SourceField()
        vector: Vector(codes.ndims()) = codes.VectorField()

    paths = [tmp_path / f"{n}.png" for n in range(len(images))]
    for seed, path in enumerate(paths):
        smooth_image(seed).save(path)
    table = lancedb.connect(tmp_path / "db").create_table("pictures", schema=Picture)
    table.add([{"path": str(path)} for path in paths])
    found = table.search(str(paths[0])).limit(6).to_list()
    pairs = {paths.index(type(paths[0])(hit["path"])): round(hit["_distance"]) for hit in found}
    assert pairs == distances
