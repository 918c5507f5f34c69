"""How the libraries are built: which nvcc will do, and where a warning is an error."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import cmake

ROOT = Path(__file__).parents[1]


def run_cmake(*arguments: str, **variables: str) -> tuple[int, str]:
    command = [Path(cmake.CMAKE_BIN_DIR, "cmake"), *arguments]
    environment = {name: value for name, value in os.environ.items() if name not in ("CUDACXX", "CUDA_PATH")}
    process = subprocess.run(command, capture_output=True, text=True, env={**environment, **variables})
    return process.returncode, " ".join((process.stdout + process.stderr).split())  # CMake breaks lines


def nvcc_of(version: str, folder: Path) -> Path:
    """A program that says that it is nvcc."""
    nvcc = folder / "nvcc"
    nvcc.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {version}, V{version}.89'\n")
    nvcc.chmod(0o755)
    return nvcc


HOW_NVCC_IS_FOUND = {
    "CMAKE_CUDA_COMPILER": lambda nvcc: (f"-DCMAKE_CUDA_COMPILER={nvcc}", {}),
    "CUDACXX": lambda nvcc: ("-DCMAKE_CUDA_COMPILER=NOTFOUND", {"CUDACXX": str(nvcc)}),
    "PATH": lambda nvcc: ("-DCMAKE_CUDA_COMPILER=NOTFOUND", {"PATH": f"{nvcc.parent}:/usr/bin:/bin"}),
}
OLD = "nvcc is nvcc 11.8, and the CUDA library needs nvcc 12.0 or newer"


@pytest.mark.parametrize("how", HOW_NVCC_IS_FOUND)
@pytest.mark.parametrize(
    ("version", "asked", "built", "message"),
    [
        ("11.8", "ON", None, f"{OLD}. The environment variable CUDACXX names another nvcc. -DDCLS_CUDA=OFF "),
        ("11.8", "AUTO", "OFF", f"{OLD}: it is left out. The environment variable CUDACXX names another nvcc."),
        ("11.8", "OFF", "OFF", None),
        ("12.0", "ON", "ON", None),
        ("13.1", "AUTO", "AUTO", None),  # where CMake goes on and tests it
        ("9.2", "AUTO", "OFF", "nvcc is nvcc 9.2, "),
    ],
)
def test_old_nvcc(tmp_path, how, version, asked, built, message):
    compiler, variables = HOW_NVCC_IS_FOUND[how](nvcc_of(version, tmp_path))
    script = tmp_path / "script.cmake"
    script.write_text(f"include({ROOT}/cmake/nvcc.cmake)\nmessage(STATUS DCLS_CUDA=${{DCLS_CUDA}})\n")
    returncode, output = run_cmake(f"-DDCLS_CUDA={asked}", compiler, "-P", str(script), **variables)
    assert (returncode == 0) == (built is not None)
    assert (f"DCLS_CUDA={built}" in output) == (built is not None)
    assert message is None or message in output
    assert ("dcls_ops:" in output) == (message is not None)


def test_no_nvcc_is_no_old_one(tmp_path):
    returncode, output = run_cmake("-DDCLS_CUDA=AUTO", "-P", str(ROOT / "cmake" / "nvcc.cmake"), PATH=str(tmp_path))
    assert (returncode, output) == (0, "")


def configure(folder: Path, *options: str) -> tuple[int, str]:
    """Of this project, with the Python and ninja that run the tests."""
    command = ("-S", str(ROOT), "-B", str(folder), "-G", "Ninja", f"-DPython_EXECUTABLE={sys.executable}", *options)
    return run_cmake(*command, PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}")


def test_configuring_refuses_an_old_nvcc(tmp_path):
    nvcc = nvcc_of("11.8", tmp_path)
    returncode, output = configure(tmp_path / "build", "-DDCLS_CUDA=ON", f"-DCMAKE_CUDA_COMPILER={nvcc}")
    assert returncode != 0
    assert OLD in output


@pytest.mark.parametrize(("options", "are_errors"), [((), False), (("-DDCLS_WARNINGS_AS_ERRORS=ON",), True)])
def test_warnings_are_errors_where_asked_for(tmp_path, options, are_errors):
    returncode, output = configure(tmp_path, "-DDCLS_CUDA=AUTO", "-DDCLS_CUDA_ON_CPU=ON", *options)
    assert returncode == 0, output
    commands = [entry["command"] for entry in json.loads((tmp_path / "compile_commands.json").read_text())]
    ours = [command for command in commands if "-Wextra" in command]
    assert {"-Werror" in command for command in ours} == {are_errors}
    by_nvcc = [command for command in ours if "--expt-relaxed-constexpr" in command]
    assert {"-Werror=all-warnings" in command for command in by_nvcc} <= {are_errors}
