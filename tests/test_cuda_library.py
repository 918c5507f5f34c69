"""Whatever is wrong with the CUDA library, importing works, says so once, and operators run without it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# What `make cuda` leaves, beside what it was linked to where torch is a CPU build.
LIBRARY = ROOT / "build" / "cuda" / "libdcls_cuda.so"

# Imports the package as in a torch for CUDA sys.argv[2], with sys.argv[1] first among the folders that it looks for
# libraries in.
PROGRAM = """
import importlib.util, sys, torch
torch.version.cuda = sys.argv[2] or None
spec = importlib.util.find_spec("dcls_ops")
spec.submodule_search_locations.insert(0, sys.argv[1])
package = importlib.util.module_from_spec(spec)
sys.modules["dcls_ops"] = package
spec.loader.exec_module(package)

import dcls_ops._info, dcls_ops.nn
assert torch._C._dispatch_has_computed_kernel_for_dispatch_key("dcls::conv2d", "CUDA")  # whose ever it is
one = torch.ones(1, 1, 1)
print(torch.ops.dcls.construct_kernel(one, one[None] * 0, [1], version="v0").item())
print(dcls_ops._info.info())
"""


def compile_library(path: Path, source: str) -> None:
    command = ["g++", "-std=c++20", "-x", "c++", "-shared", "-fPIC", f"-I{path.parent}", f"-I{ROOT}", "-"]
    subprocess.run([*command, "-o", str(path)], input=source, text=True, check=True)


def compile_driver(folder: Path, version: int) -> None:
    """A driver that ends the process if CUDA is started, with what the runtime would call before it does."""
    source = f"""
        #include <stdlib.h>
        extern "C" {{
        int cuDriverGetVersion(int* version) {{ *version = {version}; return 0; }}
        int cuInit(unsigned) {{ abort(); }}
        int cuGetProcAddress_v2(const char*, void** function, int, unsigned long, int*) {{ *function = 0; return 500; }}
        }}
    """
    compile_library(folder / "libcuda.so.1", source)


def import_with(folder: Path, cuda: str = "13.0", libraries: tuple[Path, ...] = ()) -> tuple[str, str, str]:
    """What `info` says of the library in the folder and of CUDA's kernels, and what importing has on stderr."""
    command = [sys.executable, "-c", PROGRAM, str(folder), cuda]
    paths = [*map(str, libraries), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    variables = {**os.environ, "LD_LIBRARY_PATH": ":".join(paths)}
    process = subprocess.run(command, capture_output=True, text=True, env=variables)
    assert process.returncode == 0, process.stderr
    result, info = process.stdout.split("\n", 1)
    assert result == "1.0"
    (library,) = re.findall(r"^libdcls_cuda  (.*)$", info, re.MULTILINE)
    (kernels,) = set(re.findall(r"  compiled  (.*)$", info, re.MULTILINE))
    return library, kernels, process.stderr


def assert_warns(stderr: str, problem: str) -> None:
    assert stderr.count("Warning:") == 1
    assert (
        "UserWarning: dcls_ops runs without its CUDA kernels, by PyTorch's own operations on CUDA tensors, because "
        f"{problem}. Update the driver, or build dcls_ops from source by an nvcc no newer than the driver"
    ) in stderr
    assert "    CUDACXX=/usr/local/cuda-12.4/bin/nvcc pip install --no-build-isolation .\n" in stderr


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (None, "file too short"),
        ("int missing(); int call() { return missing(); }", "undefined symbol: _Z7missingv"),
        ("", "undefined symbol: dcls_cuda_driver_suffices"),
    ],
    ids=["garbage", "a symbol that nobody has", "of another version"],
)
def test_does_not_load(tmp_path, source, problem):
    library = tmp_path / "libdcls_cuda.so"
    if source is None:
        library.write_text("garbage")
    else:
        compile_library(library, source)
    problem = f"the CUDA library does not load ({library}: {problem})"
    of_library, kernels, stderr = import_with(tmp_path)
    assert (of_library, kernels) == (f"not used: {problem}", "ATen")
    assert_warns(stderr, problem)


@pytest.mark.parametrize(
    ("runtime", "driver", "problem"),
    [
        (13000, 12040, "was built by nvcc 13.0 and needs a driver for CUDA 13.0 or newer, not 12.4"),
        (12090, 11080, "was built by nvcc 12.9 and needs a driver for CUDA 12.0 or newer, not 11.8"),
        (12090, 12000, None),  # of the same major version
        (12090, 13010, None),
        (13000, 13000, None),
        (1000, None, None),  # that of this machine, or none
    ],
)
def test_driver(tmp_path, runtime, driver, problem):
    (tmp_path / "cuda_runtime.h").write_text(f"#define CUDART_VERSION {runtime}\n")
    library = tmp_path / "libdcls_cuda.so"
    build_info = 'extern "C" const char* dcls_cuda_build_info() { return "compiled by a test"; }'
    compile_library(library, f'#include "csrc/cuda/driver.cu"\n{build_info}')
    if driver is not None:
        compile_driver(tmp_path, driver)
    of_library, _, stderr = import_with(tmp_path, libraries=(tmp_path,))
    if problem is None:
        assert of_library == "compiled by a test"
        assert "dcls_ops" not in stderr
    else:
        assert of_library == f"not used: {library} {problem}"
        assert_warns(stderr, f"{library} {problem}")


@pytest.mark.skipif(not LIBRARY.exists(), reason="`make cuda` builds the library")
@pytest.mark.parametrize(("driver", "kernels"), [(11080, "ATen"), (99000, "compiled")])
def test_registers_what_the_driver_can_run(tmp_path, driver, kernels):
    compile_driver(tmp_path, driver)
    of_library, on_cuda, _ = import_with(LIBRARY.parent, libraries=(tmp_path, LIBRARY.parent))
    assert of_library.startswith("not used: " if kernels == "ATen" else "compiled by nvcc ")
    assert on_cuda == kernels


def test_torch_without_cuda_does_not_look_at_it(tmp_path):
    (tmp_path / "libdcls_cuda.so").write_text("garbage")
    assert import_with(tmp_path, cuda="") == ("not loaded: this torch has no CUDA", "ATen", "")
