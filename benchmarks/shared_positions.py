"""Convolutions whose out channels share positions: methods "im2col", "construct" and "auto" in one run.

    python benchmarks/shared_positions.py

1. Time against dilation, (8, 64, 56, 56) -> 64 channels, 3x3 elements, bilinear ("v0"), forward and forward+backward.
2. Peak memory of "im2col" at dilation 16, forward+backward: the growth of the process's peak resident size in a process
   of its own, from when input and parameters exist until output, its gradient and all other gradients do.
3. Many shapes, by which the rule of "auto" (csrc/cpu/operators.cpp) is fitted.

Times are medians of runs that take turns. Writes benchmarks/results/shared-positions-cpu.json.
"""

import argparse
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from measuring import machine, medians, peak_growth, print_peak_growth, write
from tqdm import tqdm

import dcls_ops  # noqa: F401, defines torch.ops.dcls

METHODS = ("im2col", "construct", "auto")
PASSES = ("forward", "forward_backward")
DILATIONS = (2, 4, 8, 16)


class Shape(NamedTuple):
    """One convolution with padding kernel_size // 2."""

    batch: int
    in_channels: int
    out_channels: int
    groups: int
    spatial: tuple[int, ...]
    kernel_size: tuple[int, ...]
    kernel_count: int
    version: str

    def tensors(self) -> list[torch.Tensor]:
        """Input, weight, positions all over the kernel, and sigma where the version has one."""
        channels = self.in_channels // self.groups
        spread = [(torch.rand(1, channels, self.kernel_count) - 0.5) * (extent - 1) for extent in self.kernel_size]
        tensors = [
            torch.randn(self.batch, self.in_channels, *self.spatial),
            torch.randn(self.out_channels, channels, self.kernel_count),
            torch.stack(spread),
        ]
        if self.version in ("max", "gauss"):
            tensors.append(torch.full_like(tensors[2], 0.5 if self.version == "gauss" else 1.0))
        return [tensor.requires_grad_() for tensor in tensors]

    def forward(self, tensors: list[torch.Tensor], method: str) -> torch.Tensor:
        input, weight, positions, *sigma = tensors
        op = getattr(torch.ops.dcls, f"conv{len(self.spatial)}d")
        ones, padding = [1] * len(self.spatial), [extent // 2 for extent in self.kernel_size]
        return op(
            input, weight, positions, list(self.kernel_size), sigma[0] if sigma else None, None, ones, padding,
            self.groups, self.version, method,
        )  # fmt: skip

    def run(self, tensors: list[torch.Tensor], method: str) -> tuple[torch.Tensor, ...]:
        """Forward and backward; returns all there is at the end."""
        output = self.forward(tensors, method)
        grad = torch.ones_like(output)
        return (output, grad, *torch.autograd.grad(output, tensors, grad))

    def runs(self, method: str) -> dict[str, Callable[[], Any]]:
        tensors = self.tensors()
        return {
            "forward": torch.no_grad()(lambda: self.forward(tensors, method)),
            "forward_backward": lambda: self.run(tensors, method),
        }


def dilated(dilation: int) -> Shape:
    extent = 2 * dilation + 1
    return Shape(8, 64, 64, 1, (56, 56), (extent, extent), 9, "v0")


def grid() -> list[Shape]:
    """Layers of vision, audio and video networks, and kernels from dense to sparse."""
    layers = [(4, 64, 64, 1, (28, 28)), (4, 64, 64, 4, (28, 28)), (4, 64, 8, 1, (28, 28)), (4, 3, 64, 1, (28, 28))]
    layers += [(4, 256, 256, 1, (14, 14)), (4, 64, 64, 64, (28, 28))]
    shapes = [
        Shape(*layer, (extent, extent), 5 if extent == 3 else 9, version)
        for layer, extent, version in itertools.product(layers, (3, 5, 7, 9, 17), ("v1", "gauss"))
    ]
    shapes += [
        Shape(16, 64, 64, groups, (400,), (extent,), 3, version)
        for groups, extent, version in itertools.product((1, 64), (5, 9, 25, 65), ("v1", "gauss"))
    ]
    shapes += [
        Shape(2, 16, 16, 1, (16, 16, 16), (extent,) * 3, 7, version)
        for extent, version in itertools.product((3, 5, 7), ("v1", "gauss"))
    ]
    return shapes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peak", nargs=1, metavar="DILATION", help="measure memory only")
    arguments = parser.parse_args()
    if arguments.peak:
        small, shape = dilated(2)._replace(batch=1, spatial=(14, 14)), dilated(int(arguments.peak[0]))
        small.run(small.tensors(), "im2col")  # loads code and starts threads
        tensors = shape.tensors()
        print_peak_growth(lambda: shape.run(tensors, "im2col"))
        return

    times = {
        passes: {
            method: medians(
                {str(d): dilated(d).runs(method)[passes] for d in DILATIONS}, 15 if method == "im2col" else 3
            )
            for method in METHODS[:2]
        }
        for passes in PASSES
    }
    print(
        f"{'dilation':>8}{'forward: im2col':>17}{'construct':>11}{'forward+backward: im2col':>26}{'construct':>11}  ms"
    )
    for d in map(str, DILATIONS):
        print(
            f"{d:>8}{times['forward']['im2col'][d]:>17.1f}{times['forward']['construct'][d]:>11.1f}"
            f"{times['forward_backward']['im2col'][d]:>26.1f}{times['forward_backward']['construct'][d]:>11.1f}"
        )
    for passes in PASSES:
        im2col, construct = times[passes]["im2col"], times[passes]["construct"]
        print(
            f"{passes}: dilation 16 takes {im2col['16'] / im2col['2']:.2f} times as long as 2; "
            f"construct {construct['16'] / im2col['16']:.1f} times as long as im2col at 16"
        )

    tensor_bytes = 2 * 8 * 64 * 56 * 56 * 4  # input and output
    peak = peak_growth(__file__, "16")
    print(f"peak memory at dilation 16: {peak / 2**20:.1f} MiB, {peak / tensor_bytes:.2f} times input + output")

    rows = []
    for shape in tqdm(grid(), desc="shapes", leave=False):
        runs = {method: shape.runs(method) for method in METHODS}
        measured = {passes: medians({method: runs[method][passes] for method in METHODS}, 5) for passes in PASSES}
        rows.append({"shape": shape._asdict(), "milliseconds": measured})
    for passes in PASSES:
        excess = sorted(
            (
                row["milliseconds"][passes]["auto"] / min(row["milliseconds"][passes][m] for m in METHODS[:2]),
                tuple(row["shape"].values()),
            )
            for row in rows
        )
        print(f"{passes}, {len(excess)} shapes: auto / better method: median {excess[len(excess) // 2][0]:.2f}, worst:")
        for ratio, shape in excess[-5:]:
            print(f"  {ratio:.2f}  {shape}")
    memory = {"dilation": 16, "peak_bytes": peak, "input_and_output_bytes": tensor_bytes}
    write(
        "shared-positions-cpu.json",
        {"machine": machine(), "milliseconds_by_dilation": times, "memory": memory, "shapes": rows},
    )


if __name__ == "__main__":
    main()
