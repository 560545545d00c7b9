"""The C++ tests and library, built for other machines and with sanitizers; each file's code.

A test is skipped where its tools are missing (CI has them all): cmake, a C++ compiler, objdump and
nm, g++-aarch64-linux-gnu, qemu-aarch64 and qemu-x86_64.
"""

import ctypes
import json
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import damage_flat
import numpy as np
import pytest
from PIL import Image

import documents
from bitgaze import FlatGallery, _hamming
from bitgaze.encoding.contract import DEFAULT_MODEL
from bitgaze.encoding.images import Preprocess, prepared
from bitgaze.gallery.flat.writer import Batch, Origin, write_flat
from codes import random_codes

ROOT = Path(__file__).resolve().parent.parent
X86_64 = platform.machine() in {"x86_64", "AMD64"}

pytestmark = pytest.mark.skipif(
    not (ROOT / "CMakeLists.txt").is_file(), reason="needs the source tree"
)
only_x86_64 = pytest.mark.skipif(not X86_64, reason="this machine is not x86-64")


def need(*tools):
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def output_of(*command):
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{command}\n{result.stdout[-5000:]}\n{result.stderr[-5000:]}"
    return result.stdout


def build(folder, *options):
    """Builds the C++ tests with warnings as errors; returns the program."""
    need("cmake")
    generator = ["-GNinja"] if shutil.which("ninja") else []
    output_of(
        *("cmake", "-S", str(ROOT), "-B", str(folder), *generator),
        *("-DBITGAZE_PYTHON=OFF", "-DBITGAZE_TESTS=ON", "-DBITGAZE_WERROR=ON", *options),
        *("-DBITGAZE_LIBRARY=ON", f"-DCMAKE_INSTALL_PREFIX={folder / 'installed'}"),
    )
    output_of("cmake", "--build", str(folder), "--parallel", "2")
    return str(folder / "test_hamming")


def run(*command):
    """Runs the test program; returns the kernels that it found and those that passed all tests."""
    output = output_of(*command)
    found = re.findall(r"^kernels: (.+)$", output, re.MULTILINE)[0].split()
    passed = re.findall(r"^(\w+): [1-9]\d* checks$", output, re.MULTILINE)
    total = rf"^[1-9]\d* checks on {len(passed)} kernels, 0 failures$"
    assert re.search(total, output, re.MULTILINE), output
    return found, passed


def emulate(cpu, program, *arguments):
    need("qemu-x86_64")
    # Emulated AVX2 is slow, and libc would use it in every copy.
    tunables = "GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX2,-AVX_Fast_Unaligned_Load"
    return run("env", tunables, "qemu-x86_64", "-cpu", cpu, program, *arguments)


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    need("c++")
    return build(tmp_path_factory.mktemp("native"))


def object_file(program, name):
    (path,) = Path(program).parent.rglob(f"{name}.cpp.o*")
    return str(path)


def compiled_kernels(program, nm="nm"):
    """The kernels for the processor of this build; the others define no function."""
    need(nm)
    return [
        name
        for name in _hamming.KERNELS
        if re.search(
            r"^\w+ t ", output_of(nm, object_file(program, f"kernel_{name}")), re.MULTILINE
        )
    ]


def test_native(native):
    found, passed = run(native)
    assert found == passed == _hamming.kernels()


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory):
    need("c++")
    flags = "-O1 -fsanitize=address,undefined -fno-sanitize-recover=all"
    folder = tmp_path_factory.mktemp("sanitized")
    return build(folder, f"-DCMAKE_CXX_FLAGS={flags}", "-DCMAKE_BUILD_TYPE=None")


def test_with_sanitizers(sanitized):
    found, passed = run(sanitized)
    assert found == passed
    assert "portable" in passed


def test_threads_with_thread_sanitizer(tmp_path):
    need("c++")
    flags = "-O1 -g -fsanitize=thread"
    program = build(tmp_path, f"-DCMAKE_CXX_FLAGS={flags}", "-DCMAKE_BUILD_TYPE=None")
    # Some systems randomise addresses over a wider range than the sanitizer supports.
    fixed = ("setarch", "-R") if shutil.which("setarch") else ()
    # GCC 12's sanitizer loses 512-bit registers across its own calls.
    assert run(*fixed, program, "threads", "portable")[1] == ["portable"]


@only_x86_64
@pytest.mark.parametrize(
    ("cpu", "has", "lacks"), [("Nehalem", "", "avx"), ("Haswell", "avx", "avx512")]
)
def test_older_x86_64(native, cpu, has, lacks):
    """An instruction that the CPU lacks, in any file, ends the program.

    Each CPU runs the kernels that the one before it lacks.
    """
    kernels = [name for name in compiled_kernels(native) if not name.startswith(lacks)]
    tested = [name for name in kernels if name.startswith(has)]
    assert emulate(cpu, native, *tested) == (kernels, tested)


@only_x86_64
def test_an_operating_system_without_avx(native):
    """The CPU reports AVX2, but XCR0 shows that the system does not save its registers."""
    kernels = [name for name in compiled_kernels(native) if not name.startswith("avx")]
    assert emulate("Haswell,-xsave", native, "threads") == (kernels, kernels)


AARCH64 = (
    "-DCMAKE_SYSTEM_NAME=Linux",
    "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
    "-DCMAKE_C_COMPILER=aarch64-linux-gnu-gcc",
    "-DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++",
)
QEMU = ("qemu-aarch64", "-L", "/usr/aarch64-linux-gnu")


@pytest.fixture(scope="module")
def aarch64(tmp_path_factory):
    need("aarch64-linux-gnu-g++", "qemu-aarch64")
    return build(tmp_path_factory.mktemp("aarch64"), *AARCH64)


def test_aarch64(aarch64):
    found, passed = run(*QEMU, aarch64)
    assert found == passed == compiled_kernels(aarch64, "aarch64-linux-gnu-nm")
    assert {"portable", "neon"} <= set(passed)


@only_x86_64
@pytest.mark.parametrize(
    "name",
    ["dispatch", "scan", "search", "multi_index", *(f"kernel_{name}" for name in _hamming.KERNELS)],
)
def test_only_kernel_files_use_vector_registers(native, name):
    """Kernels are named for their instruction sets; every other file runs on any CPU."""
    need("objdump")
    code = output_of("objdump", "-d", "--no-show-raw-insn", object_file(native, name))
    used = set(re.findall(r"%([xyz]mm)\d", code))
    if name.startswith("kernel_avx512"):
        assert "zmm" in used
    elif name.startswith("kernel_avx"):
        assert used == {"xmm", "ymm"}
    else:
        assert used <= {"xmm"}
        assert not re.search(r"\t(v[a-z]|popcnt)", code), "an instruction newer than SSE2"


@only_x86_64
@pytest.mark.parametrize("kernel", _hamming.KERNELS)
def test_a_kernel_file_shows_the_linker_one_constant(native, kernel):
    """An inline function that the linker shares would carry its file's instructions elsewhere."""
    need("nm", "objdump")
    path = object_file(native, f"kernel_{kernel}")
    symbols = output_of("nm", "-C", "--defined-only", "--extern-only", path)
    names = re.findall(r"^\w+ [^V] ([\w:]+)", symbols, re.MULTILINE)  # V: the C++ runtime's
    assert names == [f"bitgaze::kernel_{kernel}"]
    assert ".init_array" not in output_of("objdump", "-h", path)


# The library


@pytest.fixture(scope="module")
def flat_files(tmp_path_factory):
    """Flat files of both layouts by words, and of rows; two or three words tie often."""
    folder = tmp_path_factory.mktemp("flat")
    for bits, looks in ((64, 0), (128, 0), (72, 2), (128, 3)):
        codes = random_codes((3000, 1 + looks, bits // 8)) & random_codes((3000, 1, bits // 8), 1)
        boxes = random_codes((3000, looks, 8), 2).view(np.uint16)
        boxes[::3] = [0, 0, 65535, 65535]
        write_flat(
            folder / f"{bits}-{looks}.flat",
            Origin(bits, looks),
            3000,
            [
                Batch(
                    codes,
                    boxes,
                    [f"item {i} \u00e9" for i in range(3000)],
                    ['{"even": true}' if i % 2 == 0 else "{}" for i in range(3000)],
                )
            ],
        )
    return sorted(folder.iterdir())


def build_examples(program, folder, *options):
    """Installs the library and builds the examples, which find it by find_package."""
    built = Path(program).parent
    output_of("cmake", "--install", str(built))
    generator = ["-GNinja"] if shutil.which("ninja") else []
    flags = "-Wall -Wextra -Wpedantic -Wconversion -Werror"
    output_of(
        *("cmake", "-S", str(ROOT / "examples" / "cpp"), "-B", str(folder), *generator, *options),
        *(f"-DCMAKE_PREFIX_PATH={built / 'installed'}", "-DCMAKE_BUILD_TYPE=Release"),
        *(f"-DCMAKE_CXX_FLAGS={flags}", f"-DCMAKE_C_FLAGS={flags} -std=c99"),
    )
    output_of("cmake", "--build", str(folder), "--parallel", "2")
    return folder


@pytest.fixture(scope="module")
def examples(native, tmp_path_factory):
    return build_examples(native, tmp_path_factory.mktemp("examples"))


def check_answers(folder, flat_files, *emulator):
    """The examples answer as Python does, to the last digit."""
    for path in flat_files:
        with FlatGallery(path) as flat:
            key = "item 7 \u00e9"
            for words, k, filter in [
                ((), 10, None),
                (("40",), 40, None),
                (("25", "item 2"), 25, np.array(["item 2" in key for key in flat])),
            ]:
                hits = flat.search(key, k=k, filter=filter, exclude_self=True)
                found = output_of(*emulator, str(folder / "search"), str(path), key, *words)
                expected = [
                    (hit.key, hit.distance, json.dumps(hit.metadata), hit.box) for hit in hits
                ]
                assert [as_hit(line) for line in found.splitlines()] == expected
                assert len(hits) == k
            found = output_of(*emulator, str(folder / "search_c"), str(path), key)
            expected = [(h.key, h.distance) for h in flat.search(key, k=10, exclude_self=True)]
            assert [as_hit(line)[:2] for line in found.splitlines()] == expected


def as_hit(line):
    _, distance, key, *rest = line.split("\t")
    box = tuple(float(np.float32(side)) for side in rest[1].split()) if len(rest) > 1 else None
    return key, float(distance), rest[0] if rest else None, box


def test_programs_in_c_and_c_plus_plus_answer_as_python_does(examples, flat_files):
    check_answers(examples, flat_files)


def test_programs_on_aarch64_answer_as_python_does(aarch64, flat_files, tmp_path):
    check_answers(build_examples(aarch64, tmp_path, *AARCH64), flat_files, *QEMU)


def test_the_program_of_the_guide(native, examples, flat_files, tmp_path):
    """Takes it from docs/guide-cpp.md; `examples` has installed the library."""
    blocks = documents.blocks((ROOT / "docs" / "guide-cpp.md").read_text(encoding="utf-8"))
    (cmake,) = (text for language, text in blocks if language == "cmake")
    (program,) = (text for language, text in blocks if language == "cpp")
    (tmp_path / "CMakeLists.txt").write_text(cmake)
    (tmp_path / "mine.cpp").write_text(program)
    prefix = f"-DCMAKE_PREFIX_PATH={Path(native).parent / 'installed'}"
    output_of("cmake", "-S", str(tmp_path), "-B", str(tmp_path / "mine"), prefix)
    output_of("cmake", "--build", str(tmp_path / "mine"))
    found = output_of(str(tmp_path / "mine" / "mine"), str(flat_files[0])).splitlines()
    with FlatGallery(flat_files[0]) as flat:
        hits = flat.search(next(iter(flat)), k=5, exclude_self=True)
    assert found == [f"{hit.distance:g} {hit.key}" for hit in hits]


def test_errors_of_programs(examples, flat_files, tmp_path):
    text = tmp_path / "text"
    text.write_text("no flat file")
    for program in ("search", "search_c"):
        for path, key, message in [
            (text, "x", "is not a flat file; `bitgaze export-flat OUT -g GALLERY` writes one"),
            (tmp_path / "none", "x", "none: No such file or directory"),
            (tmp_path, "x", "is not a file"),
            (flat_files[0], "x", "no item"),
        ]:
            done = subprocess.run([examples / program, path, key], capture_output=True, text=True)
            assert done.returncode == 1
            assert message in done.stderr


def test_damaged_flat_files_with_sanitizers(sanitized, tmp_path):
    """Python and C++ agree on which files are damaged; nothing is read outside of one."""
    sound = tmp_path / "sound"
    damage_flat.write_sound(sound)
    content = sound.read_bytes()
    paths = [sound, *(tmp_path / f"{seed}" for seed in range(300)), tmp_path / "other"]
    for seed, path in enumerate(paths[1:-1]):
        path.write_bytes(damage_flat.made_up(content, seed))
    paths[-1].write_bytes(b"\0" + content[1:])
    found = damage_flat.states_in_c_plus_plus(Path(sanitized).parent / "use_flat", paths)
    assert found == [damage_flat.state(path) for path in paths]
    assert set(found) == {"sound", "damaged", "no flat file"}


def test_the_shared_library_shows_its_interface_and_nothing_else(native, tmp_path):
    """Linked from the objects of the static one; other languages load it."""
    need("nm")
    library = tmp_path / "libbitgaze.so"
    archive = Path(native).parent / "libbitgaze.a"
    whole = ("-Wl,--whole-archive", str(archive), "-Wl,--no-whole-archive")
    output_of("c++", "-shared", "-o", str(library), *whole, "-pthread")
    symbols = output_of("nm", "-DC", "--defined-only", str(library))
    names = set(re.findall(r"^\w+ T ([\w:~]+)", symbols, re.MULTILINE))
    header = (ROOT / "csrc" / "include" / "bitgaze" / "bitgaze.h").read_text()
    functions = set(re.findall(r"(bitgaze_\w+)\(", header))
    assert functions <= names
    others = {name for name in names - functions if not name.startswith("bitgaze::FlatGallery::")}
    assert others <= {"bitgaze::simd"}
    loaded = ctypes.CDLL(str(library))
    loaded.bitgaze_error.restype = ctypes.c_char_p
    assert loaded.bitgaze_open(b"/none.flat", ctypes.byref(ctypes.c_void_p())) == 2
    assert loaded.bitgaze_error() == b"/none.flat: No such file or directory"
    assert loaded.bitgaze_open(None, ctypes.byref(ctypes.c_void_p())) == 1
    assert loaded.bitgaze_error() == b"an argument is NULL"


RESIZE = """
#include <cstdio>
#include <cstdlib>
#include "resize.h"

int main(int, char** arguments) {
  Image image{std::strtoul(arguments[1], nullptr, 10), std::strtoul(arguments[2], nullptr, 10), {}};
  const std::size_t bytes = 3 * image.width * image.height;
  image.pixels.resize(bytes);
  if (std::fread(image.pixels.data(), 1, bytes, stdin) != bytes) return 1;
  const Image result = resized(image, 224);
  return std::fwrite(result.pixels.data(), 1, result.pixels.size(), stdout) != 3 * 224 * 224;
}
"""


def test_images_are_resized_in_c_plus_plus_as_in_python_to_the_bit(tmp_path):
    need("c++")
    (tmp_path / "resize.cpp").write_text(RESIZE)
    include = f"-I{ROOT / 'examples' / 'cpp'}"
    program = tmp_path / "resize"
    output_of("c++", "-std=c++20", "-O2", include, "-o", str(program), str(tmp_path / "resize.cpp"))
    sizes = [(1, 1), (224, 224), (224, 230), (223, 400), (500, 375), (300, 376), (300, 377)]
    sizes += [(449, 900), (1345, 700), (460, 1401), (30, 7), (101, 953), (137, 937)]
    for i, (width, height) in enumerate(sizes):
        pixels = random_codes((height, width, 3), i)
        if i % 2 == 0:  # black and white, where sums leave the range of a byte
            pixels = pixels // 200 * 255
        command = [program, str(width), str(height)]
        done = subprocess.run(command, input=pixels.tobytes(), capture_output=True, check=True)
        expected = prepared(Image.fromarray(pixels), Preprocess(224))
        found = np.frombuffer(done.stdout, np.uint8).reshape(expected.shape)
        assert np.array_equal(found, expected), (width, height)


# Debian 12 has no package of these headers; where they are, the test is there.
ORT_HEADERS = [
    folder
    for folder in map(Path, (os.environ.get("ONNXRUNTIME_INCLUDE", ""), "/usr/include/onnxruntime"))
    if (folder / "onnxruntime_cxx_api.h").is_file()
]

if ORT_HEADERS:

    def test_an_image_encoded_in_c_plus_plus_has_the_same_code(native, tmp_path, encoder):
        """With the library inside onnxruntime's Python package."""
        import onnxruntime

        (library,) = Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*")
        (tmp_path / "libonnxruntime.so.1").symlink_to(library)
        folder = build_examples(
            native,
            tmp_path / "examples",
            f"-DONNXRUNTIME_INCLUDE={ORT_HEADERS[0]}",
            f"-DONNXRUNTIME_LIBRARY={tmp_path / 'libonnxruntime.so.1'}",
        )
        random = np.random.default_rng(0)
        for size in ((224, 224), (37, 51), (1600, 1200), (300, 500), (137, 937), (2346, 313)):
            small = Image.fromarray(random.integers(0, 256, (5, 7, 3), dtype=np.uint8))
            image = small.resize(size, Image.Resampling.BICUBIC)
            image.save(tmp_path / "x.ppm")
            encoded = encoder.encode([image])
            code = encoded.codes[0]
            fingerprint = encoder.fingerprint
            batch = Batch(code[None, None], np.empty((1, 0, 4), np.uint16), ["x"], ["{}"])
            write_flat(tmp_path / "x.flat", Origin(128, 0, fingerprint), 1, [batch])
            found = output_of(
                *("env", f"LD_LIBRARY_PATH={tmp_path}", str(folder / "encode")),
                *(str(DEFAULT_MODEL), str(tmp_path / "x.flat"), str(tmp_path / "x.ppm")),
            ).split()
            differing = np.frombuffer(bytes.fromhex(found[0]), np.uint8) ^ code
            assert not (np.unpackbits(differing) & encoded.stable[0]).any()
            assert float(found[2]) == np.unpackbits(differing).sum()
