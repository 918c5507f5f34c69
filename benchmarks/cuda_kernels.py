"""What the CUDA kernels are made of, by the machine code in a built library: `make cuda` runs this.

    python benchmarks/cuda_kernels.py build/cuda/libdcls_cuda.so

Writes benchmarks/results/cuda-kernels.md. The exit status is 1 if a kernel uses local memory, which is where spilled
registers go, or atomics, or if multiply-adds have a smaller share of its hot loop than FLOORS wants.
"""

import functools
import importlib.metadata
import operator
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from fnmatch import fnmatchcase
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import machine_code
from machine_code import arithmetic, share

RESULT = Path(__file__).resolve().parent / "results" / "cuda-kernels.md"

#: The least share of FFMA, DFMA or HMMA in the hot loop, by a pattern of "kernel dtype": what was found, rounded down.
#: Kernels of "im2col" have none: their loops are index arithmetic, with a few multiply-adds in a hundred instructions.
FLOORS = {
    # 17 taps in a row, and the most.
    "correlate_patches 4 14 4 float": 0.93,
    "correlate_patches 4 14 8 float": 0.95,
    "correlate_patches 7 8 4 float": 0.91,
    "correlate_patches 7 8 8 float": 0.93,
    "correlate_patches 4 4 8 double": 0.81,
    "kernel_gradient_rows*5 float": 0.88,
    "kernel_gradient_rows*9 float": 0.92,
    "kernel_gradient_rows*9 double": 0.84,
    "correlate_bands*3 *": 0.19,
    "correlate_bands*5 *": 0.23,
    "kernel_gradient_bands 4 *": 0.19,
    "kernel_gradient_bands 6 *": 0.18,
    "direct_kernel *": 0.18,
    "sum_elements_kernel *": 0.09,
}

#: Columns of the table: what of the hot loop is counted, and what of the whole kernel.
OF_LOOP = ("wide LDS", "narrow LDS", "S2R", "BSSY", "division", "CALL")
OF_KERNEL = ("2-byte copies", "stack", "LDL, STL", "atomics")
#: Those that must be 0.
REFUSED = ("stack", "LDL, STL", "atomics")

#: Enumerations among template arguments. Roles and numbers make another kernel, versions do not.
ROLES = {
    "Role": ("forward", "grad_input", "grad_kernel"),
    "Pass": ("forward", "backward"),
    "Copy": ("to_matrix", "to_tensor"),
}
VERSIONS = ("v0", "v1", "max", "gauss")
#: The one flag that kernels have: whether they take pixels with several channels, of channels_last tensors.
FLAGS = {"true": " by_pixels", "false": ""}

MACHINE_CODE = """\
Names have the roles and numbers among a kernel's template arguments. Of a kernel that is compiled for each version, the
row is the version in whose hot loop multiply-adds have the smallest share; registers, and what is counted of the whole
kernel, are the most of any version. `benchmarks/machine_code.py` says which loop is hot.

| column | is |
| --- | --- |
| loop | instructions of the hot loop |
| multiply-adds | their share of these; `make cuda` fails below the floor |
| wide LDS, narrow LDS | loads from shared memory in the loop: of 16 bytes a thread, of fewer |
| S2R, BSSY | in the loop: reads of special registers; branches within a warp |
| division | in the loop: of integers or of floating-point numbers |
| CALL | in the loop: of subroutines, such as the slow path of a division |
| 2-byte copies | in the whole kernel: loads of 16 bits from global memory, stores of 16 bits to shared memory |
| stack; LDL, STL | bytes of local memory, and accesses to it: `make cuda` fails if there are any |
| atomics | `make cuda` fails if there are any |
"""


class Kernel(NamedTuple):
    """As compiled for one architecture, dtype and version."""

    architecture: str
    name: str
    dtype: str
    version: str  # or ""
    registers: int
    hot_loop: Counter[str] | None
    whole: Counter[str]

    @property
    def share(self) -> float:
        return share(self.hot_loop) if self.hot_loop else 0.0

    @property
    def floor(self) -> float:
        return max((least for pattern, least in FLOORS.items() if self.matches(pattern)), default=0.0)

    def matches(self, pattern: str) -> bool:
        return fnmatchcase(f"{self.name} {self.dtype}", pattern)


def read_library(library: Path) -> list[Kernel]:
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor() as pool:
        run(tool("cuobjdump"), "--extract-elf", "all", str(library.resolve()), folder=folder)
        return [kernel for kernels in pool.map(read_cubin, sorted(Path(folder).glob("*.cubin"))) for kernel in kernels]


def read_cubin(path: Path) -> list[Kernel]:
    """The kernels of one source, for one architecture."""
    architecture = path.suffixes[-2].removeprefix(".")
    codes = machine_code.parse(run(tool("nvdisasm"), "--print-code", str(path)))
    usage = dict(re.findall(r"Function (\S+):\s+(.*)", run(tool("cuobjdump"), "--dump-resource-usage", str(path))))
    kernels = []
    for (symbol, code), signature in zip(codes.items(), demangle(codes), strict=True):
        used = {resource: int(number) for resource, number in re.findall(r"(\w+):(\d+)", usage[symbol])}
        whole = machine_code.count(code.instructions) + Counter(stack=used["STACK"] + used["LOCAL"])
        name = parse_signature(signature)
        kernels.append(Kernel(architecture, *name, used["REG"], machine_code.hot_loop(code), whole))
    return kernels


def parse_signature(signature: str) -> tuple[str, str, str]:
    """A kernel's name with role and numbers, the dtype of its tensors, and its version."""
    match = re.match(r"(?:void )?(\w+)(?:<(.*?)>)?\(", re.sub(r"\w+::|\(anonymous namespace\)::", "", signature))
    assert match, signature
    name, dtype, version = match[1], "", ""
    for argument in re.sub(r"\w+<|>", "", match[2] or "").split(", "):
        enumeration, _, value = argument.removeprefix("(").rpartition(")")
        if enumeration == "Version":
            version = VERSIONS[int(value)]
        elif value in FLAGS:
            name += FLAGS[value]
        elif value.isdigit():
            name += f" {ROLES[enumeration][int(value)] if enumeration in ROLES else value}"
        else:
            dtype = dtype or value
    return name, dtype, version


def worst_versions(kernels: Iterable[Kernel]) -> list[Kernel]:
    """One of each architecture, name and dtype."""
    merged = []
    for _, group in groupby(sorted(kernels, key=lambda kernel: kernel[:4]), key=lambda kernel: kernel[:3]):
        versions = list(group)
        registers = max(kernel.registers for kernel in versions)
        whole = functools.reduce(operator.or_, (kernel.whole for kernel in versions))
        merged.append(min(versions, key=lambda kernel: kernel.share)._replace(registers=registers, whole=whole))
    return merged


def complaints(kernels: list[Kernel]) -> Iterator[str]:
    for kernel in kernels:
        title = f"{kernel.name} {kernel.dtype}, {kernel.architecture}"
        for kind in REFUSED:
            if number := kernel.whole[kind]:
                yield f"{title}: {kind} {number}, wanted 0"
        if kernel.share < kernel.floor:
            found = f"{kernel.share:.1%} {arithmetic(kernel.hot_loop)}" if kernel.hot_loop else "no multiply-adds"
            version = f" of version {kernel.version}" if kernel.version else ""
            yield f"{title}: {found} in the hot loop{version}, wanted {kernel.floor:.1%}"
    for pattern in FLOORS:
        if not any(kernel.matches(pattern) for kernel in kernels):
            yield f"{pattern}: FLOORS has it, but there is no such kernel"


def machine_code_section(kernels: list[Kernel]) -> Iterator[str]:
    yield f"## Machine code\n\n{MACHINE_CODE}"
    for architecture, group in groupby(kernels, key=lambda kernel: kernel.architecture):
        yield f"### {architecture}\n\n{table(group)}"


def table(kernels: Iterable[Kernel]) -> str:
    """Dtypes that share all numbers share a row. What is 0 is left blank."""
    titles = ("kernel", "dtype", "version", "registers", "loop", "multiply-adds", "floor", *OF_LOOP, *OF_KERNEL)
    dtypes: dict[tuple[str, ...], list[str]] = {}
    for kernel in kernels:
        loop = kernel.hot_loop or Counter()
        numbers = (*(loop[kind] for kind in OF_LOOP), *(kernel.whole[kind] for kind in OF_KERNEL))
        cells = (
            kernel.version,
            str(kernel.registers),
            str(loop["instructions"] or ""),
            f"{arithmetic(loop)} {share(loop):.1%}" if loop else "",
            f"{kernel.floor:.0%}" if kernel.floor else "",
            *(str(number or "") for number in numbers),
        )
        dtypes.setdefault((kernel.name, *cells), []).append(kernel.dtype)
    rows = [titles, ("---",) * len(titles), *((name, ", ".join(of), *cells) for (name, *cells), of in dtypes.items())]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def page(sections: Iterable[str]) -> str:
    version = re.search(r"release ([\d.]+)", run("nvcc", "--version"))
    heading = f"# CUDA kernels\n\nWritten by `make cuda` (nvcc {version[1] if version else 'unknown'}).\n"
    return "\n".join((heading, *sections))


def tool(name: str) -> str:
    """cuobjdump or nvdisasm, from its package on PyPI."""
    try:
        files = importlib.metadata.files(f"nvidia-cuda-{name}") or []
    except importlib.metadata.PackageNotFoundError:
        sys.exit(f"{name} is missing: pip install nvidia-cuda-{name}")
    return str(next(file for file in files if file.stem == name).locate())


def demangle(symbols: Iterable[str]) -> list[str]:
    return run("c++filt", given="\n".join(symbols)).splitlines()


def run(*command: str, given: str | None = None, folder: str | None = None) -> str:
    return subprocess.run(command, input=given, cwd=folder, capture_output=True, text=True, check=True).stdout


def main() -> None:
    compiled = read_library(Path(sys.argv[1]))
    kernels = worst_versions(compiled)
    RESULT.write_text(page(machine_code_section(kernels)))
    print(f"{len(compiled)} kernels; written to {RESULT.relative_to(RESULT.parents[2])}")
    if found := list(complaints(kernels)):
        sys.exit("\n".join(found))


if __name__ == "__main__":
    main()
