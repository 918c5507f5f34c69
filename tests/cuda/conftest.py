"""Everything in this folder needs a GPU, and is skipped where there is none."""

from pathlib import Path

import gpu
import pytest
import torch

FOLDER = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.is_relative_to(FOLDER):
            item.add_marker(pytest.mark.cuda)
            # What torch warns of depends on its version and on the GPU, and these tests run with many.
            item.add_marker(pytest.mark.filterwarnings("default"))


def pytest_runtest_setup():
    reason = gpu.why_not()
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture(autouse=True)
def _full_float32():
    """TensorFloat32 keeps 10 bits of a product's factors: too few to compare with anything."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    yield
    matmul.allow_tf32, cudnn.allow_tf32 = before
