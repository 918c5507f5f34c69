"""Where and when kernels run: in order on the current stream of the tensors' device, while nobody waits for them."""

import ctypes
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import gpu
import pytest
import torch
from gpu import EVERY_CALL, GPU, SECOND_GPU, Call

from dcls_ops import _library

every_call = pytest.mark.parametrize("name", EVERY_CALL)


def assert_same(actual, expected):
    """Equal within float32, since PyTorch's convolutions may choose another algorithm."""
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=0, atol=1e-4 * e.abs().max().item())


@contextmanager
def warmed_up_stream(call: Call):
    """A stream on which the call has run: kernels are loaded and memory is there, both of which wait for the device."""
    stream = torch.cuda.Stream(GPU)
    stream.wait_stream(torch.cuda.current_stream(GPU))
    with torch.cuda.stream(stream):
        for _ in range(3):
            call.results()
        torch.cuda.synchronize(GPU)
        yield stream
    stream.synchronize()


# Of a GPU's clock: a fifth of a second or more, in which the host can launch everything.
SLEEP = 4 * 10**8


@every_call
def test_kernels_wait_for_the_current_stream_and_the_host_does_not(name):
    call = gpu.make(name)
    expected = call.results()
    late = call.map(lambda tensor: torch.full_like(tensor, torch.nan))
    with warmed_up_stream(call):
        torch.cuda._sleep(SLEEP)
        slept = torch.cuda.Event()
        slept.record()
        # A kernel on any other stream would read NaN.
        for tensor, value in zip(late.tensors, call.tensors, strict=True):
            tensor.copy_(value)
        actual = late.results()
        is_asleep = not slept.query()
    assert_same(actual, expected)
    assert is_asleep, "an operator waited for the device"


@every_call
def test_never_synchronises(name):
    call = gpu.make(name)
    call.results()
    torch.cuda.set_sync_debug_mode("error")
    try:
        call.results()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@every_call
def test_graph_replays_with_new_values(name):
    call = gpu.make(name)
    with warmed_up_stream(call):
        pass
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call.results()
    original = call.map(torch.clone)
    for _ in range(2):
        changed = original.map(lambda tensor: tensor * (0.8 + 0.4 * torch.rand_like(tensor)))
        for tensor, value in zip(call.tensors, changed.tensors, strict=True):
            tensor.copy_(value)
        graph.replay()
        assert_same(captured, changed.results())


# Of PyTorch's operations they call no more than sums: cuBLAS and cuDNN cannot be set up in a capture.
OUR_OWN_KERNELS = ["conv2d-direct", "conv2d-depthwise", "construct_kernel", "depthwise_conv2d"]

CAPTURE_FIRST = """
import sys, torch, gpu
torch.manual_seed(0)
call = gpu.make(sys.argv[1], getattr(torch, sys.argv[2]))
one = torch.ones(1, device=gpu.GPU, requires_grad=True)
one.sum().backward()  # starts PyTorch's threads for backward
graph = torch.cuda.CUDAGraph()
with torch.cuda.graph(graph):
    captured = call.results()
for result in captured:
    result.fill_(torch.nan)
graph.replay()
for actual, expected in zip(captured, call.results(), strict=True):
    assert torch.equal(actual, expected)
"""


@pytest.mark.skipif(
    gpu.why_not() is None and _library.function("dcls_cuda", "dcls_cuda_driver_version", ctypes.c_int)() < 12030,
    reason="drivers for CUDA before 12.3 do not load kernels in a capture",
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", OUR_OWN_KERNELS)
def test_first_call_of_a_process_can_be_captured(name, dtype):
    """A process of its own, where no kernel is loaded yet."""
    command = [sys.executable, "-c", CAPTURE_FIRST, name, dtype]
    process = subprocess.run(command, cwd=Path(gpu.__file__).parent, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr


@every_call
def test_runs_on_the_device_of_its_tensors(name):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    call = gpu.make(name)
    expected = call.results()
    with torch.cuda.device(GPU):
        actual = call.map(lambda tensor: tensor.to(SECOND_GPU)).results()
        assert torch.cuda.current_device() == GPU.index
    assert {tensor.device for tensor in actual} == {SECOND_GPU}
    assert_same([tensor.to(GPU) for tensor in actual], expected)
