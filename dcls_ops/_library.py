"""Finds and loads the compiled operator libraries."""

import ctypes
import sys
import warnings
from pathlib import Path
from typing import Any

import torch


def _find(name: str) -> Path | None:
    # An editable install has two package directories: the sources, and the one the libraries were installed to.
    for directory in sys.modules[__package__].__path__:
        path = Path(directory, name)
        if path.exists():
            return path
    return None


def _function(path: Path, name: str, result: Any) -> Any:
    function = getattr(ctypes.CDLL(str(path)), name)
    function.restype = result
    return function


def _load() -> dict[str, Path]:
    cpu = _find("libdcls.so")
    if cpu is None:
        raise ImportError(
            "dcls_ops: the operator library libdcls.so is missing; build and install the package with "
            "`pip install --no-build-isolation .` (torch must be installed first)"
        )
    others = sorted(map(str, torch.ops.loaded_libraries))
    torch.ops.load_library(cpu)
    if not _function(cpu, "dcls_owns_namespace", ctypes.c_int)():
        raise ImportError(
            f"dcls_ops: another library has defined torch.ops.dcls, so {cpu} cannot: import dcls_ops before you load "
            f"a copy of libdcls.so, or load none. torch.ops.load_library has loaded: {', '.join(others) or 'none'}"
        )
    return {"dcls": cpu}


def _cuda_version(library: Path, of: str) -> str:
    version: int = _function(library, f"dcls_cuda_{of}_version", ctypes.c_int)()
    return f"{version // 1000}.{version % 1000 // 10}"


def _load_cuda(library: Path) -> str | None:
    """Loads the CUDA library, or returns why its kernels cannot run. It registers none then (csrc/cuda/driver.h)."""
    try:
        torch.ops.load_library(library)
        if _function(library, "dcls_cuda_driver_suffices", ctypes.c_int)():
            return None
        driver, runtime = _cuda_version(library, "driver"), _cuda_version(library, "runtime")
    except Exception as error:  # whatever it is, everything else works without the library
        return f"the CUDA library does not load ({error.__cause__ or error})"  # PyTorch's own error keeps silent on why
    major = runtime.split(".")[0]
    return f"{library} was built by nvcc {runtime} and needs a driver for CUDA {major}.0 or newer, not {driver}"


def _load_cuda_if_needed() -> str | None:
    library = _find("libdcls_cuda.so")
    if library is None or torch.version.cuda is None:
        return None
    problem = _load_cuda(library)
    if problem is None:
        LOADED["dcls_cuda"] = library
    else:
        warnings.warn(
            f"dcls_ops runs without its CUDA kernels, by PyTorch's own operations on CUDA tensors, because {problem}. "
            "Update the driver, or build dcls_ops from source by an nvcc no newer than the driver (nvidia-smi shows "
            "its CUDA version; the oldest nvcc that will do is 12.0):\n"
            "    CUDACXX=/usr/local/cuda-12.4/bin/nvcc pip install --no-build-isolation .",
            stacklevel=2,
        )
    return problem


#: The loaded libraries, by name.
LOADED = _load()

#: Why the installed CUDA library is not among them, if torch has CUDA.
CUDA_PROBLEM = _load_cuda_if_needed()


def function(library: str, name: str, result: Any) -> Any:
    """A C function of a loaded library, by the ctypes type of what it returns."""
    return _function(LOADED[library], name, result)


def build_info(library: str) -> str:
    """What a loaded library ("dcls" or "dcls_cuda") was compiled by and for."""
    return _text(library, f"{library}_build_info")


def cpu_capability() -> str:
    """The instruction set that the CPU kernels use, or what is wrong with the one that DCLS_CPU_CAPABILITY names."""
    return _text("dcls", "dcls_cpu_capability")


def _text(library: str, name: str) -> str:
    text: bytes = function(library, name, ctypes.c_char_p)()
    return text.decode()
