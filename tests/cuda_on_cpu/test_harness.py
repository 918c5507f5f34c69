"""What goes wrong in a kernel is found: each defect of defects.cu, and barriers that the real kernels need."""

import ctypes
import re
from pathlib import Path

import pytest
import torch
from sanitizers import BUILDS, run_sanitized

DEFECTS = (
    "none",
    "missing_barrier",
    "barrier_for_some",
    "barrier_in_two_places",
    "shuffle_for_some",
    "missing_wait",
    "copy_not_aligned",
    "shared_index_off_by_one",
    "global_index_off_by_one",
)


def sum_rows(library, input, defect="none", order=0):
    """The kernel of defects.cu; raises what the harness finds."""
    rows, columns = input.shape
    output = torch.empty(rows)
    message = ctypes.create_string_buffer(500)
    library.settings(order=order)
    library.library.cuda_on_cpu_sum_rows(
        ctypes.c_void_p(input.data_ptr()), ctypes.c_void_p(output.data_ptr()), rows, columns, DEFECTS.index(defect),
        message, len(message),
    )  # fmt: skip
    if message.value:
        raise RuntimeError(message.value.decode())
    return output


@pytest.fixture
def input():
    return torch.randint(100, (3, 64)).float()


@pytest.mark.parametrize("order", range(5))
def test_a_kernel_without_defects_is_right_in_any_order(cuda_on_cpu, input, order):
    assert torch.equal(sum_rows(cuda_on_cpu, input, order=order), input.sum(1))


def test_a_missing_barrier_gives_other_results_in_another_order(cuda_on_cpu, input):
    results = [sum_rows(cuda_on_cpu, input, "missing_barrier", order) for order in range(3)]
    assert not all(torch.equal(result, input.sum(1)) for result in results)
    assert not torch.equal(results[0], results[1])


@pytest.mark.parametrize(
    ("defect", "message"),
    [
        ("barrier_for_some", r"threads wait for others that do not come: .*defects.cu:\d+"),
        ("barrier_in_two_places", r"threads of a block meet in different places: .*defects.cu:\d+"),
        ("shuffle_for_some", r"threads wait for others that do not come: .*defects.cu:\d+"),
        ("copy_not_aligned", r"an address that is no multiple of 4 bytes: .*ptx.h:\d+"),
    ],
)
def test_what_cuda_leaves_undefined_is_an_error(cuda_on_cpu, input, defect, message):
    with pytest.raises(RuntimeError, match=message):
        sum_rows(cuda_on_cpu, input, defect)
    assert torch.equal(sum_rows(cuda_on_cpu, input), input.sum(1))  # and the next kernel runs as ever


def test_a_copy_that_is_not_waited_for_has_not_come(cuda_on_cpu, input):
    assert sum_rows(cuda_on_cpu, input, "missing_wait").isnan().all()


SANITIZED = BUILDS / "cuda_on_cpu_sanitized" / "libdcls_cuda_on_cpu.so"


@pytest.mark.parametrize("defect", ["none", "shared_index_off_by_one", "global_index_off_by_one"])
def test_the_address_sanitizer_sees_an_index_off_by_one(defect):
    program = (
        f"import sys, torch; sys.path.insert(0, {str(Path(__file__).parents[1])!r});"
        "from cuda_on_cpu.library import CudaOnCpu; from cuda_on_cpu.test_harness import sum_rows;"
        f"library = CudaOnCpu({str(SANITIZED)!r});"
        f"sum_rows(library, torch.ones(3, 64), {defect!r}); print('no report')"
    )
    process = run_sanitized("-c", program)
    if defect == "none":
        assert process.stdout == "no report\n", process.stderr
    else:
        assert re.search(r"ERROR: AddressSanitizer: heap-buffer-overflow", process.stderr), process.stderr


def test_the_sanitizers_have_nothing_to_say_about_the_kernels():
    tests = str(Path(__file__).parent / "test_kernels.py")
    process = run_sanitized(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "edges", tests, "--capture=sys", "-W", "ignore",
        DCLS_CUDA_ON_CPU=str(SANITIZED),
    )  # fmt: skip
    assert process.returncode == 0, process.stdout[-4000:] + process.stderr[-4000:]
    assert re.search(r"\d+ passed", process.stdout)
