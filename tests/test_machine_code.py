"""What `make cuda` says of machine code: loops and instructions of code written by hand, and what it refuses."""

from collections import Counter

import cuda_kernels
import pytest
from cuda_kernels import Kernel
from machine_code import Code, Instruction, count, hot_loop, kinds, loops, multiply_adds, natural_loops, parse

# Two loops, one in the other, which skips two of its multiply-adds now and then. The division lies behind the exit and
# comes back from there, which makes no loop. Nor does what follows the subroutine, which nothing leads to.
PRODUCT = """\
        .section        .text._Z7productPf,"ax",@progbits
        .type           _Z7productPf,@function
.text._Z7productPf:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/                   S2R R0, SR_TID.X ;
.L_x_0:
        /*0020*/                   LDG.E.U16.CONSTANT R2, desc[UR4][R4.64] ;
        /*0030*/                   STS.U16 [R3], R2 ;
        /*0040*/                   FFMA R9, R9, R9, R9 ;
.L_x_1:
        /*0050*/                   LDS.128 R12, [R3] ;
        /*0060*/                   LDS R16, [R3+0x10] ;
        /*0070*/                   LDS.U.64 R18, [R3+0x18] ;
        /*0080*/              @!PT LDS RZ, [RZ] ;
        /*0090*/                   BSSY B0, `(.L_x_3) ;
        /*00a0*/               @P1 BRA `(.L_x_2) ;
        /*00b0*/                   FFMA R8, R12, R16.reuse, R8 ;
        /*00c0*/                   FFMA.FTZ R9, R13, R16, R9 ;
.L_x_2:
        /*00d0*/                   BSYNC B0 ;
.L_x_3:
        /*00e0*/                   FFMA R10, R14, R16, R10 ;
        /*00f0*/                   BRA.U UP0, `(.L_x_1) ;
        /*0100*/                   S2UR UR6, SR_CTAID.X ;
        /*0110*/              @!P2 BRA `(.L_x_5) ;
.L_x_4:
        /*0120*/               @P0 CALL.REL.NOINC `(.L_x_6) ;
        /*0130*/                   BRA `(.L_x_0) ;
.L_x_6:
        /*0140*/                   RED.E.ADD.F32.FTZ.RN.STRONG.GPU desc[UR4][R4.64], R8 ;
        /*0150*/                   STL [R1], R8 ;
        /*0160*/                   EXIT ;
.L_x_5:
        /*0170*/                   I2F.U32.RP R20, R21 ;
        /*0180*/                   CALL.REL.NOINC `($__internal_0_$__cuda_sm20_div_u64) ;
        /*0190*/                   BRA `(.L_x_4) ;
        .weak           $__internal_0_$__cuda_sm20_div_u64
$__internal_0_$__cuda_sm20_div_u64:
        /*01a0*/                   LDL R2, [R1] ;
        /*01b0*/                   RET.REL.NODEC R20 `(_Z7productPf) ;
.L_x_7:
        /*01c0*/                   BRA `(.L_x_7);
        /*01d0*/                   NOP;
.L_x_8:

        .section        .text._Z4copyPf,"ax",@progbits
.text._Z4copyPf:
        /*0000*/                   BRX R4 -0x10 (*"BRANCH_TARGETS .L_x_9,.L_x_10"*) ;
.L_x_9:
        /*0010*/                   NOP ;
.L_x_10:
        /*0020*/                   EXIT ;
"""
KERNELS = parse(PRODUCT)


def test_loops():
    outer, inner = loops(KERNELS["_Z7productPf"])
    assert (outer.depth, inner.depth) == (1, 2)
    assert [each.opcode for each in outer.own] == [
        *("LDG.E.U16.CONSTANT", "STS.U16", "FFMA", "S2UR", "BRA", "CALL.REL.NOINC", "BRA"),
        *("I2F.U32.RP", "CALL.REL.NOINC", "BRA"),
    ]
    assert count(outer.own) == {
        "instructions": 10,
        **{"FFMA": 1, "S2R": 1, "2-byte copies": 2, "division": 1, "CALL": 1},
    }


def test_the_hot_loop():
    assert hot_loop(KERNELS["_Z7productPf"]) == {
        "instructions": 11,
        **{"FFMA": 3, "wide LDS": 1, "narrow LDS": 2, "BSSY": 1},
    }


def test_the_whole_kernel():
    counts = count(KERNELS["_Z7productPf"].instructions)
    assert (counts["instructions"], counts["LDL, STL"], counts["atomics"]) == (30, 2, 1)


def test_a_kernel_without_loops():
    code = KERNELS["_Z4copyPf"]
    assert code.successors() == [[1, 2], [2], []]
    assert loops(code) == []
    assert hot_loop(code) is None


@pytest.mark.parametrize(
    ("successors", "expected"),
    [
        ([[1], []], {}),
        ([[0]], {0: {0}}),
        ([[1], [2, 3], [1], []], {1: {1, 2}}),  # the test first
        ([[1], [2], [1, 2, 3], []], {1: {1, 2}, 2: {2}}),
        ([[1], [2, 4], [3], [1], [1, 5], []], {1: {1, 2, 3, 4}}),  # two branches back to one header are one loop
        ([[1, 2], [2], [1, 3], []], {}),  # two ways in: neither node dominates the other
        ([[1], [], [2, 1]], {}),  # nothing leads to node 2
    ],
)
def test_natural_loops(successors, expected):
    assert natural_loops(successors) == expected


def straight(*opcodes: str) -> list[Instruction]:
    return [Instruction("", opcode, "") for opcode in opcodes]


def loop_after_loop(*bodies: list[Instruction]) -> Code:
    code = Code([], {})
    for number, body in enumerate(bodies):
        code.labels[f".L_{number}"] = len(code.instructions)
        code.instructions.extend([*body, Instruction("P0", "BRA", f"`(.L_{number})")])
    code.instructions.extend(straight("EXIT"))
    return code


@pytest.mark.parametrize(
    ("bodies", "expected"),
    [
        ([["FFMA"] * 16, ["FFMA"] * 4 + ["MOV"] * 9], 16),  # the second is left over of the first
        ([["FFMA"] * 16, ["FFMA"] * 5 + ["MOV"] * 9], 5),  # another version of it, with a smaller share
        ([["FFMA"] * 16, ["FFMA"] * 5], 5),
        ([["FFMA"] * 16 + ["MOV"] * 9, ["FFMA"] * 5], 16),
        ([["MOV"], ["FFMA"]], 1),
        ([["MOV"], ["LDS"]], None),
    ],
)
def test_of_hot_loops_the_smallest_share_counts(bodies, expected):
    hot = hot_loop(loop_after_loop(*(straight(*body) for body in bodies)))
    assert (hot and hot["FFMA"]) == expected


def test_a_loop_around_is_not_hot():
    inner = [*straight(*["FFMA"] * 4), Instruction("P1", "BRA", "`(.L_inner)")]
    code = loop_after_loop([*straight(*["FFMA"] * 20), *inner, *straight(*["MOV"] * 9)])
    code.labels[".L_inner"] = 20
    assert [loop.depth for loop in loops(code)] == [1, 2]
    assert hot_loop(code) == {"instructions": 5, "FFMA": 4}


@pytest.mark.parametrize(
    ("opcode", "expected"),
    [
        ("FFMA.FTZ.SAT", "FFMA"),
        ("HMMA.16816.F32.BF16", "HMMA"),
        ("LDS.U.128", "wide LDS"),
        ("LDS.S.U16", "narrow LDS"),
        ("LDSM.16.MT88.4", "wide LDS"),
        ("LDSM.16.M88.2", "narrow LDS"),
        ("LDSM.16.M88", "narrow LDS"),
        ("LDGSTS.E.BYPASS.LTC128B.128", None),
        ("LDG.E.U16", "2-byte copies"),
        ("LDG.E.128", None),
        ("I2F.RP", "division"),
        ("I2F.F64.S64", None),
        ("I2FP.F32.S32", None),
        ("FCHK", "division"),
        ("MUFU.RCP64H", "division"),
        ("MUFU.RCP", None),
        ("S2UR", "S2R"),
        ("CS2R.32", None),
        ("ATOMG.E.ADD.STRONG.GPU", "atomics"),
        ("ATOMS.ADD", "atomics"),
        ("REDUX.SUM", None),
    ],
)
def test_kinds(opcode, expected):
    assert kinds(opcode) == ((expected,) if expected else ())


def test_multiply_adds_of_a_thread():
    assert multiply_adds(count(straight("FFMA", "DFMA", "HMMA.16816.F32", "FMUL"))) == 66


@pytest.mark.parametrize(
    ("signature", "expected"),
    [
        (
            "void dcls::cuda::(anonymous namespace)::direct_kernel<(dcls::Pass)1, (dcls::Version)3, c10::Half>(P)",
            ("direct_kernel backward", "Half", "gauss"),
        ),
        ("void dcls::cuda::bands<5, (bool)1, float, double>(int, std::array<int, 3ul>)", ("bands 5 1", "float", "")),
        ("void dcls::cuda::rows<true, dcls::Shape<float, 4, 14>, 5, float>(P)", ("rows by_pixels 4 14 5", "float", "")),
        ("void dcls::cuda::rows<false, 5, double>(P)", ("rows 5", "double", "")),
        ("dcls::cuda::(anonymous namespace)::fill(float*)", ("fill", "", "")),
    ],
)
def test_names(signature, expected):
    assert cuda_kernels.parse_signature(signature) == expected


def kernel(dtype: str = "float", version: str = "v0", registers: int = 32, ffma: int = 50, **whole: int) -> Kernel:
    loop = Counter({"instructions": 100, "FFMA": ffma}) if ffma else None
    return Kernel("sm_90", "conv", dtype, version, registers, loop, Counter(whole))


def test_of_versions_the_worst_counts():
    versions = [kernel(version="v0", registers=40), kernel(version="v1", ffma=30, stack=8), kernel("double")]
    assert cuda_kernels.worst_versions(versions) == [kernel("double"), kernel("float", "v1", 40, 30, stack=8)]


def test_rows_of_the_table():
    _, _, *rows = cuda_kernels.table(
        [kernel("Half"), kernel("float"), kernel("none", "", ffma=0, atomics=2)]
    ).splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert cells[0] == ["conv", "Half, float", "v0", "32", "100", "FFMA 50.0%", *[""] * 11]
    assert cells[1] == ["conv", "none", "", "32", *[""] * 12, "2"]


def test_what_is_refused(monkeypatch):
    monkeypatch.setattr(cuda_kernels, "FLOORS", {"conv *": 0.2, "conv float": 0.5})
    assert list(cuda_kernels.complaints([kernel()])) == []
    assert list(cuda_kernels.complaints([kernel("double", ffma=20), kernel(ffma=49, stack=8, atomics=1)])) == [
        "conv float, sm_90: stack 8, wanted 0",
        "conv float, sm_90: atomics 1, wanted 0",
        "conv float, sm_90: 49.0% FFMA in the hot loop of version v0, wanted 50.0%",
    ]
    assert list(cuda_kernels.complaints([kernel("double", "", ffma=0)])) == [
        "conv double, sm_90: no multiply-adds in the hot loop, wanted 20.0%",
        "conv float: FLOORS has it, but there is no such kernel",
    ]
