"""The C++ tests, built for other machines and with sanitizers, and the machine code of each file.

A test is skipped where its tools are missing (CI has them all): cmake, a C++ compiler, objdump and
nm, g++-aarch64-linux-gnu, qemu-aarch64 and qemu-x86_64.
"""

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bitgaze import _hamming

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


def test_with_sanitizers(tmp_path):
    need("c++")
    flags = "-O1 -fsanitize=address,undefined -fno-sanitize-recover=all"
    program = build(tmp_path, f"-DCMAKE_CXX_FLAGS={flags}", "-DCMAKE_BUILD_TYPE=None")
    found, passed = run(program)
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


def test_aarch64(tmp_path):
    need("aarch64-linux-gnu-g++", "qemu-aarch64")
    program = build(
        tmp_path,
        "-DCMAKE_SYSTEM_NAME=Linux",
        "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
        "-DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++",
    )
    found, passed = run("qemu-aarch64", "-L", "/usr/aarch64-linux-gnu", program)
    assert found == passed == compiled_kernels(program, "aarch64-linux-gnu-nm")
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
