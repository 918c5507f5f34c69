"""The instruction sets of the CPU's inner loops: each gives right results, and is what DCLS_CPU_CAPABILITY names.

A process reads that variable once, so there is a process for every set.
"""

import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from sanitizers import run_sanitized

from dcls_ops import _library

TESTS = Path(__file__).parent
SETS = ("generic", "avx2", "avx512")
every_set = pytest.mark.parametrize("name", SETS)


def variables(capability: str) -> dict[str, str]:
    # Threads that wait by spinning make many small operators slow where another process wants the core.
    return {"DCLS_CPU_CAPABILITY": capability, "OMP_WAIT_POLICY": "passive"}


def run(*arguments: str, capability: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **variables(capability)}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment)


def pytest_arguments(*files: str) -> tuple[str, ...]:
    return "-m", "pytest", "-q", "-p", "no:cacheprovider", *(str(TESTS / "ops" / file) for file in files)


def assert_passed(process: subprocess.CompletedProcess[str]) -> None:
    assert process.returncode == 0, process.stdout[-4000:] + process.stderr[-4000:]
    assert re.search(r"\d+ passed", process.stdout)


@functools.cache
def info_of_an_unknown_set() -> str:
    return run("-m", "dcls_ops", "info", capability="bogus").stdout


@functools.cache
def available_sets() -> list[str]:
    """By what the library says to a name that it does not know."""
    (names,) = re.findall("expected one of (.*) on this processor", info_of_an_unknown_set())
    return names.split(", ")


@pytest.fixture
def available(name):
    if name not in available_sets():
        pytest.skip(f"this processor has no {name}")
    return name


def test_those_of_this_processor_are_found():
    names = available_sets()
    assert names[0] == "generic"
    assert list(SETS[: len(names)]) == names
    known_to_pytorch = {"AVX2": "avx2", "AVX512": "avx512"}.get(torch.backends.cpu.get_cpu_capability(), "generic")
    assert known_to_pytorch in names
    if "DCLS_CPU_CAPABILITY" not in os.environ:
        assert _library.cpu_capability() == names[-1]


@every_set
def test_agrees_with_the_reference(available):
    if available == _library.cpu_capability():
        pytest.skip("this process runs the same tests")
    # The tests of threads, because the number of lanes decides what work there is to share out.
    arguments = pytest_arguments("test_inner_loops.py", "test_depthwise_conv.py", "test_conv.py")
    assert_passed(run(*arguments, "-k", "inner_loops or threads", capability=available))


@every_set
def test_the_sanitizers_have_nothing_to_say(available):
    arguments = pytest_arguments("test_inner_loops.py")
    process = run_sanitized(
        *arguments, "-p", "sanitizers", "--hypothesis-profile=few", "--capture=sys", "-W", "ignore",
        PYTHONPATH=str(TESTS), **variables(available),
    )  # fmt: skip
    assert_passed(process)


UNKNOWN = 'DCLS_CPU_CAPABILITY: expected one of {} on this processor, but got "bogus"'

OPERATORS = """
import torch
import dcls_ops.deploy, dcls_ops.nn

image, kernel = torch.ones(1, 2, 8, 8), torch.ones(2, 1, 7, 7)
ops = torch.ops.dcls
layer = dcls_ops.nn.Dcls2d(2, 2, 3, dilated_kernel_size=3, groups=2).eval().requires_grad_(False)
for call in (
    lambda: ops.depthwise_conv2d(image, kernel),
    lambda: ops.depthwise_conv2d_backward(image[..., :2, :2], image, kernel, [1, 1], [0, 0], [True] * 3),
    lambda: ops.conv2d(image, torch.ones(2, 1, 1), torch.zeros(2, 2, 1, 1), [3, 3], groups=2, version="v1"),
    lambda: layer(image),
    lambda: dcls_ops.deploy.fold(layer, backend="dcls")(image),
):
    try:
        with torch.no_grad():
            call()
    except RuntimeError as error:
        print(error)
"""


def test_an_unknown_set_is_an_error():
    message = UNKNOWN.format(", ".join(available_sets()))
    process = run("-c", OPERATORS, capability="bogus")
    assert process.stdout.splitlines() == [message] * 5, process.stderr
    assert f"processor     {message}, PyTorch " in info_of_an_unknown_set()


@every_set
def test_info_names_the_set_in_use(available):
    assert f"processor     {available}, PyTorch " in run("-m", "dcls_ops", "info", capability=available).stdout


CHECK_UNITS = TESTS.parent / "cmake" / "check_units.cmake"

# std::max is a function that all units share, unless it is inlined.
UNIT = """
#include <algorithm>
namespace dcls::cpu::avx2 {
inline int larger(int a, int b) { return std::max(a, b); }
int largest(const int* numbers) { return larger(numbers[0], larger(numbers[1], numbers[2])); }
}
"""


@pytest.mark.parametrize("optimisation", ["-O0", "-O3"])
def test_the_build_rejects_a_unit_that_shares_functions(tmp_path, optimisation):
    source, unit = tmp_path / "unit.cpp", tmp_path / "unit.o"
    source.write_text(UNIT)
    subprocess.run(["g++", "-std=c++20", optimisation, "-c", source, "-o", unit], check=True)
    definitions = ("-DNM=nm", "-DNAMESPACE=dcls::cpu::avx2", f"-DOBJECTS={unit}")
    command = [Path(sys.executable).with_name("cmake"), *definitions, "-P", CHECK_UNITS]
    process = subprocess.run(command, capture_output=True, text=True)
    if optimisation == "-O0":
        assert process.returncode != 0
        words = " ".join(process.stderr.split())
        assert "unit.o has symbols that are not its own (csrc/cpu/instruction_set.h):" in words
        assert "std::max<int>" in words
        assert "larger" not in words
    else:
        assert process.returncode == 0, process.stderr
