"""Finds and loads the compiled operator libraries."""

import ctypes
import sys
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
    loaded = {"dcls": cpu}
    cuda = _find("libdcls_cuda.so")
    if cuda is not None and torch.version.cuda is not None:
        torch.ops.load_library(cuda)
        loaded["dcls_cuda"] = cuda
    return loaded


#: The loaded libraries, by name.
LOADED = _load()


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
