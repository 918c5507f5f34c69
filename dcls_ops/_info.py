"""What is installed and what runs where: the text of ``python -m dcls_ops info``."""

import platform

import torch

import dcls_ops
from dcls_ops import _library

OPERATORS = sorted(
    name.removeprefix("dcls::") for name in torch._C._dispatch_get_all_op_names() if name.startswith("dcls::")
)


def _cuda_library() -> str:
    if "dcls_cuda" in _library.LOADED:
        return _library.build_info("dcls_cuda")
    if torch.version.cuda is None:
        return "not loaded: this torch has no CUDA"
    if _library.CUDA_PROBLEM is not None:
        return f"not used: {_library.CUDA_PROBLEM}"
    return "not installed: it is built with DCLS_CUDA=ON, or AUTO where nvcc is found"


def _backend(operator: str, key: str) -> str:
    compiled = torch._C._dispatch_has_kernel_for_dispatch_key(f"dcls::{operator}", key)
    return "compiled" if compiled else "ATen"


def info() -> str:
    """Versions, libraries, and which operator has which backend."""
    lines = [
        f"dcls_ops {dcls_ops.__version__}, torch {torch.__version__}, Python {platform.python_version()}, "
        f"{platform.system()} {platform.machine()}",
        "",
        f"libdcls       {_library.build_info('dcls')}",
        f"libdcls_cuda  {_cuda_library()}",
        f"processor     {_library.cpu_capability()}, PyTorch {torch.backends.cpu.get_cpu_capability()}, "
        f"{torch.get_num_threads()} threads",
        "",
        f"{'operator':<27}{'CPU':<10}CUDA",
    ]
    lines += [f"{op:<27}{_backend(op, 'CPU'):<10}{_backend(op, 'CUDA')}" for op in OPERATORS]
    return "\n".join(lines)
