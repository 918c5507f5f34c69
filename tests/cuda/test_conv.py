import itertools
import math

import pytest
import torch
from comparing import conv_backward_arguments
from drawing import AXES, ROUTES, Conv, any_conv, channels_last, conv, parameters, sized_conv
from gpu import GPU, assert_agrees, call, on_a_grid, opcheck_backward, to_gpu
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.library import opcheck

from dcls_ops import reference
from dcls_ops._versions import METHODS, VERSIONS

conv_backward = torch.ops.dcls.conv_backward.default

HALF_TYPES = (torch.float16, torch.bfloat16)

every_case = pytest.mark.parametrize(("version", "axes", "route"), list(itertools.product(VERSIONS, AXES, ROUTES)))
every_route = pytest.mark.parametrize("route", ROUTES)


def on_gpu(case: Conv, dtype: torch.dtype, parameter_dtype: torch.dtype | None = None) -> Conv:
    moved = case.replace_tensors(to_gpu(tensor, parameter_dtype or dtype) for tensor in case.tensors)
    return moved._replace(input=to_gpu(case.input, dtype))


@settings(max_examples=300)
@given(any_conv(), st.sampled_from([torch.float64, torch.float32]))
def test_agrees_with_the_reference(case, dtype):
    if dtype == torch.float32:
        case = on_a_grid(case)
    assert_agrees(call(on_gpu(case, dtype)))


@every_case
@pytest.mark.parametrize("dtype", HALF_TYPES)
@pytest.mark.parametrize("half_parameters", [False, True])
def test_half_types(version, axes, route, dtype, half_parameters):
    case = on_a_grid(conv(version, axes, **ROUTES[route]))
    assert_agrees(call(on_gpu(case, dtype, dtype if half_parameters else torch.float32)))


LAYOUTS = {
    "channels_last": channels_last,
    "channels_of_channels_last": lambda x: channels_last(torch.cat([x, x], 1))[:, : x.shape[1]],
    "columns_of_channels_last": lambda x: channels_last(x.repeat_interleave(2, -1))[..., ::2],
    "sliced": lambda x: x.repeat_interleave(2, -1)[..., ::2],
    "reversed": lambda x: x.movedim((0, 1, 2, 3), (3, 2, 1, 0)).contiguous().movedim((0, 1, 2, 3), (3, 2, 1, 0)),
    "unbatched": lambda x: x[0],
    "empty": lambda x: x[:0],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@every_route
def test_layouts_of_the_input(layout, dtype, route):
    case = on_a_grid(conv("v1", 2, **ROUTES[route]))
    case = on_gpu(case._replace(input=LAYOUTS[layout](case.input)), dtype, torch.float32)
    assert_agrees(call(case))
    output = case.op(*case)
    if "channels_last" in layout:
        assert output.is_contiguous(memory_format=torch.channels_last)
    else:
        assert output.is_contiguous()


# What autograd may hand to a backward operator.
GRADS = {
    "channels_last": channels_last,
    "sliced": lambda grad: grad.repeat_interleave(2, -1)[..., ::2],
    "transposed": lambda grad: grad.mT.contiguous().mT,
    "expanded": lambda grad: grad[:1, :1, :1, :1].expand_as(grad),
}


@pytest.mark.parametrize("grad", GRADS)
@pytest.mark.parametrize("layout", [lambda x: x, channels_last], ids=["contiguous", "channels_last"])
@every_route
def test_layouts_of_the_gradient(grad, layout, route):
    case = on_a_grid(conv("v1", 2, **ROUTES[route]))
    assert_agrees(call(on_gpu(case._replace(input=layout(case.input)), torch.float32)), GRADS[grad])


@pytest.mark.parametrize(
    ("input", "out_channels", "groups", "kernel_size", "stride"),
    [
        ((8, 300, 16, 16), 4, 1, (5, 7), (1, 1)),  # columns in several tiles
        ((70, 40, 30, 30), 6, 2, (4, 3), (1, 1)),
        ((20, 64, 28, 28), 64, 64, (9, 9), (1, 1)),
        ((1, 3, 4, 3000), 5, 1, (3, 9), (1, 1)),
        ((2, 3, 70, 41), 5, 1, (9, 9), (3, 2)),  # steps larger than the reach of an element
        ((2, 4, 7001), 4, 4, (25,), (2,)),
        ((2, 2, 9, 24, 30), 3, 1, (3, 5, 4), (1, 2, 1)),
        ((3, 12, 28, 28), 12, 12, (17, 17), (1, 1)),
        ((2, 2, 5, 7), 3, 1, (80, 101), (1, 1)),  # far more taps than pixels
        ((1, 2, 1, 1), 2, 1, (1, 1), (1, 1)),
        ((2, 1, 6000), 2, 1, (9000,), (1,)),
    ],
    ids=str,
)
@pytest.mark.parametrize("method", ["auto", "direct", "im2col"])
@pytest.mark.parametrize("version", ["v1", "gauss"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_more_than_one_block(input, out_channels, groups, kernel_size, stride, method, version, dtype):
    case = sized_conv(
        input,
        kernel_size,
        version=version,
        method=method,
        out_channels=out_channels,
        groups=groups,
        kernel_count=9,
        stride=stride,
        padding="half",
    )
    assert_agrees(call(on_gpu(on_a_grid(case), dtype)))


# The second and third extent of a grid may not exceed 65535.
MANY = 70_000


@pytest.mark.parametrize("route", [route for route in ROUTES if not route.startswith("construct")])
def test_many_images(route):
    case = conv("v1", 2, **ROUTES[route])
    case = case._replace(input=torch.randn(MANY, 4, 4, 3), kernel_size=(3, 2), padding=(1, 0), stride=(1, 1))
    assert_agrees(call(on_gpu(on_a_grid(case), torch.float32)))


@pytest.mark.parametrize("route", METHODS[1:])
def test_many_channels(route):
    """With a kernel for each channel, of which some are looked at: they do not depend on each other."""
    options = ROUTES[route]
    kernel = parameters("v1", (7, 7), out_channels=MANY, in_channels=1, kernel_count=2, shared="shared" in options)
    input, bias = torch.randn(1, MANY, 3, 4), torch.randn(MANY)
    method = options.get("method", "construct")
    case = on_a_grid(Conv(input, *kernel[:4], bias, (1, 1), (3, 3), MANY, "v1", method))
    of_all = call(on_gpu(case, torch.float32)).results()

    looked_at = [0, 1, 65_534, 65_535, 65_536, MANY - 1]
    positions = case.positions if "shared" in options else case.positions[:, looked_at]
    some = case._replace(
        input=input[:, looked_at], weight=case.weight[looked_at], positions=positions, bias=bias[looked_at], groups=6
    )
    of_some = call(on_gpu(some, torch.float32))
    assert_agrees(of_some)
    output, grad_input, grad_weight, grad_positions, grad_bias = of_all
    everything = (output[:, looked_at], grad_input[:, looked_at], grad_weight[looked_at], grad_bias[looked_at])
    output, grad_input, grad_weight, small_grad_positions, grad_bias = of_some.results()
    torch.testing.assert_close(everything, (output, grad_input, grad_weight, grad_bias), rtol=1e-5, atol=1e-4)
    if "shared" not in options:
        torch.testing.assert_close(grad_positions[:, looked_at], small_grad_positions, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("wanted", range(5))
@pytest.mark.parametrize("version", ["v1", "gauss"])
@every_route
def test_computes_only_the_gradients_asked_for(version, wanted, route):
    case = on_gpu(conv(version, 2, **ROUTES[route]), torch.float64)
    grad = torch.randn_like(case.op(*case))
    everything = conv_backward(*conv_backward_arguments(case, grad, [True] * 5))
    mask = [index == wanted for index in range(5)]
    alone = conv_backward(*conv_backward_arguments(case, grad, mask))
    for result, expected, ask in zip(alone, everything, mask, strict=True):
        if not ask:
            assert result.shape == (0,)
        else:
            # Methods but "construct" do the same sums; PyTorch's convolutions may choose another algorithm.
            tolerance = 1e-12 if "construct" in route else 0
            torch.testing.assert_close(result, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("bad", [math.inf, -math.inf, 1e30, -1e30])
@pytest.mark.parametrize("version", VERSIONS)
@every_route
def test_positions_that_are_no_places(version, bad, route):
    case = conv(version, 2, **ROUTES[route])
    case.positions[1, 0, 0, 1] = bad
    output, *gradients = call(on_gpu(case, torch.float64)).results()
    torch.testing.assert_close(output.cpu(), reference.conv(*case), rtol=1e-9, atol=1e-9)
    assert all(gradient.device == GPU for gradient in gradients)  # whatever they are, they are there


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("method", ["construct", "direct"])
def test_a_position_that_is_no_number_spoils_its_own_channel_only(version, method):
    case = conv(version, 2, method=method)
    expected = on_gpu(case, torch.float64)
    expected_gradients = call(expected).results()
    case.positions[0, 0, 0, 1] = math.nan
    actual = call(on_gpu(case, torch.float64)).results()
    for a, e, axis in ((actual[0], expected_gradients[0], 1), (actual[2], expected_gradients[2], 0)):
        torch.testing.assert_close(a.narrow(axis, 1, 3), e.narrow(axis, 1, 3), rtol=1e-9, atol=1e-9)
    assert actual[0][:, 0].isnan().any()


# cuDNN adds up some gradients in any order; what gradcheck is told with nondet_tol.
IN_ANY_ORDER = 1e-10


@pytest.mark.parametrize("version", ["v1", "gauss"])
@pytest.mark.parametrize("axes", AXES)
@every_route
def test_gradcheck_and_gradgradcheck(version, axes, route):
    case = on_gpu(conv(version, axes, **ROUTES[route]), torch.float64).leaves()
    # One image of four columns keeps the numerical Jacobian small.
    case = case._replace(input=case.input.detach()[:1, ..., :4].requires_grad_())

    def run(*tensors):
        return case.op(*case.replace_tensors(tensors))

    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(run, case.tensors, fast_mode=True, nondet_tol=IN_ANY_ORDER)


@pytest.mark.parametrize("version", ["v1", "gauss"])
@pytest.mark.parametrize("axes", AXES)
@every_route
def test_opcheck(version, axes, route):
    case = on_gpu(conv(version, axes, **ROUTES[route]), torch.float64)
    grad = torch.randn_like(case.op(*case))
    opcheck(case.op, case.leaves())
    opcheck_backward(conv_backward, conv_backward_arguments(case, grad, [True] * 5))


@pytest.mark.parametrize("layout", ["channels_last", "sliced", "unbatched", "empty"])
@every_route
def test_opcheck_of_other_inputs(layout, route):
    case = conv("gauss", 2, **ROUTES[route])
    case = on_gpu(case._replace(input=LAYOUTS[layout](case.input)), torch.bfloat16, torch.float32)
    opcheck(case.op, case.replace_tensors(tensor.requires_grad_() for tensor in case.tensors))
