"""Machine code of CUDA kernels: what nvdisasm prints, the loops in it, and the instructions of the hot loop.

Loops are natural loops: a branch back to an instruction that dominates it (every way from the entry goes through it),
and all that lies between the two, with branches forward and what they skip. An instruction belongs to the innermost
loop around it. Called subroutines, such as a division's slow path, are in no loop.

Which loop is hot is estimated, as compilers do: a loop that is entered runs TRIPS times, and the hot one then does the
most multiply-adds. But compilers make several loops of one, for every answer to a condition that does not change in it.
So loops at least as deep are hot too if they do more than a quarter as much (what a loop unrolled by four leaves over
does less), and of the hot loops that one counts in which multiply-adds have the smallest share.
"""

import re
from collections import Counter
from collections.abc import Iterable
from functools import cache
from operator import itemgetter
from typing import NamedTuple

TRIPS = 8

#: Multiply-adds of one thread. HMMA.16816 has 16 x 8 x 16 for a warp.
MULTIPLY_ADDS = {"FFMA": 1, "DFMA": 1, "HMMA": 64}

#: What instructions are counted as, by opcode and modifiers.
KINDS = {
    "FFMA": r"FFMA.*",
    "DFMA": r"DFMA.*",
    "HMMA": r"HMMA.*",
    "wide LDS": r"LDS\..*128|LDSM\..*\.4",  # 16 bytes a thread
    "narrow LDS": r"LDS(?!M|.*\.128).*|LDSM(?!.*\.4$).*",
    "S2R": r"S2U?R.*",
    "BSSY": r"BSSY.*",
    "division": r"I2F.*\.RP|FCHK.*|MUFU\.RCP64H",  # what one starts with: of integers, float32, float64
    "CALL": r"CALL.*",
    "2-byte copies": r"(LDG|STS)\..*[US]16.*",
    "LDL, STL": r"(LDL|STL).*",
    "atomics": r"(ATOM|ATOMG|ATOMS|RED|REDG)(\..*)?",
}

LABEL = re.compile(r"([.$\w]+):$")
INSTRUCTION = re.compile(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][\w.]*)\s*(.*?)\s*;")


class Instruction(NamedTuple):
    guard: str  # the predicate that it runs under, or ""
    opcode: str  # with modifiers
    operands: str

    @property
    def name(self) -> str:
        return self.opcode.split(".")[0]

    @property
    def jumps(self) -> bool:
        # nvcc also leaves loops by CALLs to a label, from which nothing returns.
        return self.name in ("BRA", "BRX", "BRXU", "JMP") or (self.name == "CALL" and "`(.L_" in self.operands)

    def targets(self) -> list[str]:
        """The labels that it may jump to. Indirect branches are printed with a list of them."""
        return re.findall(r"\.L_\w+", self.operands) if self.jumps else []

    def falls_through(self) -> bool:
        """Whether what follows it in memory may run next."""
        if self.name == "BRA" and "," in self.operands:  # a condition, then the target
            return True
        return bool(self.guard) or not (self.jumps or self.name in ("EXIT", "RET"))

    def kinds(self) -> tuple[str, ...]:
        # Under !PT nothing runs: nvcc puts such loads where it needs a NOP.
        return () if self.guard == "!PT" or self.jumps else kinds(self.opcode)


class Code(NamedTuple):
    instructions: list[Instruction]
    labels: dict[str, int]  # of which instruction

    def successors(self) -> list[list[int]]:
        """Of every instruction, those that may run next."""
        last = len(self.instructions) - 1
        return [
            [*(self.labels[label] for label in each.targets()), *([i + 1] if each.falls_through() and i < last else [])]
            for i, each in enumerate(self.instructions)
        ]


class Loop(NamedTuple):
    depth: int  # 1 for an outermost one
    own: list[Instruction]  # those in no loop inside it


def parse(disassembly: str) -> dict[str, Code]:
    """What `nvdisasm --print-code` prints, by the kernels' symbols."""
    kernels: dict[str, Code] = {}
    code = Code([], {})
    for line in disassembly.splitlines():
        if instruction := INSTRUCTION.match(line):
            code.instructions.append(Instruction(*instruction.groups(default="")))
        elif label := LABEL.match(line):
            if label[1].startswith(".text."):
                code = kernels[label[1].removeprefix(".text.")] = Code([], {})
            code.labels[label[1]] = len(code.instructions)
    return kernels


@cache
def kinds(opcode: str) -> tuple[str, ...]:
    return tuple(kind for kind, pattern in KINDS.items() if re.fullmatch(pattern, opcode))


def count(instructions: Iterable[Instruction]) -> Counter[str]:
    """How many there are of every kind, and of all."""
    counts: Counter[str] = Counter()
    for instruction in instructions:
        counts.update(("instructions", *instruction.kinds()))
    return counts


def multiply_adds(counts: Counter[str]) -> int:
    return sum(each * counts[kind] for kind, each in MULTIPLY_ADDS.items())


def arithmetic(counts: Counter[str]) -> str:
    """The instruction that does most of the multiply-adds."""
    return max(MULTIPLY_ADDS, key=lambda kind: MULTIPLY_ADDS[kind] * counts[kind])


def share(counts: Counter[str]) -> float:
    """That instruction's share of all."""
    return counts[arithmetic(counts)] / counts["instructions"]


def hot_loop(code: Code) -> Counter[str] | None:
    """The instructions of the hot loop; None if no loop has multiply-adds."""
    counted = [(loop.depth, count(loop.own)) for loop in loops(code)]
    working = [
        (multiply_adds(counts) * TRIPS**depth, depth, counts) for depth, counts in counted if multiply_adds(counts)
    ]
    most, depth_of_most, _ = max(working, key=itemgetter(0), default=(0, 0, None))
    hot = [counts for work, depth, counts in working if work > most / 4 and depth >= depth_of_most]
    return min(hot, key=share, default=None)


def loops(code: Code) -> list[Loop]:
    """In the order of memory."""
    bodies = natural_loops(code.successors())
    own: dict[int, list[Instruction]] = {header: [] for header in bodies}
    for i, instruction in enumerate(code.instructions):
        around = [header for header, body in bodies.items() if i in body]
        if around:
            own[min(around, key=lambda header: len(bodies[header]))].append(instruction)
    return [Loop(sum(header in body for body in bodies.values()), own[header]) for header in sorted(bodies)]


def natural_loops(successors: list[list[int]]) -> dict[int, set[int]]:
    """The nodes of every loop, by its header. Node 0 is the entry."""
    order = reverse_postorder(successors)
    predecessors: list[list[int]] = [[] for _ in successors]
    for node in order:
        for successor in successors[node]:
            predecessors[successor].append(node)
    dominators = dominator_bits(order, predecessors)
    bodies: dict[int, set[int]] = {}
    for node in order:
        for header in successors[node]:
            if dominators[node] >> header & 1:
                body = bodies.setdefault(header, {header})
                found = [node]
                while found:
                    if (inside := found.pop()) not in body:
                        body.add(inside)
                        found += predecessors[inside]
    return bodies


def reverse_postorder(successors: list[list[int]]) -> list[int]:
    """The nodes that the entry leads to, each before its successors, but for branches back."""
    postorder, seen, path = [], {0}, [(0, iter(successors[0]))]
    while path:
        node, rest = path[-1]
        unseen = next((successor for successor in rest if successor not in seen), None)
        if unseen is None:
            postorder.append(node)
            path.pop()
        else:
            seen.add(unseen)
            path.append((unseen, iter(successors[unseen])))
    return postorder[::-1]


def dominator_bits(order: list[int], predecessors: list[list[int]]) -> dict[int, int]:
    """The dominators of every node, as bits of a number."""
    entry, *others = order
    dominators = dict.fromkeys(order, -1) | {entry: 1 << entry}
    changed = True
    while changed:
        changed = False
        for node in others:
            new = -1
            for predecessor in predecessors[node]:
                new &= dominators[predecessor]
            new |= 1 << node
            changed |= new != dominators[node]
            dominators[node] = new
    return dominators
