"""bitgaze on 64-bit ARM, emulated: its codes and hits compared with those of this machine.

    python benchmarks/aarch64.py FOLDER                 all example images
    python benchmarks/aarch64.py FOLDER --images 8 --looks 1     fewer of each: 4 s a look or image
    python benchmarks/aarch64.py FOLDER --tests tests/test_hamming.py tests/test_kernels.py

Makes in FOLDER a root of arm64 packages (500 MB, kept for the next run): Debian's Python, and from
PyPI the aarch64 wheels of what bitgaze requires, in the versions of constraints.txt. Cross-compiles
bitgaze's wheel into it, as CONTRIBUTING.md describes, and runs it by qemu-aarch64, whose results
are those of a real processor; its times are not.

Both machines index the same images, example queries among them, search their own gallery for what
is like each of them, and search the same codes: those of this machine's images, and random ones.
With --tests, runs these files under emulation instead.

Requires Debian 12 on x86-64 with g++-aarch64-linux-gnu and qemu-user, and Python 3.11 with the
packages that build bitgaze (tests/requirements.txt) and bitgaze itself.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parent.parent
HITS = 5
DEBIAN = ["python3.11-minimal", "libpython3.11-dev", "libstdc++6"]
RUNTIME = ["flatbuffers", "numpy", "onnxruntime", "packaging", "pillow", "protobuf", "tqdm"]
TESTS = ["hypothesis", "iniconfig", "pluggy", "pygments", "pytest", "sortedcontainers"]
# The processor that qemu emulates, and what its system says of it: onnxruntime reads /proc/cpuinfo
# when imported, and crashes where it names no ARM processor.
CPU = "cortex-a72"
CPUINFO = (
    "processor\t: {}\nFeatures\t: fp asimd aes pmull sha1 sha2 crc32 cpuid\n"
    "CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: 0xd08\n"
    "CPU revision\t: 3\n\n"
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("folder", type=Path)
    add("--images", type=int, help="how many of the example images; by default all")
    add("--looks", type=int, help="how many looks an image; by default as many as the model can")
    add("--tests", nargs="+", metavar="FILE", help="run these tests under emulation instead")
    add("--measure", type=Path, nargs="+", help=argparse.SUPPRESS)  # what runs on both machines
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    if arguments.measure:
        measure(folder, arguments.looks, *arguments.measure)
        return
    python = emulated_python(folder)
    if arguments.tests:
        subprocess.run([python, "-m", "pytest", "-q", *arguments.tests], cwd=ROOT, check=True)
        return
    images = chosen_images(folder / "images", arguments.images)
    here, there = folder / "here.npz", folder / "aarch64.npz"
    for result in (here, there):
        result.unlink(missing_ok=True)
    looks = [] if arguments.looks is None else [f"--looks={arguments.looks}"]
    command = [__file__, str(folder), *looks, "--measure", str(images)]
    subprocess.run([sys.executable, *command, str(here)], check=True)
    subprocess.run([python, *command, str(there), str(here)], check=True)
    with np.load(here) as ours, np.load(there) as theirs:
        compare(ours, theirs)


def emulated_python(folder: Path) -> Path:
    """Makes the root with bitgaze in it, where missing; returns a program that runs its Python."""
    root = folder / "root"
    site = root / "site"
    if not (root / "usr/bin/python3.11").is_file():
        unpack_debian(folder / "apt", root)
    if not (site / "pytest").is_dir():
        install(site, *RUNTIME, *TESTS)
    (root / "proc").mkdir(exist_ok=True)
    cores = range(os.cpu_count() or 1)
    (root / "proc/cpuinfo").write_text("".join(CPUINFO.format(core) for core in cores))
    shutil.rmtree(site / "bitgaze", ignore_errors=True)
    install(site, str(cross_build(folder / "wheels", root)))
    # A program of its own, so that tests can start Python by sys.executable.
    launcher = folder / "python"
    launcher.write_text(
        f"#!/bin/sh\nexec qemu-aarch64 -cpu {CPU} -L {root} -0 {launcher}"
        f" -E PYTHONHOME={root}/usr -E PYTHONPATH={site}"
        f' {root}/usr/bin/python3.11 "$@"\n'
    )
    launcher.chmod(0o755)
    return launcher


def unpack_debian(apt: Path, root: Path) -> None:
    """Unpacks DEBIAN and all that they depend on. Installs nothing on this machine."""
    for name in ("lists/partial", "archives/partial"):
        (apt / name).mkdir(parents=True, exist_ok=True)
    (apt / "status").touch()
    options = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "root",
        "Dir::State": apt,
        "Dir::State::lists": apt / "lists",
        "Dir::State::status": apt / "status",
        "Dir::Cache": apt,
        "Dir::Cache::archives": apt / "archives",
    }
    command = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in options.items())]
    subprocess.run([*command, "update"], check=True)
    subprocess.run([*command, "-y", "--download-only", "install", *DEBIAN], check=True)
    for package in sorted((apt / "archives").glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", str(package), str(root)], check=True)


def install(site: Path, *packages: str) -> None:
    platforms = ["linux_aarch64", *(f"manylinux_2_{n}_aarch64" for n in (28, 27, 26, 17))]
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"),
            *("--target", str(site), "--no-deps", "--only-binary=:all:"),
            *("--implementation", "cp", "--python-version", "3.11"),
            *(f"--platform={platform}" for platform in platforms),
            *("-c", str(ROOT / "constraints.txt"), *packages),
        ],
        check=True,
    )


def cross_build(wheels: Path, root: Path) -> Path:
    """Builds bitgaze's wheel for aarch64 with the headers of the root; returns its path."""
    # What setuptools asks of the Python that it builds for; alone, because it would shadow this
    # machine's standard library.
    described = "_sysconfigdata__aarch64-linux-gnu"
    target = wheels / "target"
    shutil.rmtree(wheels, ignore_errors=True)
    target.mkdir(parents=True)
    shutil.copy(root / f"usr/lib/python3.11/{described}.py", target)
    include = root / "usr/include"
    cmake = [
        "-DCMAKE_SYSTEM_NAME=Linux",
        "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
        f"-DPython_INCLUDE_DIR={include}/python3.11",
        f"'-DCMAKE_CXX_FLAGS=-isystem {include}'",
    ]
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "-q", "--disable-pip-version-check"),
            *("--no-build-isolation", "--no-deps", "-w", str(wheels), str(ROOT)),
        ],
        env={
            **os.environ,
            "_PYTHON_HOST_PLATFORM": "linux-aarch64",
            "_PYTHON_SYSCONFIGDATA_NAME": described,
            "PYTHONPATH": str(target),
            "CXX": "aarch64-linux-gnu-g++",
            "CMAKE_ARGS": " ".join(cmake),
        },
        check=True,
    )
    (wheel,) = wheels.glob("*_aarch64.whl")
    return wheel


def chosen_images(folder: Path, count: int | None) -> Path:
    """Copies of the example queries and of `count` example images, evenly spaced."""
    pictures = sorted((ROOT / "examples/pictures").rglob("*.*"))
    queries = sorted((ROOT / "examples/queries").iterdir())
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    count = min(count or len(pictures), len(pictures))
    for picture in [*queries, *(pictures[i * len(pictures) // count] for i in range(count))]:
        shutil.copy(picture, folder / f"{picture.parent.name}-{picture.name}")
    return folder


def measure(
    folder: Path, most_looks: int | None, images: Path, out: Path, codes_of: Path | None = None
) -> None:
    """Indexes and searches on the machine that this runs on, and writes what it found to `out`.

    The codes that both machines search are those of `codes_of`, or else this machine's own.
    """
    from bitgaze import Gallery, HammingIndex, ViewIndex, simd

    path = folder / f"{out.stem}.bitgaze"
    for stale in folder.glob(f"{path.name}*"):
        stale.unlink()
    results: dict[str, Any] = {"kernel": simd()}
    with Gallery(path, looks=most_looks) as gallery:
        report = gallery.sync(images)
        if report.failed:
            sys.exit(f"{len(report.failed)} images were refused: {report.failed}")
        items = [gallery.get(key) for key in sorted(gallery)]
        views = 1 + gallery.looks
        # An image with fewer looks repeats the first code.
        rows = [[item.code, *item.looks, *[item.code] * views][:views] for item in items]
        results["codes"] = np.array(rows)  # (n, views, code_bytes)
        results["looks"] = np.array([len(item.looks) for item in items])
        results["structure"] = np.array([item.structure for item in items])
        # Of two images: how near the machines' hash values are, whose signs are the bits.
        results["hashes"] = gallery.encoder.encode(sorted(images.iterdir())[:2]).hashes
        hits = [gallery.search(item.key, k=HITS, exclude_self=True) for item in items]
    results["hits"] = np.array([[Path(hit.key).name for hit in found] for found in hits])
    results["distances"] = np.array([[hit.distance for hit in found] for found in hits])

    codes = results["codes"]
    if codes_of:
        with np.load(codes_of) as other:
            codes = other["codes"]
    by_view = ViewIndex(codes.shape[2] * 8, views)
    by_view.add(codes)
    searches = [by_view.search(codes, k=10)]
    random = np.random.default_rng(1)
    for code_bytes in (1, 8, 16, 31, 32, 64, 128):
        index = HammingIndex(8 * code_bytes)
        index.add(random.integers(0, 256, (20_000, code_bytes), dtype=np.uint8))
        searches.append(index.search(index[:20], k=100))
    results["search"] = np.concatenate([part.ravel() for found in searches for part in found])
    np.savez(out, **results)


def compare(ours: Any, theirs: Any) -> None:
    """Prints what differs between the results of two machines."""

    def flips(name: str) -> NDArray[np.uint8]:
        return np.unpackbits(ours[name] ^ theirs[name], axis=-1)

    whole, looks = flips("codes")[:, 0], flips("codes")[:, 1:]
    same_looks = (ours["looks"] == theirs["looks"]).mean()
    print(f"{len(whole)} images; kernels: here {ours['kernel']}, aarch64 {theirs['kernel']}")
    print(f"bits that differ, whole images: {whole.mean():.3%}, at most {whole.sum(1).max()}")
    if looks.size:
        print(f"bits that differ, looks: {looks.mean():.3%} (as many looks: {same_looks:.1%})")
    print(f"bits that differ, structure: {flips('structure').mean():.3%}")
    off = np.abs(ours["hashes"] - theirs["hashes"]).max()
    size = np.abs(ours["hashes"]).mean()
    print(f"hash values of two images: at most {off:.1e} apart, {size:.2f} large on average")
    print("the same codes, the same search:", np.array_equal(ours["search"], theirs["search"]))
    alike = ours["hits"] == theirs["hits"]
    apart = np.abs(ours["distances"] - theirs["distances"])
    print(
        f"searches with the same first hit: {alike[:, 0].mean():.1%}, hits at the same rank of "
        f"{HITS}: {alike.mean():.1%}, distances apart: {apart.mean():.2f} bits, at most "
        f"{apart.max():.2f}"
    )


if __name__ == "__main__":
    main()
