"""Where and when kernels run: in order on the current stream of the tensors' device, while nobody waits for them."""

from contextlib import contextmanager

import gpu
import pytest
import torch
from gpu import EVERY_CALL, GPU, SECOND_GPU, Call

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
