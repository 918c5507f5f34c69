"""Whether two builds of the CPU library compute the same bits, for every instruction set that the processor has.

    python benchmarks/same_bits.py OLD/libdcls.so NEW/libdcls.so --rounded im2col

Runs both over the same drawn calls: every operator and its backward, all methods, versions, dtypes and layouts, few
pixels and many. Results of the methods that --rounded names may differ by rounding. For changes of how the library is
written, not of what it computes.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

# Of its own, because builds of any age are compared.
METHODS = ("auto", "construct", "direct", "im2col")
VERSIONS = ("v0", "v1", "max", "gauss")
# The dtypes of inputs, and of parameters.
DTYPES = [
    (torch.float32, torch.float32),
    (torch.float64, torch.float64),
    (torch.float16, torch.float32),
    (torch.bfloat16, torch.float32),
    (torch.float16, torch.float16),
    (torch.bfloat16, torch.bfloat16),
]
LAYOUTS = ("contiguous", "channels_last", "sliced", "transposed", "expanded")
#: How far rounded results may be apart, as a share of the largest entry.
ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 4e-2}


def laid_out(shape: tuple[int, ...], layout: str, spatial_axes: int, dtype: torch.dtype) -> Tensor:
    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float32).to(dtype)

    if layout == "channels_last":
        channel = len(shape) - spatial_axes - 1
        return draw(*shape[:channel], *shape[channel + 1 :], shape[channel]).movedim(-1, channel)
    if layout == "sliced":
        return draw(*shape[:-1], 2 * shape[-1])[..., ::2]
    if layout == "transposed":
        return draw(*shape[:-2], shape[-1], shape[-2]).mT
    if layout == "expanded":
        return draw(*shape[:-2], 1, shape[-1]).expand(shape)
    return draw(*shape)


class Draw:
    """A call of every kind, from a number."""

    def __init__(self, number: int) -> None:
        self.random = random.Random(number)
        torch.manual_seed(number)
        choice = self.random.choice
        self.axes = choice((1, 2, 2, 3))
        self.method, self.version = METHODS[number % len(METHODS)], choice(VERSIONS)
        self.input_dtype, self.dtype = choice(DTYPES)
        self.layout = choice(LAYOUTS)
        is_large = number % 5 == 0
        most = {1: 600, 2: 40, 3: 14}[self.axes] if is_large else 9
        self.kernel_size = [self.random.randint(1, {1: 33, 2: 11, 3: 5}[self.axes]) for _ in range(self.axes)]
        self.stride = [choice((1, 1, 1, 2, 3)) for _ in range(self.axes)]
        self.padding = [self.random.randint(0, extent // 2 + 1) for extent in self.kernel_size]
        self.spatial = [
            max(1, extent - 2 * pad) + self.random.randint(0, most)
            for extent, pad in zip(self.kernel_size, self.padding, strict=True)
        ]
        self.batch = choice([(), (0,), (1,), (3,), (17,) if is_large else (2,)])
        self.groups = choice((1, 1, 2, 3, 8, 16))
        per_group = 1 if self.groups > 3 else self.random.randint(1, 5)
        self.in_channels = self.groups * per_group
        self.out_channels = self.groups * (1 if self.groups > 3 else self.random.randint(1, 5))
        self.shared = self.method == "im2col" or choice((False, True))
        dense_axes = 0 if self.method == "im2col" else self.random.randint(0, self.axes - 1)
        self.filters = (per_group, *self.kernel_size[:dense_axes], self.random.randint(1, 6))
        self.learned = self.kernel_size[dense_axes:]
        self.threads = choice((1, 2, 5))

    def calls(self) -> dict[str, tuple[Any, ...]]:
        """Operators by name, with their arguments."""
        weight = torch.randn(self.out_channels, *self.filters)
        shape = (1 if self.shared else self.out_channels, *self.filters)
        positions = torch.stack([torch.rand(shape) * (extent + 1) - extent // 2 - 1 for extent in self.learned])
        if self.random.random() < 0.3:
            positions = positions.round()
        sigma = torch.rand(positions.shape) * 2 + 0.3 if self.version in ("max", "gauss") else None
        weight, positions = weight.to(self.dtype), positions.to(self.dtype)
        sigma = sigma.to(self.dtype) if sigma is not None else None
        bias = self.random.choice([None, torch.randn(self.out_channels).to(self.input_dtype)])
        input = laid_out((*self.batch, self.in_channels, *self.spatial), self.layout, self.axes, self.input_dtype)
        touched = self.random.choice([None, 1, 4, 100])
        output = [
            (size + 2 * pad - extent) // step + 1
            for size, pad, extent, step in zip(self.spatial, self.padding, self.kernel_size, self.stride, strict=True)
        ]
        grad = laid_out((*self.batch, self.out_channels, *output), self.layout, self.axes, self.input_dtype)
        mask = [True] * 5 if self.random.random() < 0.5 else [self.random.random() < 0.5 for _ in range(5)]
        settings = (self.stride, self.padding, self.groups, self.version, self.method, touched)
        kernel_grad = torch.randn(self.out_channels, self.filters[0], *self.kernel_size).to(self.dtype)
        channels = self.in_channels
        dense = torch.randn(channels, 1, *self.kernel_size).to(self.input_dtype)
        depthwise_grad = laid_out((*self.batch, channels, *output), self.layout, self.axes, self.input_dtype)
        name = f"depthwise_conv{self.axes}d"
        return {
            f"conv{self.axes}d": (input, weight, positions, self.kernel_size, sigma, bias, *settings),
            "conv_backward": (grad, input, weight, positions, self.kernel_size, sigma, *settings, mask),
            "construct_kernel": (weight, positions, self.kernel_size, sigma, self.version),
            "construct_kernel_backward": (kernel_grad, weight, positions, sigma, self.version, mask[1:4]),
            name: (input, dense, None, self.stride, self.padding),
            f"{name}_backward": (depthwise_grad, input, dense, self.stride, self.padding, mask[:3]),
        }


def compute(library: str, count: int, path: str) -> None:
    """Writes the results of all calls."""
    torch.ops.load_library(library)
    results = []
    with torch.no_grad():
        for number in range(count):
            draw = Draw(number)
            torch.set_num_threads(draw.threads)
            for name, arguments in draw.calls().items():
                found = getattr(torch.ops.dcls, name)(*arguments)
                tensors = found if isinstance(found, tuple) else (found,)
                # What "auto" may have taken.
                method = "im2col" if draw.method == "auto" and draw.shared else draw.method
                results.append(
                    (
                        number,
                        name,
                        method if name.startswith("conv") else "",
                        [(t.stride(), t.contiguous()) for t in tensors],
                    )
                )
    torch.save(results, path)


def run(library: Path, capability: str, count: int, folder: str) -> list[Any] | None:
    """The results, or None where the processor lacks the instruction set."""
    path = Path(folder, "results")
    command = [sys.executable, __file__, "--compute", str(library), str(count), str(path)]
    process = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "DCLS_CPU_CAPABILITY": capability}
    )
    if "DCLS_CPU_CAPABILITY: expected one of" in process.stderr:
        return None
    if process.returncode != 0:
        raise SystemExit(process.stderr)
    results: list[Any] = torch.load(path)
    return results


def differences(old: Tensor, new: Tensor) -> str | None:
    if old.dtype != new.dtype or old.shape != new.shape:
        return f"{old.dtype} {tuple(old.shape)} and {new.dtype} {tuple(new.shape)}"
    bits = {8: torch.int64, 4: torch.int32, 2: torch.int16}[old.element_size()]
    if torch.equal(old.view(bits), new.view(bits)):
        return None
    return "different bits"


def is_rounding(old: Tensor, new: Tensor) -> bool:
    largest = max(1.0, old.abs().max().item())
    return bool(((old.double() - new.double()).abs() <= ROUNDING[old.dtype] * largest).all())


def main() -> None:
    parser = argparse.ArgumentParser(description="Whether two builds of the CPU library compute the same bits")
    parser.add_argument("libraries", type=Path, nargs=2, metavar="libdcls.so")
    parser.add_argument("--count", type=int, default=400, help="draws, of six calls each (default: 400)")
    parser.add_argument("--rounded", nargs="*", default=[], choices=METHODS, help="methods that may round otherwise")
    arguments = parser.parse_args()
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        for capability in tqdm(("generic", "avx2", "avx512"), unit="set", file=sys.stderr):
            both = [run(library, capability, arguments.count, folder) for library in arguments.libraries]
            if both[0] is None or both[1] is None:
                print(f"{capability}: not on this processor")
                continue
            same = rounded = 0
            for (number, name, method, old), (_, _, _, new) in zip(*both, strict=True):
                for index, ((old_stride, a), (new_stride, b)) in enumerate(zip(old, new, strict=True)):
                    what = differences(a, b) or ("strides" if old_stride != new_stride else None)
                    if what is None:
                        same += 1
                    elif what == "different bits" and method in arguments.rounded and is_rounding(a, b):
                        rounded += 1
                    else:
                        failures += 1
                        print(f"{capability}: draw {number}, {name}, method {method or '-'}, result {index}: {what}")
            print(f"{capability}: {same} results the same, {rounded} by rounding only, of {arguments.count} draws")
    if failures:
        raise SystemExit(f"{failures} results differ")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--compute"]:
        compute(sys.argv[2], int(sys.argv[3]), sys.argv[4])
    else:
        main()
