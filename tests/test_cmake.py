"""How the libraries are built."""

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


@pytest.mark.parametrize(("options", "are_errors"), [((), False), (("-DDCLS_WARNINGS_AS_ERRORS=ON",), True)])
def test_warnings_are_errors_where_asked_for(tmp_path, options, are_errors):
    returncode, output = run_cmake(
        "-S", str(ROOT), "-B", str(tmp_path), "-G", "Ninja", f"-DPython_EXECUTABLE={sys.executable}",
        "-DDCLS_CUDA=AUTO", "-DDCLS_CUDA_ON_CPU=ON", *options,
        PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    )  # fmt: skip
    assert returncode == 0, output
    commands = [entry["command"] for entry in json.loads((tmp_path / "compile_commands.json").read_text())]
    ours = [command for command in commands if "-Wextra" in command]
    assert {"-Werror" in command for command in ours} == {are_errors}
    by_nvcc = [command for command in ours if "--expt-relaxed-constexpr" in command]
    assert {"-Werror=all-warnings" in command for command in by_nvcc} <= {are_errors}
