"""What the CUDA kernels take of a multiprocessor, from the compiler's own report: `make cuda` runs this.

    python benchmarks/cuda_resources.py LOG

LOG is what nvcc printed with -Xptxas -v. Writes benchmarks/results/cuda-resources.md; the exit status is 1 if a kernel
spills registers to memory. Shared memory is what a kernel declares; what it asks for at launch depends on shapes.
"""

import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

RESULT = Path(__file__).resolve().parent / "results" / "cuda-resources.md"

ENTRY = re.compile(
    r"Compiling entry function '(?P<symbol>\w+)' for '(?P<architecture>sm_\w+)'\n.*\n"
    r" *(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads\n"
    r".*?Used (?P<registers>\d+) registers(?P<rest>.*)",
)


# Enumerations among template arguments, by which the table names kernels.
NAMES = {
    "Role": ("forward", "grad_input", "grad_kernel"),
    "Pass": ("forward", "backward"),
    "Copy": ("to_matrix", "to_tensor"),
}


class Kernel(NamedTuple):
    name: str
    dtype: str


class Resources(NamedTuple):
    registers: int
    stack: int
    spills: int
    shared: int


def demangle(symbols: list[str]) -> list[str]:
    process = subprocess.run(["c++filt"], input="\n".join(symbols), capture_output=True, text=True, check=True)
    return process.stdout.splitlines()


def kernel(signature: str) -> Kernel:
    """Its name with its role, and the dtype of its tensors; interpolations and numbers are left out."""
    match = re.match(r"void (?:\w+::|\(anonymous namespace\)::)*(\w+)<(.*?)>\(", signature)
    assert match, signature
    name, arguments = match[1], [re.sub(r"\w+::|\(anonymous namespace\)::", "", a) for a in match[2].split(", ")]
    enums = [re.match(r"\((\w+)\)(\d+)", a) for a in arguments]
    roles = [NAMES[e[1]][int(e[2])] for e in enums if e and e[1] in NAMES]
    dtypes = [a for a, e in zip(arguments, enums, strict=True) if e is None and not a.isdigit()]
    return Kernel(" ".join([name, *roles]), dtypes[0])


def parse(log: str) -> dict[Kernel, dict[str, Resources]]:
    """By kernel and architecture; of the instances for each interpolation, the largest figures."""
    found = list(ENTRY.finditer(log))
    table: dict[Kernel, dict[str, Resources]] = defaultdict(dict)
    for match, signature in zip(found, demangle([m["symbol"] for m in found]), strict=True):
        shared = re.search(r"(\d+) bytes smem", match["rest"])
        new = Resources(
            int(match["registers"]), int(match["stack"]), int(match["stores"]) + int(match["loads"]),
            int(shared[1]) if shared else 0,
        )  # fmt: skip
        by_architecture = table[kernel(signature)]
        old = by_architecture.get(match["architecture"], new)
        by_architecture[match["architecture"]] = Resources(*map(max, old, new))
    return table


def markdown(table: dict[Kernel, dict[str, Resources]], compiler: str) -> str:
    architectures = sorted({architecture for by in table.values() for architecture in by})
    cells = ("kernel", "dtype", *(f"registers, {a}" for a in architectures), "stack", "spilled", "shared memory")
    rows = [cells, ("---",) * len(cells)]
    for (name, dtype), by_architecture in sorted(table.items()):
        _, *others = map(max, *by_architecture.values(), Resources(0, 0, 0, 0))
        registers = (by_architecture[a].registers for a in architectures)
        rows.append((name, dtype, *map(str, registers), *map(str, others)))
    lines = (
        "# What the CUDA kernels take",
        "",
        f"Written by `make cuda` ({compiler}): registers a thread; bytes of stack, spilled registers, shared memory.",
        "The largest figures of the instances of a kernel. Shared memory is what a kernel declares:",
        "at launch, construction asks for up to 32 KiB, direct_kernel for 32 KiB and correlate_planes for 48 KiB.",
        "",
        *("| " + " | ".join(row) + " |" for row in rows),
    )
    return "\n".join(lines) + "\n"


def main() -> None:
    table = parse(Path(sys.argv[1]).read_text())
    if not table:
        sys.exit("no kernel in the log: was it compiled with -Xptxas -v?")
    version = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    compiler = re.search(r"release ([\d.]+)", version)
    RESULT.write_text(markdown(table, f"nvcc {compiler[1] if compiler else 'unknown'}"))
    everything = [(kernel, a, r) for kernel, by in table.items() for a, r in by.items()]
    spilling = [f"{kernel.name} {kernel.dtype} {a}: {r.spills} bytes" for kernel, a, r in everything if r.spills]
    print(
        f"{len(table)} kernels, at most {max(r.registers for *_, r in everything)} registers a thread, "
        f"{len(spilling)} of {len(everything)} spill; written to {RESULT.relative_to(RESULT.parents[2])}"
    )
    if spilling:
        sys.exit("these kernels spill registers:\n" + "\n".join(spilling))


if __name__ == "__main__":
    main()
