"""The CUDA kernels compiled as C++: operators torch.ops.dcls_cuda_on_cpu.* for tensors on the CPU, without autograd."""

import ctypes
from pathlib import Path

import torch


class CudaOnCpu:
    """The library, and how it runs blocks."""

    def __init__(self, path: Path) -> None:
        torch.ops.load_library(path)
        self.ops = torch.ops.dcls_cuda_on_cpu
        self.library = ctypes.CDLL(str(path))
        self._settings = self.library.cuda_on_cpu_settings
        self._settings.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int)

    def settings(self, *, order: int = 0, most_blocks: int = 0, has_barriers: bool = True) -> None:
        """In which order threads run (0 forward, 1 backward, else at random), the largest grid, and barriers."""
        self._settings(order, most_blocks, has_barriers)
