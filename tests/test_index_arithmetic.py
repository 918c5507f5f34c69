"""The arithmetic of indices in csrc, where an off-by-one shows first: by tables, and against counting one by one."""

import ctypes
import itertools
import subprocess
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


@pytest.fixture(scope="session")
def numbers(tmp_path_factory):
    """Calls a function of index_arithmetic.cpp, for the list that it writes."""
    library = tmp_path_factory.mktemp("cpp") / "index_arithmetic.so"
    options = ("-std=c++20", "-O1", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", f"-I{TESTS.parent / 'csrc'}")
    subprocess.run(["g++", *options, TESTS / "index_arithmetic.cpp", "-o", library], check=True)
    functions = ctypes.CDLL(str(library))

    def call(name, *arguments):
        out = (ctypes.c_int64 * 4096)()
        function = getattr(functions, name)
        function.restype = ctypes.c_int64
        return out[: function(*map(ctypes.c_int64, arguments), out)]

    return call


@pytest.mark.parametrize(
    ("first", "step", "extent", "count", "expected"),
    [
        (0, 1, 5, 5, (0, 5)),
        (-2, 1, 5, 5, (2, 5)),
        (3, 1, 5, 5, (0, 2)),
        (-3, 2, 5, 9, (2, 4)),
        (-4, 2, 5, 9, (2, 5)),
        (1, 3, 5, 9, (0, 2)),
        (5, 1, 5, 4, (0, 0)),  # starts behind the end
        (-9, 2, 5, 4, (4, 4)),  # ends before the beginning
        (-1, 7, 5, 9, (1, 1)),  # steps over all of it
        (0, 1, 0, 4, (0, 0)),
        (0, 1, 5, 0, (0, 0)),
    ],
)
def test_steps_inside(numbers, first, step, extent, count, expected):
    assert tuple(numbers("steps", first, step, extent, count)) == expected


def test_steps_inside_are_those_found_one_by_one(numbers):
    for first, step, extent, count in itertools.product(range(-7, 8), range(1, 5), range(6), range(6)):
        begin, end = numbers("steps", first, step, extent, count)
        found = [j for j in range(count) if 0 <= first + j * step < extent]
        assert list(range(begin, end)) == found, (first, step, extent, count)
        begin, end = numbers("all_steps", first, step, extent)
        assert list(range(begin, end)) == [j for j in range(-20, 20) if 0 <= first + j * step < extent]


@pytest.mark.parametrize(
    ("images", "extent", "max_pixels", "boxes"),
    [
        (1, (1, 1, 10), 10, [(1, 1, 1, 10)]),
        (1, (1, 1, 10), 4, [(1, 1, 1, 4), (1, 1, 1, 4), (1, 1, 1, 2)]),
        (1, (1, 4, 10), 20, [(1, 1, 2, 10)] * 2),
        (3, (1, 2, 5), 20, [(2, 1, 2, 5), (1, 1, 2, 5)]),
        (2, (2, 3, 4), 1000, [(2, 2, 3, 4)]),
        (1, (1, 1, 9), 4, [(1, 1, 1, 3)] * 3),  # even ones, not 4 + 4 + 1
        (1, (1, 1, 5), 1, [(1, 1, 1, 1)] * 5),
        (0, (1, 2, 5), 20, []),
    ],
)
def test_tiles(numbers, images, extent, max_pixels, boxes):
    assert [tile[1::2] for tile in chunks(numbers("tiles", 7, images, *extent, max_pixels), 8)] == boxes


@pytest.mark.parametrize("max_pixels", [1, 2, 7, 12, 30, 1000])
@pytest.mark.parametrize(("images", "extent"), [(1, (1, 1, 17)), (2, (1, 5, 7)), (5, (3, 4, 2)), (3, (2, 1, 9))])
def test_tiles_have_every_pixel_once(numbers, images, extent, max_pixels):
    pixels = []
    for first, count, *box in chunks(numbers("tiles", 7, images, *extent, max_pixels), 8):
        ranges = [range(first, first + count), *(range(begin, begin + size) for begin, size in chunks(box, 2))]
        tile = list(itertools.product(*ranges))
        assert len(tile) <= max_pixels
        pixels += tile
    assert sorted(pixels) == list(itertools.product(range(7, 7 + images), *map(range, extent)))


def chunks(values, size):
    return [tuple(values[at : at + size]) for at in range(0, len(values), size)]


@pytest.mark.parametrize(
    ("row", "held", "zeros", "blocks"),
    [
        # results, taps, pixels, result step, kernel step, padding
        ((5, 3, 5, 1, 1, 1), "kernel", (1, 1), [(0, 5, 0, 3)]),
        ((5, 3, 5, 1, 1, 1), "source", (3, 3), [(0, 5, 0, 5)]),
        ((12, 1, 12, 1, 1, 0), "kernel", (0, 0), [(0, 6, 0, 1), (6, 6, 0, 1)]),
        ((4, 9, 2, 1, 1, 4), "kernel", (3, 3), [(0, 4, 1, 6)]),  # taps that meet nothing are left out
        ((9, 2, 3, 1, 1, 3), "kernel", (1, 1), [(2, 4, 0, 2)]),  # so are results
        ((3, 3, 7, 3, 1, 1), "kernel", (1, 1), [(0, 3, 0, 3)]),
    ],
)
def test_rows(numbers, row, held, zeros, blocks):
    before, after, *found = numbers("row_blocks", *row, held == "kernel", 6)
    assert ((before, after), chunks(found, 4)) == (zeros, blocks)


@pytest.mark.parametrize("in_block", [3, 8])
@pytest.mark.parametrize("held", ["kernel", "source"])
def test_rows_meet_all_that_counting_finds(numbers, held, in_block):
    shapes = itertools.product((1, 5, 11), (1, 4, 9), (1, 3, 12), (1, 2, 3), (1, 2), (0, 2, 5))
    for results, taps, pixels, result_step, kernel_step, padding in shapes:
        if held == "source" and kernel_step != 1:
            continue
        row = (results, taps, pixels, result_step, kernel_step, padding)
        before, after, *found = numbers("row_blocks", *row, held == "kernel", in_block)
        entries = pixels if held == "kernel" else taps  # of the operand that streams by
        met = set()
        for first, count, begin, end in chunks(found, 4):
            assert count < 1.5 * in_block, row
            for result, entry in itertools.product(range(first, first + count), range(begin, end)):
                tap = entry if held == "kernel" else entry - result * result_step + padding
                pixel = result * result_step + tap * kernel_step - padding
                other = pixel if held == "kernel" else tap
                assert -before <= other < entries + after, row
                if 0 <= tap < taps and 0 <= pixel < pixels:
                    met.add((result, tap))
        expected = {
            (result, tap)
            for result, tap in itertools.product(range(results), range(taps))
            if 0 <= result * result_step + tap * kernel_step - padding < pixels
        }
        assert met == expected, row
