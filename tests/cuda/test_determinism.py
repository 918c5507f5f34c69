"""The same bits every time, whatever else runs: what a missing barrier or an atomic addition would break."""

import gpu
import pytest
import torch
from gpu import EVERY_CALL, GPU

REPEATS = 1000

# PyTorch's own convolutions, which method "construct" uses but for large depthwise kernels, do not promise it.
OURS = [name for name in EVERY_CALL if not name.endswith(("-construct", "-construct_shared"))]


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, torch.float32) for name in OURS),
        *((name, torch.bfloat16) for name in OURS if "conv2d" in name),
    ],
    ids=str,
)
def test_same_bits_every_time(name, dtype):
    call = gpu.make(name, dtype)
    first = call.results()
    other_stream = torch.cuda.Stream(GPU)
    matrix = torch.randn(700, 700, device=GPU)
    other_stream.wait_stream(torch.cuda.current_stream(GPU))
    # Counted on the GPU, so that the two streams overlap.
    differences = torch.zeros((), dtype=torch.int64, device=GPU)
    for repeat in range(REPEATS):
        with torch.cuda.stream(other_stream):
            # Work of another length each time, so that blocks meet others at other times.
            size = 100 + repeat * 37 % 600
            torch.mm(matrix[:size], matrix)
        for result, expected in zip(call.results(), first, strict=True):
            differences += (result != expected).sum()
    other_stream.synchronize()
    assert differences.item() == 0
    assert all(result.isfinite().all() for result in first)
