"""The C++ tests, built for other machines and with sanitizers, and the machine code of each file.

Runs what this machine has the tools for (CI has them all): cmake, a C++ compiler, objdump and nm,
g++-aarch64-linux-gnu, qemu-aarch64 and qemu-x86_64.
"""

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

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
    """Builds the C++ tests, warnings as errors; returns the program."""
    need("cmake")
    generator = ["-GNinja"] if shutil.which("ninja") else []
    output_of(
        *("cmake", "-S", str(ROOT), "-B", str(folder), *generator),
        *("-DBITGAZE_PYTHON=OFF", "-DBITGAZE_TESTS=ON", "-DBITGAZE_WERROR=ON", *options),
    )
    output_of("cmake", "--build", str(folder), "--parallel", "2")
    return str(folder / "test_hamming")


def kernels_that_passed(output):
    """The kernels named in the output of the test program; fails unless it counted no failure."""
    kernels = re.findall(r"^(\w+): [1-9]\d* checks$", output, re.MULTILINE)
    total = rf"^[1-9]\d* checks on {len(kernels)} kernels, 0 failures$"
    assert re.search(total, output, re.MULTILINE), output
    return kernels


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    need("c++")
    return build(tmp_path_factory.mktemp("native"))


def test_native(native):
    from bitgaze import _hamming

    assert kernels_that_passed(output_of(native)) == _hamming.kernels()


def test_with_sanitizers(tmp_path):
    need("c++")
    flags = "-O1 -fsanitize=address,undefined -fno-sanitize-recover=all"
    program = build(tmp_path, f"-DCMAKE_CXX_FLAGS={flags}", "-DCMAKE_BUILD_TYPE=None")
    assert "portable" in kernels_that_passed(output_of(program))


def test_threads_with_thread_sanitizer(tmp_path):
    need("c++")
    flags = "-O1 -g -fsanitize=thread"
    program = build(tmp_path, f"-DCMAKE_CXX_FLAGS={flags}", "-DCMAKE_BUILD_TYPE=None")
    # Address space layout randomisation of some kernels is wider than the sanitizer can bear.
    fixed = ("setarch", "-R") if shutil.which("setarch") else ()
    assert kernels_that_passed(output_of(*fixed, program, "threads")) == ["portable"]


@only_x86_64
@pytest.mark.parametrize(
    ("cpu", "kernels"), [("Nehalem", ["portable"]), ("Haswell", ["portable", "avx2"])]
)
def test_older_x86_64(native, cpu, kernels):
    """An illegal instruction ends the program, so no file may use more than its CPU has."""
    need("qemu-x86_64")
    assert kernels_that_passed(output_of("qemu-x86_64", "-cpu", cpu, native)) == kernels


@only_x86_64
def test_an_operating_system_without_avx(native):
    """The CPU reports AVX2, but XCR0 says that nobody saves its registers."""
    need("qemu-x86_64")
    output = output_of("qemu-x86_64", "-cpu", "Haswell,-xsave", native)
    assert kernels_that_passed(output) == ["portable"]


def test_aarch64(tmp_path):
    need("aarch64-linux-gnu-g++", "qemu-aarch64")
    program = build(
        tmp_path,
        "-DCMAKE_SYSTEM_NAME=Linux",
        "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
        "-DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++",
    )
    output = output_of("qemu-aarch64", "-L", "/usr/aarch64-linux-gnu", program)
    assert kernels_that_passed(output) == ["portable", "neon"]


def object_file(program, name):
    (path,) = Path(program).parent.rglob(f"{name}.cpp.o*")
    return str(path)


@only_x86_64
@pytest.mark.parametrize(
    ("name", "registers"),
    [
        ("kernel_portable", {"xmm"}),
        ("dispatch", {"xmm"}),
        ("scan", {"xmm"}),
        ("search", {"xmm"}),
        ("multi_index", {"xmm"}),
        ("kernel_avx2", {"xmm", "ymm"}),
        ("kernel_avx512", {"xmm", "ymm", "zmm"}),
    ],
)
def test_registers(native, name, registers):
    need("objdump")
    code = output_of("objdump", "-d", "--no-show-raw-insn", object_file(native, name))
    assert set(re.findall(r"%([xyz]mm)\d", code)) <= registers
    if len(registers) == 1:
        assert not re.search(r"\t(v[a-z]|popcnt)", code), "an instruction newer than SSE2"


@only_x86_64
@pytest.mark.parametrize("isa", ["avx2", "avx512", "neon", "portable"])
def test_kernel_files_define_nothing_but_their_entry_point(native, isa):
    """An inline function that the linker shares would bring its file's instructions along."""
    need("nm", "objdump")
    path = object_file(native, f"kernel_{isa}")
    symbols = output_of("nm", "-C", "--defined-only", "--extern-only", path)
    names = re.findall(r"^\w+ [TWiu] ([\w:]+)", symbols, re.MULTILINE)  # code, not data
    entry_points = [f"bitgaze::find_{what}_{isa}" for what in ("planes", "rows", "screened")]
    assert sorted(names) == ([] if isa == "neon" else entry_points)
    assert ".init_array" not in output_of("objdump", "-h", path)
