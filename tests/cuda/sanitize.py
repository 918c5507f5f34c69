"""Every operator and method, forward and backward, over small shapes with edges: for compute-sanitizer.

`make sanitize-cuda` runs it under each of the sanitizer's tools. It prints a line for each operator and method, and
fails if results are not those of the reference.
"""

import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

import gpu
from drawing import Conv, channels_last, parameters
from gpu import Call

from dcls_ops._versions import VERSIONS

# Input, out channels, groups, kernel size, stride, padding.
CONVOLUTIONS = [
    ((2, 4, 7), 4, 2, (5,), (1,), (2,)),
    ((1, 2, 600), 2, 2, (9,), (3,), (0,)),  # a remainder of a tile
    ((1, 1, 1, 1), 1, 1, (1, 1), (1, 1), (0, 0)),
    ((2, 3, 1, 1), 5, 1, (3, 3), (1, 1), (1, 1)),
    ((3, 6, 9, 8), 6, 3, (4, 5), (3, 2), (2, 0)),
    ((0, 4, 6, 6), 2, 1, (3, 3), (1, 1), (1, 1)),
    ((2, 4, 33, 17), 4, 4, (9, 7), (1, 1), (4, 3)),  # a large depthwise kernel
    ((1, 2, 5, 7), 3, 1, (20, 31), (1, 1), (10, 15)),  # more taps than pixels
    ((1, 2, 4, 5, 6), 3, 1, (3, 2, 3), (1, 3, 1), (1, 1, 0)),
]

# Input, kernel size, stride, padding, out channels of a channel.
DEPTHWISE = [
    ((1, 1, 1, 1), (1, 1), (1, 1), (0, 0), 1),
    ((2, 3, 1, 1), (7, 7), (1, 1), (3, 3), 2),
    ((0, 3, 9, 9), (3, 3), (1, 1), (0, 0), 1),
    ((2, 3, 20, 23), (2, 3), (3, 5), (1, 0), 1),
    ((3, 9, 17, 33), (7, 5), (2, 3), (3, 2), 1),
    ((1, 2, 40, 39), (35, 38), (1, 1), (17, 18), 1),
    ((5, 4, 9, 9), (9, 9), (1, 1), (4, 4), 1),
]

# Kernel size, out channels, in channels, elements.
KERNELS = [
    ((1,), 1, 1, 1),
    ((9,), 3, 2, 1),
    ((1100,), 1, 1, 3),
    ((5, 4), 3, 2, 130),
    ((33, 35), 2, 1, 3),
    ((3, 2, 4), 2, 3, 2),
]

# Dtypes of the input and of the parameters.
DTYPES = [
    (torch.float32, torch.float32),
    (torch.float64, torch.float64),
    (torch.float16, torch.float32),
    (torch.bfloat16, torch.bfloat16),
]


def convolutions(method: str) -> Iterator[Call]:
    for number, (shape, out_channels, groups, kernel_size, stride, padding) in enumerate(CONVOLUTIONS):
        for version in VERSIONS:
            kernel = parameters(
                version,
                kernel_size,
                out_channels=out_channels,
                in_channels=shape[1] // groups,
                kernel_count=1 + number % 3,
                shared=method == "im2col" or number % 2 == 1,
            )
            input = torch.randn(shape) if version in ("v0", "max") else channels_last(torch.randn(shape))
            bias = torch.randn(out_channels) if number % 2 == 0 else None
            dtype, parameter_dtype = DTYPES[(number + VERSIONS.index(version)) % len(DTYPES)]
            case = gpu.on_a_grid(Conv(input, *kernel[:4], bias, stride, padding, groups, version, method))
            moved = case.replace_tensors(gpu.to_gpu(tensor, parameter_dtype) for tensor in case.tensors)
            yield gpu.call(moved._replace(input=gpu.to_gpu(case.input, dtype)))


def depthwise_convolutions() -> Iterator[Call]:
    for case in DEPTHWISE:
        for number, (dtype, _) in enumerate(DTYPES):
            layout = channels_last if number % 2 == 1 else lambda x: x.mT.contiguous().mT
            yield gpu.depthwise(*case, layout=layout).to_gpu(dtype)
            yield gpu.depthwise(*case).to_gpu(dtype)


def constructions() -> Iterator[Call]:
    for kernel_size, out_channels, in_channels, kernel_count in KERNELS:
        for number, version in enumerate(VERSIONS):
            drawn = parameters(
                version,
                kernel_size,
                out_channels=out_channels,
                in_channels=in_channels,
                kernel_count=kernel_count,
                shared=number % 2 == 1,
            )
            # Not in half types: the kernels compute in float32 all the same.
            yield gpu.call(gpu.on_a_grid(drawn)).to_gpu(DTYPES[number // 2][0])


OPERATORS = {
    "construct_kernel": constructions,
    "conv construct": lambda: convolutions("construct"),
    "conv direct": lambda: convolutions("direct"),
    "conv im2col": lambda: convolutions("im2col"),
    "conv auto": lambda: convolutions("auto"),
    "depthwise_conv2d": depthwise_convolutions,
}


def main() -> int:
    """Runs it all. Returns 1 if anything was wrong."""
    reason = gpu.why_not()
    if reason is not None:
        print(f"skipped: {reason}")
        return 0
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(0)
    any_failed = False
    for name, calls in OPERATORS.items():
        ran = failed = 0
        for made in calls():
            ran += 1
            try:
                gpu.assert_agrees(made)
            except AssertionError:
                failed += 1
                traceback.print_exc()
                print(f"{name}: {[tuple(tensor.shape) for tensor in made.tensors]}", file=sys.stderr)
        print(f"{name}: {ran} calls, {failed} of them wrong" if failed else f"{name}: {ran} calls agree", flush=True)
        any_failed = any_failed or failed > 0
    return int(any_failed)


if __name__ == "__main__":
    sys.exit(main())
