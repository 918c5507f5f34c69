import os
from pathlib import Path

import pytest
import torch
from cuda_on_cpu.library import CudaOnCpu
from sanitizers import BUILDS


@pytest.fixture(scope="session")
def library() -> CudaOnCpu:
    # The tests of the sanitized library name it here.
    path = Path(os.environ.get("DCLS_CUDA_ON_CPU", BUILDS / "cuda_on_cpu" / "libdcls_cuda_on_cpu.so"))
    if not path.exists():
        pytest.fail(f"{path.name} is missing: `make test` builds it")
    return CudaOnCpu(path)


@pytest.fixture
def cuda_on_cpu(library):
    library.settings()
    yield library
    library.settings()


@pytest.fixture
def unwritten_is_nan():
    """New tensors hold NaN until a kernel writes to them."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)
