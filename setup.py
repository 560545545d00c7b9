"""Runs CMake for the C++ extension. Everything else about the package is in pyproject.toml."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

ROOT = Path(__file__).resolve().parent


class CMakeBuild(build_ext):
    """Builds the extension with CMakeLists.txt, in the folder that setuptools expects."""

    def build_extension(self, ext: Extension) -> None:
        output = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        build = Path(self.build_temp).resolve()
        # The cache of an earlier build names tools in a build environment that pip has deleted.
        (build / "CMakeCache.txt").unlink(missing_ok=True)
        build.mkdir(parents=True, exist_ok=True)

        configure = [
            *("cmake", "-S", str(ROOT), "-B", str(build)),
            f"-DBITGAZE_OUTPUT_DIR={output}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DCMAKE_BUILD_TYPE={'Debug' if self.debug else 'Release'}",
        ]
        arguments = shlex.split(os.environ.get("CMAKE_ARGS", ""))
        chosen = "CMAKE_GENERATOR" in os.environ or any(a.startswith("-G") for a in arguments)
        # Without a developer prompt, CMake finds Visual Studio only by its own generator.
        found = sys.platform != "win32" or shutil.which("cl")
        if not chosen and found and shutil.which("ninja"):
            configure.append("-GNinja")

        run(
            [*configure, *arguments],
            "CMake failed to configure bitgaze's C++ extension; its message is above. The usual "
            "cause is a missing C++20 compiler: install one (Debian, Ubuntu: apt install g++; "
            "Fedora: dnf install gcc-c++; macOS: xcode-select --install; Windows: Visual Studio "
            "Build Tools) or name one in the environment variable CXX.",
        )
        run(
            ["cmake", "--build", str(build), "--config", "Release", "--target", "_hamming"],
            "bitgaze's C++ extension did not compile; the compiler's message is above. It requires "
            "C++20: GCC 11, Clang 14, Visual Studio 2022 or newer.",
        )


def run(command: list[str], advice: str) -> None:
    """Run a command; a failure ends the build with advice instead of a traceback."""
    sys.stdout.flush()
    try:
        subprocess.run(command, check=True)
    except FileNotFoundError as error:
        message = "cmake is not installed; builds without isolation require it: pip install cmake"
        raise CompileError(message) from error
    except subprocess.CalledProcessError as error:
        raise CompileError(advice) from error


setup(
    ext_modules=[Extension("bitgaze._hamming", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)
