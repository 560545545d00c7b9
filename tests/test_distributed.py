"""A cluster of several nodes on this machine, some of which are killed."""

import io
import json
import os
import shutil
import tarfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import documents
import oracle
from bitgaze import (
    ClusterError,
    FingerprintMismatch,
    Gallery,
    InterchangeError,
    Item,
    PartialResult,
    distributed,
)
from bitgaze.distributed import querying
from bitgaze.distributed.output import plan_offsets, remove_unfinished, replacing, write_plan
from bitgaze.distributed.plan import plan
from bitgaze.distributed.samples import Columns, samples
from bitgaze.distributed.worker import make_shard
from bitgaze.interchange import parquet
from bitgaze.interchange.description import Description
from codes import clustered_codes
from conftest import ROOT, smooth_image

# Ray's processes and threads outlive a test, and leave sockets to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
NODE = {"num_cpus": 1, "object_store_memory": 80_000_000}
QUICK = {  # a dead node is noticed within seconds
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 3,
}
COUNT = 12  # images


def jpeg(seed):
    file = io.BytesIO()
    smooth_image(seed).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture(scope="module")
def cluster():
    """Three nodes of one CPU each."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (15 would starve them)
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    head = NODE | {"include_dashboard": False, "_system_config": QUICK}
    running = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        running.add_node(**NODE)
    ray.init(address=running.address, log_to_driver=False, logging_level="ERROR")
    yield running
    ray.shutdown()
    running.shutdown()


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for number in range(COUNT):
        (folder / f"{number:02d}.jpg").write_bytes(jpeg(number))
    (folder / "03.jpg").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def encoded(cluster, images, tmp_path_factory):
    """Encoded in shards of two, while one of the nodes is killed."""
    out = tmp_path_factory.mktemp("encoded") / "out"
    seen = []

    def kill(done, total):
        seen.append((done, total))
        if done == 1:
            cluster.remove_node(sorted(cluster.worker_nodes, key=id)[0], allow_graceful=False)

    report = distributed.encode(
        images, out, shard_images=2, looks=0, shards_per_gallery=2, on_progress=kill
    )
    cluster.add_node(**NODE)
    assert seen == [(done, 6) for done in range(7)]
    return out, report


def rows_of(out):
    paths = sorted(out.glob("*.parquet"))
    return [item for path in paths for batch in parquet.read(path).batches for item in batch]


def test_each_image_is_encoded_once_though_a_node_is_killed(encoded, images, encoder):
    out, report = encoded
    assert report == distributed.EncodeReport(COUNT - 1, 1, 6, 0)
    assert list(distributed.refused(out)) == [
        (str(images / "03.jpg"), "not an image that bitgaze reads")
    ]
    items = rows_of(out)
    good = [images / f"{number:02d}.jpg" for number in range(COUNT) if number != 3]
    assert [item.key for item in items] == list(map(str, good))
    np.testing.assert_array_equal([item.code for item in items], encoder.encode(good).codes)
    assert all(item.path == item.key and item.properties["width"] == 64 for item in items)
    assert not list(out.glob(".*"))


def test_a_finished_shard_is_not_made_again(encoded, images):
    out, _ = encoded
    lost = out / "part-000004.json"
    lost.unlink()
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    again = distributed.encode(images, out, shard_images=2, looks=0, shards_per_gallery=2)
    assert again == distributed.EncodeReport(COUNT - 1, 1, 6, 5)
    changed = {path.name for path in out.iterdir() if before.get(path) != path.stat().st_mtime_ns}
    galleries = {f"gallery-00000{number}.bitgaze" for number in range(3)}
    assert changed == {"part-000004.json", "part-000004.parquet"} | galleries
    with pytest.raises(ClusterError, match="galleries of 2 shards each, not 3"):
        distributed.encode(images, out, shard_images=2, looks=0, shards_per_gallery=3)
    assert len(rows_of(out)) == COUNT - 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shard_images": 3}, "begun with shard_images 2, not 3"),
        ({"looks": 1}, "begun with looks 0, not 1"),
        ({"source": "other"}, "begun with source"),
    ],
)
def test_a_folder_is_continued_only_with_the_same_arguments(encoded, images, changes, message):
    out, _ = encoded
    arguments = {"source": images, "shard_images": 2, "looks": 0} | changes
    with pytest.raises(ClusterError, match=message):
        distributed.encode(out=out, **arguments)


@pytest.mark.parametrize("least_merged", [256, 1])
def test_search_is_exact_with_views(cluster, tmp_path, monkeypatch, least_merged):
    monkeypatch.setattr(querying, "_LEAST_MERGED", least_merged)  # whether tasks merge, too
    monkeypatch.setattr(querying, "_MOST_ROWS", 50)
    codes = clustered_codes(600, 4, clusters=3).reshape(150, 4, 4)
    boxes = np.zeros((3, 4), np.float32)
    items = [
        Item(f"{n}", views[0], {"n": n}, None, views[1:], boxes + n / 150)
        for n, views in enumerate(codes)
    ]
    items[7] = Item("7", codes[7, 0])  # without looks: its code stands in
    codes[7] = codes[7, :1]
    description = Description(32, "f" * 64, "model", 3)
    for number, size in enumerate((60, 0, 90)):
        some, items = items[:size], items[size:]
        groups = [some[start : start + 40] for start in range(0, size, 40)]
        parquet.write(tmp_path / f"{number}.parquet", description, groups)
    queries = codes[::15] ^ 1
    table = distributed.search(queries, tmp_path, k=20)
    distances, ids = oracle.search(codes, queries, 20)
    assert table.column("query").to_pylist() == np.repeat(np.arange(10), 20).tolist()
    assert table.column("key").to_pylist() == [str(one) for one in ids.ravel()]
    np.testing.assert_array_equal(table.column("distance").to_numpy() * 8, distances.ravel())
    row = table.to_pylist()[0]
    assert json.loads(row["metadata"]) == {"n": 0}
    assert (row["file"], row["row"]) == (0, 0)
    files = [tmp_path / "1.parquet", tmp_path / "2.parquet"]
    few = distributed.search(queries[:1, :1], files, k=500)
    assert len(few) == 90
    assert len(distributed.search(queries[:0], tmp_path)) == 0
    content = bytearray(files[1].read_bytes())
    content[200] ^= 1
    files[1].write_bytes(content)
    with pytest.raises(InterchangeError, match=r"2\.parquet: is damaged"):
        distributed.search(queries, tmp_path)


def test_a_sharded_gallery_answers_as_one_while_a_replica_is_lost(cluster, encoded, tmp_path):
    out, _ = encoded
    with Gallery(tmp_path / "one.bitgaze", looks=0) as one:
        one.upsert(rows_of(out))
        queries = [smooth_image(seed) for seed in (0, 5, 99)]
        expected = [one.search(np.asarray(query), k=5) for query in queries]
    with distributed.ShardedGallery(out, groups=2, timeout_s=120) as sharded:
        assert len(sharded) == COUNT - 1

        def search():
            return [list(sharded.search(np.asarray(query), k=5)) for query in queries]

        assert search() == expected
        with pytest.raises(ClusterError, match="runs already"):
            distributed.ShardedGallery(out)
        # The head has one CPU: at least one of the two replicas is on another node.
        for node in list(cluster.worker_nodes):
            cluster.remove_node(node, allow_graceful=False)
        sharded.timeout_s = 0.5

        def search_until_partial():
            # Replicas answer until they notice that their node is gone: for all shards, or not.
            for _ in range(200):
                assert list(sharded.search(np.asarray(queries[0]), k=5)) == expected[0]
                time.sleep(0.2)

        with pytest.raises(PartialResult, match=r"shards did not answer within 0\.5 s") as partial:
            search_until_partial()
        assert partial.value.missing
        few = sharded.search(np.asarray(queries[0]), k=5, allow_partial=True)
        assert set(few.missing) <= set(map(str, out.glob("*.bitgaze")))
        assert len(few) < 5 + len(few.missing)
        cluster.add_node(**NODE)
        sharded.timeout_s = 120
        assert search() == expected


def test_the_examples_of_the_document_run(cluster, examples, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(examples / "castles-and-palaces", "photos")
    shutil.copy(next(iter(sorted(Path("photos").iterdir()))), "query.jpg")
    Path("photos/broken.jpg").write_bytes(b"no image")
    text = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    names = {}
    for language, block in documents.blocks(text):
        if language == "python":
            exec(compile(block, "scale.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "refused=1, shards=1" in printed
    assert f"{tmp_path}/photos/broken.jpg not an image" in printed
    assert "'distance': 0.0" in printed
    assert names["hit"].distance > 0


def local(out, encoder, source, **options):
    """Encode without a cluster, by the functions that workers call."""
    kind = options.pop("kind", None)
    shard_images = options.pop("shard_images", 4)
    out.mkdir()
    write_plan(out, plan(source, kind, shard_images))
    description = Description(encoder.bits, encoder.fingerprint, "model", 0, 256)
    refused, counts = [], []
    for number, offset in enumerate(plan_offsets(out)):
        make_shard(out, number, offset, encoder, description, Columns(**options))
        receipt = json.loads((out / f"part-{number:06d}.json").read_text())
        refused += map(tuple, receipt["refused"])
        counts.append(receipt["items"])
    return rows_of(out), counts, refused


def test_parquet_with_bytes(tmp_path, encoder):
    source = tmp_path / "images.parquet"
    photos = [jpeg(seed) for seed in range(7)]
    columns = {
        "id": [10, 11, 12, 13, 14, 15, 15],
        "image": [{"bytes": photo, "path": None} for photo in photos],
        "year": [2020, None, 2021, 2022, float("nan"), 2023, 2024],
    }
    columns["image"][2] = {"bytes": None, "path": None}
    pq.write_table(pa.table(columns), source, row_group_size=2)
    options = {"key": "id", "metadata": ("year",)}
    items, counts, refused = local(tmp_path / "out", encoder, source, **options)
    assert counts == [3, 1]
    assert [item.key for item in items] == ["10", "11", "13", "15"]
    assert items[0].metadata == {"year": 2020}
    np.testing.assert_array_equal(
        [item.code for item in items], encoder.encode([photos[n] for n in (0, 1, 3, 5)]).codes
    )
    reasons = dict(refused)
    assert reasons["12"] == "image is null, expected bytes"
    assert "metadata" in reasons["14"]
    assert reasons["15"] == "another image of the shard has this key"


def test_webdataset_tars(tmp_path, encoder):
    source = tmp_path / "train-0.tar.gz"
    members = {
        "a/000.jpg": jpeg(0),
        "a/000.json": b'{"caption": "owl"}',
        "a/000.cls": b"7\n",
        "b.png": b"no image",
        "c.left.jpg": jpeg(1),
        "c.right.jpg": jpeg(2),
        "d.json": b"{",
        "d.jpg": jpeg(3),
        "readme": b"",
    }
    with tarfile.open(source, "w:gz") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    items, _, refused = local(tmp_path / "out", encoder, source)
    names = [item.key.removeprefix(f"{source}/") for item in items]
    assert names == ["a/000.jpg", "c.left.jpg", "c.right.jpg"]
    assert items[0].metadata == {"caption": "owl", "cls": "7"}
    assert [key.removeprefix(f"{source}/") for key, _ in refused] == ["d.jpg", "b.png"]


def test_a_damaged_tar_is_refused_from_the_damage_on(tmp_path):
    path, content = tmp_path / "half.tar", bytes(3000)
    with tarfile.open(path, "w") as archive:
        for name in ("a.jpg", "b.jpg"):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    whole = path.read_bytes()
    member = 512 + 3072
    for end, good in (
        (0, 0),
        (100, 0),
        (member - 10, 0),
        (member, 1),
        (member + 300, 1),
        (2 * member - 100, 1),
        (2 * member, 2),
        (len(whole), 2),
    ):
        path.write_bytes(whole[:end])
        found = list(samples({"kind": "webdataset", "path": str(path)}, Columns()))
        assert [one.key for one in found[:good]] == [f"{path}/a.jpg", f"{path}/b.jpg"][:good]
        assert [one.reason[:7] for one in found[good:]] == ["damaged"] * (end < len(whole))


def test_a_damaged_parquet_file_is_refused_from_the_damage_on(tmp_path):
    path = tmp_path / "images.parquet"
    columns = {"image": [jpeg(0), jpeg(1), jpeg(2)]}
    pq.write_table(pa.table(columns), path, row_group_size=1, use_dictionary=False)
    (shard,) = plan(path, None, 10)
    with pq.ParquetFile(path) as file:
        start = file.metadata.row_group(1).column(0).data_page_offset
    content = bytearray(path.read_bytes())
    content[start : start + 20] = bytes(20)
    path.write_bytes(content)
    good, bad = samples(shard, Columns())
    assert (good.key, good.source) == (f"{path}/0", columns["image"][0])
    assert bad.reason.startswith("damaged from row 1 on: ")
    path.unlink()
    (gone,) = samples(shard, Columns())
    assert "No such file" in gone.reason


def test_a_file_that_is_not_complete_leaves_nothing(tmp_path):
    path = tmp_path / "plan.jsonl"
    path.write_text("before")

    def write():
        with replacing(path) as unfinished:
            unfinished.write_text("half")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        write()
    assert [one.read_text() for one in tmp_path.iterdir()] == ["before"]
    for name in (".plan.jsonl.host.7", ".manifest.json.host.7", ".part-000000.json.host.7"):
        (tmp_path / name).touch()  # of processes that were killed
    (tmp_path / ".others").touch()
    remove_unfinished(tmp_path)
    assert sorted(one.name for one in tmp_path.iterdir()) == [".others", "plan.jsonl"]


def test_lists_patterns_and_what_is_not_there(tmp_path, images):
    paths = [images / "01.jpg", images / "00.jpg", images / "01.jpg"]
    (shard,) = plan(paths, None, 10)
    assert shard["paths"] == [str(images / "01.jpg"), str(images / "00.jpg")]
    assert shard["refused"] == [[str(images / "01.jpg"), "is named twice"]]
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"{path}\n" for path in paths[:2]))
    assert next(plan(listed, None, 10))["paths"] == shard["paths"]
    assert [len(one["paths"]) for one in plan(str(images / "*.jpg"), None, 5)] == [5, 5, 2]
    for source, kind, error, message in (
        (tmp_path / "none", None, ClusterError, "no such file or folder"),
        (tmp_path / "none.tar", None, ClusterError, "no such file or folder"),
        (tmp_path / "none.txt", None, ClusterError, r"none\.txt: No such file"),
        (str(tmp_path / "*.jpg"), None, ClusterError, "names no file"),
        ([images / "00.jpg", "a.tar"], None, ValueError, "several kinds, images and webdataset"),
        ([images, images / "00.jpg"], None, ValueError, "a folder among files"),
        (images, "files", ValueError, "expected one of"),
        (images, "parquet", ClusterError, "holds none"),
    ):
        with pytest.raises(error, match=message):
            list(plan(source, kind, 4))


def test_shards_of_several_models_are_not_one_gallery(cluster, tmp_path):
    for number, bits in enumerate((16, 32)):
        Gallery(tmp_path / f"{number}.bitgaze", bits=bits).close()
        parquet.write(tmp_path / f"{number}.parquet", Description(bits), [])
    with pytest.raises(FingerprintMismatch, match="described differently"):
        distributed.search(np.zeros((1, 2), np.uint8), tmp_path)
    with pytest.raises(ValueError, match="timeout_s is 0"):  # and leaves no service
        distributed.ShardedGallery([tmp_path / "0.bitgaze"], timeout_s=0)
    with pytest.raises(FingerprintMismatch, match="not comparable"):
        distributed.ShardedGallery([tmp_path / "0.bitgaze", tmp_path / "1.bitgaze"], groups=1)
    with pytest.raises(ClusterError, match="do not fit"):
        distributed.ShardedGallery([tmp_path / "0.bitgaze", tmp_path / "1.bitgaze"], cpus=2)
    with pytest.raises(ValueError, match="timeout_s is -1"):
        distributed.ShardedGallery.connect("other", timeout_s=-1)
    with pytest.raises(ClusterError, match="no service 'other' runs"):
        distributed.ShardedGallery.connect("other", timeout_s=5)
