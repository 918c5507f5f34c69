"""Every CUDA kernel against the reference in float64, and the same bits whatever order its threads run in."""

import itertools

import pytest
import torch
from comparing import assert_close, check_conv, conv_backward_arguments, double, run_conv
from drawing import any_conv, channels_last, parameters, sized_conv
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dcls_ops import reference
from dcls_ops._versions import METHODS, VERSIONS

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)

# Fixtures here hold no state that an example could change.
draws = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(case=any_conv(methods=METHODS))
@draws
def test_conv(cuda_on_cpu, unwritten_is_nan, case):
    check_conv(cuda_on_cpu.ops, case)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("version", VERSIONS)
def test_conv_in_other_dtypes(cuda_on_cpu, method, version, dtype):
    case = sized_conv((2, 4, 11, 9), (5, 4), groups=2, version=version, method=method, stride=(1, 2), padding=(2, 1))
    parameters = {name: getattr(case, name) for name in ("weight", "positions", "sigma")}
    case = case._replace(
        **{name: t.float() if t is not None else None for name, t in parameters.items()},
        input=case.input.to(dtype),
        bias=case.bias.float(),
    )
    check_conv(cuda_on_cpu.ops, case)


@pytest.mark.parametrize("method", METHODS[1:])
def test_backward_inside_autocast(cuda_on_cpu, method):
    # Matrix products and convolutions inside the operators must not be cast.
    case = sized_conv((2, 4, 9, 8), (5, 3), method=method, groups=2, dtype=torch.float32)
    arguments = (*conv_backward_arguments(case, torch.randn(2, 4, 5, 6)), [True] * 5)
    expected = cuda_on_cpu.ops.conv_backward(*arguments)
    with torch.autocast("cpu", torch.bfloat16):
        assert same_bits(cuda_on_cpu.ops.conv_backward(*arguments), expected)


# Shapes at the edges of tiles, blocks of taps, chunks and warps.
CONV_EDGES = {
    "one_pixel": {"input": (1, 1, 1, 1), "kernel_size": (1, 1), "kernel_count": 1, "out_channels": 1},
    "one_element": {"input": (2, 3, 7), "kernel_size": (5,), "kernel_count": 1},
    "no_image": {"input": (0, 3, 7, 6), "kernel_size": (3, 2)},
    "stride_3": {"input": (2, 2, 17, 19), "kernel_size": (5, 7), "stride": (3, 3), "padding": (3, 4)},
    "stride_beyond_the_kernel": {"input": (1, 2, 23, 20), "kernel_size": (2, 3), "stride": (5, 7), "padding": (1, 4)},
    "padding_beyond_the_kernel": {"input": (1, 2, 3, 4), "kernel_size": (2, 3), "padding": (5, 6)},
    "more_than_a_tile": {"input": (1, 2, 21, 70), "kernel_size": (4, 5), "padding": (2, 2)},
    "more_than_a_block_of_channels": {"input": (1, 9, 6, 5), "kernel_size": (3, 3), "out_channels": 9},
    "kernel_wider_than_a_tile": {"input": (1, 1, 2, 700), "kernel_size": (1, 601), "kernel_count": 7},
    "kernel_in_blocks_of_taps": {"input": (1, 1, 130, 120), "kernel_size": (97, 101), "kernel_count": 2},
    "many_images": {"input": (9, 1, 6, 5), "kernel_size": (3, 3), "out_channels": 2, "kernel_count": 2},
    "one_axis": {"input": (3, 4, 1100), "kernel_size": (25,), "groups": 2, "padding": (24,)},
    "three_axes": {"input": (2, 2, 5, 9, 36), "kernel_size": (3, 5, 7), "padding": (1, 2, 3), "stride": (1, 2, 1)},
    "depthwise": {"input": (3, 5, 14, 14), "kernel_size": (17, 17), "groups": 5, "out_channels": 5, "padding": (8, 8)},
    "channels_last": {"input": (2, 6, 10, 9), "kernel_size": (7, 7), "groups": 6, "out_channels": 12,
                      "padding": (3, 3), "layout": channels_last},
}  # fmt: skip


@pytest.mark.parametrize("method", METHODS[1:])
@pytest.mark.parametrize("edge", CONV_EDGES)
def test_conv_edges(cuda_on_cpu, unwritten_is_nan, edge, method):
    check_conv(cuda_on_cpu.ops, sized_conv(method=method, **CONV_EDGES[edge]))


CONSTRUCT_EDGES = [(1,), (5,), (3000,), (17, 17), (1, 40), (40, 1), (45, 47), (1, 2000), (3, 2, 4), (2, 3, 300)]


@pytest.mark.parametrize("shared", [False, True], ids=["per_filter", "shared"])
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kernel_size", CONSTRUCT_EDGES, ids=str)
def test_construct_kernel_edges(cuda_on_cpu, unwritten_is_nan, kernel_size, version, shared):
    check_construct_kernel(cuda_on_cpu.ops, parameters(version, kernel_size, shared=shared))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("version", VERSIONS)
def test_construct_kernel_of_many_elements(cuda_on_cpu, version, dtype):
    # More than a block tabulates at once.
    p = parameters(version, (33, 31), out_channels=1, in_channels=2, kernel_count=150)
    check_construct_kernel(cuda_on_cpu.ops, p.to(dtype))


def check_construct_kernel(ops, p):
    expected = reference.construct_kernel(*double(p))
    grad = torch.randn_like(expected).to(p.weight.dtype)
    arguments = (grad, p.weight, p.positions, p.sigma, p.version)
    results = (ops.construct_kernel(*p), *ops.construct_kernel_backward(*arguments, [True] * 3))
    assert_close(results, (expected, *reference.construct_kernel_backward(*double(arguments))), p.weight.dtype)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e30])
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("method", METHODS)
def test_positions_that_are_no_places(cuda_on_cpu, version, method, bad):
    case = sized_conv((1, 2, 9, 8), (4, 5), version=version, method=method, padding=(1, 1))
    case.positions[1, 0, 0, 1] = bad
    output, *_ = run_conv(cuda_on_cpu.ops, case, torch.ones(1, 4, 8, 6, dtype=torch.float64))
    torch.testing.assert_close(output, reference.conv(*case), equal_nan=True)


def depthwise_arguments(input, kernel, *, multiplier=1, stride=(1, 1), padding=(0, 0), channels_last=False,
                        dtype=torch.float64):  # fmt: skip
    image = torch.randn(input).to(dtype)
    if channels_last:
        image = image.contiguous(memory_format=torch.channels_last)
    channels = input[1] * multiplier
    return image, torch.randn(channels, 1, *kernel).to(dtype), torch.randn(channels).to(dtype), stride, padding


def check_depthwise(ops, input, kernel, bias, stride, padding, channels_last=False):
    name = f"depthwise_conv{kernel.dim() - 2}d"
    expected = reference.depthwise_conv(*double((input, kernel, bias)), stride, padding)
    grad = torch.randn_like(expected).to(input.dtype)
    output = getattr(ops, name)(input, kernel, bias, stride, padding)
    grads = getattr(ops, f"{name}_backward")(grad, input, kernel, stride, padding, [True] * 3)
    expected_grads = reference.depthwise_conv_backward(*double((grad, input, kernel)), stride, padding)
    assert_close((output, *grads), (expected, *expected_grads), input.dtype)
    memory_format = torch.channels_last if channels_last and input.shape[1] > 1 else torch.contiguous_format
    assert output.is_contiguous(memory_format=memory_format)
    assert grads[0].is_contiguous(memory_format=memory_format)


DEPTHWISE_EDGES = {
    "one_pixel": {"input": (1, 1, 1, 1), "kernel": (1, 1)},
    "no_image": {"input": (0, 3, 5, 5), "kernel": (3, 3)},
    "7x7_map": {"input": (9, 3, 7, 7), "kernel": (17, 17), "padding": (8, 8)},
    "14x14_map": {"input": (2, 5, 14, 14), "kernel": (17, 17), "padding": (8, 8)},
    "56x56_map": {"input": (2, 2, 56, 56), "kernel": (17, 17), "padding": (8, 8)},
    "31x31_kernel": {"input": (1, 2, 33, 20), "kernel": (31, 31), "padding": (15, 15)},
    "even_kernel": {"input": (2, 3, 13, 11), "kernel": (4, 6), "padding": (1, 3)},
    "kernel_in_blocks_of_taps": {"input": (1, 2, 70, 75), "kernel": (65, 67), "padding": (3, 0)},
    "flat": {"input": (2, 3, 1, 90), "kernel": (1, 9), "padding": (0, 4)},
    "tall": {"input": (2, 3, 90, 1), "kernel": (9, 1), "padding": (4, 0)},
    "stride_2": {"input": (2, 3, 20, 21), "kernel": (7, 8), "stride": (2, 2), "padding": (3, 3)},
    "stride_3": {"input": (2, 3, 23, 20), "kernel": (5, 7), "stride": (3, 3), "padding": (2, 1)},
    "strides_of_two_kinds": {"input": (2, 3, 23, 20), "kernel": (5, 2), "stride": (1, 3), "padding": (0, 1)},
    "stride_beyond_the_kernel": {"input": (2, 3, 23, 20), "kernel": (2, 3), "stride": (5, 4), "padding": (2, 7)},
    "stride_beyond_the_kernel_in_rows": {"input": (1, 2, 23, 20), "kernel": (2, 5), "stride": (3, 1)},
    "stride_beyond_the_input": {"input": (1, 2, 6, 7), "kernel": (3, 3), "stride": (20, 9), "padding": (1, 1)},
    "padding_beyond_the_kernel": {"input": (1, 4, 6, 7), "kernel": (2, 2), "padding": (9, 4)},
    "33_taps_in_a_row": {"input": (2, 3, 9, 16), "kernel": (3, 33), "padding": (1, 16)},
    "padding_far_beyond_the_kernel": {"input": (2, 3, 5, 9), "kernel": (3, 4), "padding": (2, 29)},
    "multiplier": {"input": (2, 3, 9, 8), "kernel": (5, 3), "multiplier": 3, "stride": (2, 1), "padding": (2, 1)},
    "many_channels": {"input": (2, 41, 8, 8), "kernel": (7, 7), "padding": (3, 3)},
    "many_images": {"input": (7, 3, 8, 9), "kernel": (3, 4), "padding": (1, 1)},
}


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("edge", DEPTHWISE_EDGES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_depthwise_edges(cuda_on_cpu, unwritten_is_nan, dtype, edge, channels_last):
    arguments = depthwise_arguments(**DEPTHWISE_EDGES[edge], channels_last=channels_last, dtype=dtype)
    check_depthwise(cuda_on_cpu.ops, *arguments, channels_last)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
def test_depthwise_in_other_dtypes(cuda_on_cpu, dtype, channels_last):
    arguments = {"input": (3, 5, 15, 14), "kernel": (9, 10), "stride": (1, 2), "padding": (4, 5)}
    drawn = depthwise_arguments(**arguments, dtype=dtype, channels_last=channels_last)
    check_depthwise(cuda_on_cpu.ops, *drawn, channels_last)


@pytest.mark.parametrize("axes", [1, 3])
@pytest.mark.parametrize("multiplier", [1, 2])
@pytest.mark.parametrize("batched", [True, False])
def test_depthwise_along_one_and_three_axes(cuda_on_cpu, axes, multiplier, batched):
    input, *rest = depthwise_arguments((2, 3, 11, 9, 8)[: axes + 2], (5, 4, 3)[:axes], multiplier=multiplier,
                                       stride=(2, 1, 1)[:axes], padding=(1, 2, 0)[:axes])  # fmt: skip
    check_depthwise(cuda_on_cpu.ops, input if batched else input[0], *rest)
    backward = getattr(cuda_on_cpu.ops, f"depthwise_conv{axes}d_backward")
    kernel, _, stride, padding = rest
    grad = reference.depthwise_conv(input, *rest)
    every = backward(grad, input, kernel, stride, padding, [True] * 3)
    for index, expected in enumerate(every):
        grads = backward(grad, input, kernel, stride, padding, [index == other for other in range(3)])
        assert [gradient.numel() > 0 for gradient in grads] == [index == other for other in range(3)]
        torch.testing.assert_close(grads[index], expected)


@given(
    sizes=st.tuples(*[st.integers(1, 40)] * 2),
    kernel=st.tuples(*[st.integers(1, 35)] * 2),
    stride=st.tuples(*[st.integers(1, 5)] * 2),
    padding=st.tuples(*[st.integers(0, 20)] * 2),
    others=st.tuples(st.integers(0, 4), st.integers(1, 5), st.integers(1, 3), st.booleans(), st.integers(0, 2**32)),
    dtype=st.sampled_from([torch.float64, torch.float16]),
)
@draws
def test_depthwise(cuda_on_cpu, unwritten_is_nan, sizes, kernel, stride, padding, others, dtype):
    images, channels, multiplier, channels_last, seed = others
    torch.manual_seed(seed)
    kernel = [min(k, size + 2 * pad) for k, size, pad in zip(kernel, sizes, padding, strict=True)]
    arguments = depthwise_arguments((images, channels, *sizes), kernel, multiplier=multiplier, stride=stride,
                                    padding=padding, channels_last=channels_last, dtype=dtype)  # fmt: skip
    check_depthwise(cuda_on_cpu.ops, *arguments, channels_last)


@pytest.mark.parametrize("method", METHODS[1:])
def test_gradients_of_parameters_are_not_rounded_to_float16(cuda_on_cpu, method):
    # Sums over images and pixels exceed float16, and parameters are float32.
    case = sized_conv((40, 2, 48, 48), (7, 7), groups=2, out_channels=2, version="gauss", method=method, padding=(3, 3),
                     dtype=torch.float32, kernel_count=1)._replace(input=torch.ones(40, 2, 48, 48).half())  # fmt: skip
    grad = torch.ones_like(case.input)
    expected = reference.conv_backward(*double(conv_backward_arguments(case, grad)))
    actual = cuda_on_cpu.ops.conv_backward(*conv_backward_arguments(case, grad), [False, True, True, True, False])
    assert expected[1].abs().max() > torch.finfo(torch.float16).max
    assert_close(actual[1:4], expected[1:4], torch.float16)


@pytest.mark.parametrize("axes", [2, 3])
def test_direct_where_a_tile_would_read_more_than_64_bits_count(cuda_on_cpu, axes):
    case = sized_conv((1,) * (axes + 2), (1,) * axes, method="direct", kernel_count=1, out_channels=1, version="v0",
                     stride=(2**30 - 1,) * axes, padding=(3 * 2**28,) * axes)  # fmt: skip
    torch.testing.assert_close(getattr(cuda_on_cpu.ops, f"conv{axes}d")(*case), reference.conv(*case))


@pytest.mark.parametrize("infinite", [float("inf"), float("nan")])
def test_depthwise_taps_meet_only_their_inputs(cuda_on_cpu, infinite):
    # An infinite input shows where a tap meets it, and nowhere else.
    input, kernel, *rest = depthwise_arguments((1, 1, 12, 13), (5, 5))
    input[0, 0, 0, 12] = infinite
    expected = reference.depthwise_conv2d(input, kernel, *rest)
    torch.testing.assert_close(cuda_on_cpu.ops.depthwise_conv2d(input, kernel, *rest), expected, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_depthwise_passes_over_rows_of_padding(cuda_on_cpu, dtype):
    # An infinite tap does not meet the zeros there.
    kernel = torch.randn(1, 1, 5, 5, dtype=dtype)
    kernel[0, 0, 0, 2] = torch.inf
    output = cuda_on_cpu.ops.depthwise_conv2d(torch.randn(1, 1, 9, 9, dtype=dtype), kernel, padding=[2, 2])
    assert output[..., :2, :].isfinite().all()
    assert not output[..., 2:, :].isfinite().any()


SCHEDULES = [{"order": 1}, {"order": 2}, {"order": 3}, {"most_blocks": 1}, {"order": 4, "most_blocks": 3}]


def runs(ops):
    """Each kernel on a shape of several blocks, threads without work among them: name, run."""
    for method, layout in itertools.product(METHODS[1:], (torch.clone, channels_last)):
        case = sized_conv((3, 6, 19, 21), (5, 4), version="gauss", method=method, groups=2, padding=(2, 1),
                         layout=layout, dtype=torch.float32)  # fmt: skip
        grad = torch.randn(3, 4, 19, 20)
        yield f"{method} {layout.__name__}", lambda case=case, grad=grad: run_conv(ops, case, grad)
    p = parameters("gauss", (9, 40), dtype=torch.float32)
    grad = torch.randn(4, 2, 9, 40)
    yield (
        "construct_kernel",
        lambda: (
            ops.construct_kernel(*p),
            *ops.construct_kernel_backward(grad, p.weight, p.positions, p.sigma, p.version, [True] * 3),
        ),
    )
    for is_channels_last in (False, True):
        input, kernel, bias, *rest = depthwise_arguments(
            (5, 9, 19, 50), (7, 8), padding=(3, 3), channels_last=is_channels_last, dtype=torch.float32
        )
        output = torch.randn(5, 9, 19, 49)
        yield (
            f"depthwise {is_channels_last}",
            lambda a=(input, kernel), b=bias, r=rest, g=output: (
                ops.depthwise_conv2d(*a, b, *r),
                *ops.depthwise_conv2d_backward(g, *a, *r, [True] * 3),
            ),
        )


def same_bits(results, expected):
    return all(torch.equal(a, e) for a, e in zip(results, expected, strict=True))


def test_same_bits_in_any_order_and_grid(cuda_on_cpu):
    for name, run in runs(cuda_on_cpu.ops):
        cuda_on_cpu.settings()
        expected = run()
        for schedule in SCHEDULES:
            cuda_on_cpu.settings(**schedule)
            assert same_bits(run(), expected), (name, schedule)


def test_kernels_need_their_barriers(cuda_on_cpu):
    # So the test above would see one that is missing.
    for name, run in runs(cuda_on_cpu.ops):
        cuda_on_cpu.settings()
        expected = run()
        cuda_on_cpu.settings(has_barriers=False)
        # Interpolating columns shares nothing between threads.
        assert same_bits(run(), expected) == name.startswith("im2col"), name


def backward_calls():
    """Name, arguments but for output_mask, and its length."""
    grad = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    for method in METHODS[1:]:
        case = sized_conv((2, 4, 9, 8), (5, 3), version="gauss", method=method, groups=2)
        yield "conv_backward", conv_backward_arguments(case, grad), 5
    p = parameters("gauss", (5, 3))
    grad_kernel = torch.randn(4, 2, 5, 3, dtype=torch.float64)
    yield "construct_kernel_backward", (grad_kernel, p.weight, p.positions, p.sigma, "gauss"), 3
    input, kernel, *_ = depthwise_arguments((2, 4, 9, 8), (5, 3))
    yield "depthwise_conv2d_backward", (grad, input, kernel, [1, 1], [0, 0]), 3


def test_computes_only_the_gradients_asked_for(cuda_on_cpu):
    for operator, arguments, count in backward_calls():
        op = getattr(cuda_on_cpu.ops, operator)
        everything = op(*arguments, [True] * count)
        for wanted in range(count):
            results = op(*arguments, [index == wanted for index in range(count)])
            for index, result in enumerate(results):
                assert torch.equal(result, everything[index]) if index == wanted else result.shape == (0,)


def test_more_blocks_than_the_second_axis_of_a_grid_has(cuda_on_cpu):
    input, kernel = torch.randn(1, 66000, 1, 2), torch.randn(66000, 1, 1, 1)
    assert torch.equal(cuda_on_cpu.ops.depthwise_conv2d(input, kernel), input * kernel[:, 0])
