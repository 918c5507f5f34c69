import functools
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from comparing import assert_vmap_is_a_loop, assert_within, conv_backward_arguments, num_threads
from drawing import AXES, ROUTES, Conv, any_conv, conv, parameters, sized_conv
from hypothesis import given
from hypothesis import strategies as st
from torch.library import opcheck
from torch.utils._python_dispatch import TorchDispatchMode

from dcls_ops import reference
from dcls_ops._versions import VERSIONS

conv_backward = torch.ops.dcls.conv_backward.default

every_case = pytest.mark.parametrize(("version", "axes", "route"), list(itertools.product(VERSIONS, AXES, ROUTES)))
every_route = pytest.mark.parametrize("route", ROUTES)
# The routes whose convolution is our own, too.
every_route_of_ours = pytest.mark.parametrize("route", ["direct", "direct_shared", "direct_partly_dense", "im2col"])


@given(any_conv())
def test_agrees_with_the_reference(case):
    expected_case, case = case.leaves(), case.leaves()
    expected, output = reference.conv(*expected_case), case.op(*case)
    torch.testing.assert_close(output, expected, rtol=1e-9, atol=1e-9)
    grad = torch.randn_like(expected)
    expected_grads = torch.autograd.grad(expected, expected_case.tensors, grad)
    grads = torch.autograd.grad(output, case.tensors, grad)
    torch.testing.assert_close(grads, expected_grads, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("input", "out_channels", "groups", "kernel_size", "stride"),
    [
        ((1, 300, 12, 12), 4, 1, (5, 7), (1, 1)),  # in channels in several blocks
        ((1, 3, 4, 3000), 4, 1, (3, 9), (1, 1)),  # parts of rows
        ((70, 4, 5, 5), 6, 2, (4, 3), (1, 1)),  # several images a tile, and chunks of images
        ((2, 3, 70, 41), 5, 1, (9, 9), (3, 2)),  # parts of images, steps larger than the reach of an element
        ((3, 2, 100, 60), 1, 1, (3, 6), (1, 1)),  # an image a tile
        ((2, 4, 7001), 4, 4, (25,), (2,)),
        ((1, 2, 20003), 3, 1, (25,), (1,)),  # parts of rows of one axis
        ((2, 40, 30), 33, 1, (1,), (1,)),  # out channels in several blocks, a single tap
        ((2, 2, 9, 24, 30), 3, 1, (3, 5, 4), (1, 2, 1)),
    ],
    ids=str,
)
@pytest.mark.parametrize("version", ["v0", "max", "gauss"])
@pytest.mark.parametrize("method", ["direct", "im2col"])
def test_more_than_one_tile(input, out_channels, groups, kernel_size, stride, version, method):
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
    ).leaves()
    torch.testing.assert_close(everything(case), everything(case, reference.conv), rtol=1e-9, atol=1e-9)


@given(any_conv(versions=("v0",), methods=("construct", "direct")), st.sampled_from([torch.float32, torch.float64]))
def test_integer_positions_are_an_ordinary_convolution(case, dtype):
    case = case.leaves(dtype)._replace(positions=case.positions.round().to(dtype))
    out_channels, in_channels, *dense, _ = case.weight.shape
    learned = case.kernel_size[len(dense) :]
    kernel = torch.zeros(out_channels, in_channels, *case.kernel_size, dtype=dtype)
    for o, i, *rest in itertools.product(*map(range, case.weight.shape)):
        at = case.positions[(slice(None), o if case.positions.shape[1] > 1 else 0, i, *rest)].int().tolist()
        taps = [p + extent // 2 for p, extent in zip(at, learned, strict=True)]
        if all(0 <= tap < extent for tap, extent in zip(taps, learned, strict=True)):
            kernel[(o, i, *rest[:-1], *taps)] += case.weight[(o, i, *rest)].detach()
    convolution = (F.conv1d, F.conv2d, F.conv3d)[len(case.kernel_size) - 1]
    expected = convolution(case.input, kernel, case.bias, case.stride, case.padding, 1, case.groups)
    is_depthwise = in_channels == 1 and case.groups == out_channels
    if case.method == "construct" and not is_depthwise:  # of which we have a kernel of our own
        assert torch.equal(case.op(*case), expected)
    else:
        torch.testing.assert_close(case.op(*case), expected)


@every_case
def test_gradcheck_and_gradgradcheck(version, axes, route):
    case = conv(version, axes, requires_grad=True, **ROUTES[route])
    # One image of four columns keeps the numerical Jacobian small.
    case = case._replace(input=case.input.detach()[:1, ..., :4].requires_grad_())

    def run(*tensors):
        replaced = case.replace_tensors(tensors)
        return case.op(*replaced)

    assert torch.autograd.gradcheck(run, case.tensors, fast_mode=axes == 3)
    # Twice differentiated, every route is the reference: one of them is checked entry by entry.
    assert torch.autograd.gradgradcheck(run, case.tensors, fast_mode=axes > 1 or route != "construct")


@pytest.mark.parametrize("version", ["v1", "gauss"])  # without sigma, and with
@pytest.mark.parametrize("axes", AXES)
@every_route
@pytest.mark.parametrize("requires_grad", [False, True], ids=["no_grad", "grad"])
def test_opcheck(version, axes, route, requires_grad):
    case = conv(version, axes, requires_grad=requires_grad, **ROUTES[route])
    opcheck(case.op, case)
    with torch.no_grad():
        grad = torch.randn_like(case.op(*case))
    opcheck(conv_backward, conv_backward_arguments(case, grad.requires_grad_(requires_grad), [True] * 5))


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.bfloat16(),
        lambda x: x.contiguous(memory_format=torch.channels_last),
        lambda x: x[:, :, :, ::2],
        lambda x: x[0],
        lambda x: x[:0],
    ],
    ids=["bfloat16", "channels_last", "sliced", "unbatched", "empty"],
)
@every_route
def test_opcheck_of_other_inputs(change, route):
    case = conv("gauss", 2, dtype=torch.float32, requires_grad=True, **ROUTES[route])
    case = case._replace(input=change(case.input.detach()).requires_grad_(), kernel_size=(4, 2), padding=(1, 0))
    opcheck(case.op, case)


class Calls(TorchDispatchMode):
    """Records the output_mask of every backward operator that is called."""

    def __init__(self):
        super().__init__()
        self.masks = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.name() in ("dcls::conv_backward", "dcls::construct_kernel_backward"):
            self.masks.append(list(args[-1]))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("trained", ["input", "weight", "positions", "sigma", "bias"])
def test_autograd_asks_only_for_the_gradients_it_needs(trained):
    case = conv("gauss", 2)
    getattr(case, trained).requires_grad_()
    with Calls() as calls:
        case.op(*case).sum().backward()
        if trained in ("weight", "positions", "sigma"):
            torch.ops.dcls.construct_kernel(*case[1:5], "gauss").sum().backward()
    order = ["input", "weight", "positions", "sigma", "bias"]
    expected = [name == trained for name in order]
    assert calls.masks == [expected, expected[1:4]][: len(calls.masks)]
    assert len(calls.masks) == 1 + (trained in order[1:4])


@pytest.mark.parametrize("wanted", range(5))
@pytest.mark.parametrize("version", ["v1", "gauss"])
@every_route
def test_computes_only_the_gradients_asked_for(version, wanted, route):
    case = conv(version, 2, **ROUTES[route])
    grad = torch.randn_like(case.op(*case))
    everything = conv_backward(*conv_backward_arguments(case, grad, [True] * 5))
    mask = [index == wanted for index in range(5)]
    arguments = conv_backward_arguments(case, grad, mask)
    for result, expected, ask in zip(conv_backward(*arguments), everything, mask, strict=True):
        assert torch.equal(result, expected) if ask else (result.shape, result.dtype) == ((0,), expected.dtype)
    opcheck(conv_backward, arguments, test_utils="test_schema")  # no result is another one


@every_route
def test_keeps_its_inputs_only(route):
    case = conv("gauss", 2, requires_grad=True, **ROUTES[route])
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        case.op(*case)
    assert {t.data_ptr() for t in kept} == {t.data_ptr() for t in case.tensors}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("axes", AXES)
@every_route
def test_half_inputs_with_float32_parameters(axes, dtype, route):
    case = conv("gauss", axes, dtype=torch.float32, requires_grad=True, **ROUTES[route])
    case = case._replace(input=case.input.detach().to(dtype).requires_grad_())
    output = case.op(*case)
    assert output.dtype == dtype
    output.float().sum().backward()
    wide = case.leaves(torch.float64)
    wide_output = wide.op(*wide)
    wide_output.sum().backward()
    assert_within(output, wide_output, 0.02, least=0)
    for tensor, wide_tensor in zip(case.tensors, wide.tensors, strict=True):
        assert tensor.grad.dtype == tensor.dtype
        assert_within(tensor.grad, wide_tensor.grad, 0.03, least=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_construct_rounds_the_kernel_once(dtype):
    case = conv("gauss", 2, dtype=torch.float32)
    input = case.input.to(dtype)
    kernel = torch.ops.dcls.construct_kernel(*case[1:5], case.version).to(dtype)
    expected = F.conv2d(input, kernel, case.bias.to(dtype), case.stride, case.padding, 1, case.groups)
    assert torch.equal(case.op(input, *case[1:]), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@every_route_of_ours
def test_results_are_rounded_once(dtype, route):
    case = conv("gauss", 2, dtype=torch.float32, **ROUTES[route])
    input = case.input.to(dtype)
    output = case.op(input, *case[1:])
    assert torch.equal(output, case.op(input.float(), *case[1:]).to(dtype))
    grads = conv_backward(*conv_backward_arguments(case._replace(input=input), output, [True] * 5))
    wide_grads = conv_backward(*conv_backward_arguments(case._replace(input=input.float()), output.float(), [True] * 5))
    for grad, wide_grad in zip(grads, wide_grads, strict=True):
        assert torch.equal(grad, wide_grad.to(grad.dtype))


WILD_PARAMETERS = [
    *itertools.product(VERSIONS, ["positions"], [math.nan, math.inf, -1e30]),
    *itertools.product(["max", "gauss"], ["sigma"], [math.nan, 0.0]),
]


@pytest.mark.parametrize(("version", "name", "value"), WILD_PARAMETERS)
@pytest.mark.parametrize("route", ["direct", "direct_shared"])
def test_direct_with_parameters_that_are_no_places_follows_the_formula(version, name, value, route):
    case = conv(version, 2, **ROUTES[route])
    getattr(case, name).flatten()[1] = value
    case = case._replace(input=case.input[:, :, :5], padding=(0, 1))  # no output pixel reads the last row
    # "construct" multiplies the output's gradient by untouched taps too, which would show if that had no finite value.
    grad = torch.randn_like(case.op(*case))
    results, expected = (
        (c.op(*c), *conv_backward(*conv_backward_arguments(c, grad, [True] * 5)))
        for c in (case, case._replace(method="construct"))
    )
    torch.testing.assert_close(results, expected, equal_nan=True, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("axes", AXES)
def test_direct_keeps_to_the_pixels_that_taps_meet(axes):
    # The last pixel of the last axis is met by the last tap alone, which no element touches. The output has 5 columns:
    # inner loops, which take more, read on into that pixel.
    sizes, at = (7,) * axes, torch.zeros(axes, 1, 1, 1) - 0.75
    weight = torch.ones(1, 1, 1)
    input = torch.randn(1, 1, *sizes)
    case = Conv(input, weight, at, (3,) * axes, None, torch.ones(1), (1,) * axes, (0,) * axes, 1, "v1", "direct")
    finite = everything(case.leaves(torch.float32))
    input[..., -1] = math.inf
    assert all(result.isfinite().all() for result in finite)
    for result, expected in zip(everything(case.leaves(torch.float32)), finite, strict=True):
        assert torch.equal(result, expected)


@pytest.mark.parametrize("make_bias_half", [False, True])
def test_autocast_casts_input_and_bias_but_never_parameters(make_bias_half):
    case = conv("gauss", 2, dtype=torch.float32, requires_grad=True)
    expected = case._replace(input=case.input.bfloat16())
    if make_bias_half:
        case = case._replace(bias=case.bias.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        output = case.op(*case)
        assert torch.ops.dcls.construct_kernel(*case[1:5], case.version).dtype == torch.float32
    assert output.dtype == torch.bfloat16
    assert torch.equal(output, case.op(*expected))
    output.sum().backward()
    for tensor in (case.input, case.weight, case.positions, case.sigma):
        assert tensor.grad.dtype == torch.float32


def strides_of_significance(tensor):
    return [stride for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]


@pytest.mark.parametrize(
    ("layout", "channels_last"),
    [
        (lambda x: x, False),
        (lambda x: x.contiguous(memory_format=torch.channels_last), True),
        (lambda x: x.contiguous(memory_format=torch.channels_last)[..., ::2], True),
        (lambda x: torch.cat([x, x], 1).contiguous(memory_format=torch.channels_last)[:, :4], True),
        (lambda x: x.mT, False),
        (lambda x: x.expand(3, -1, -1, -1), False),
    ],
    ids=["contiguous", "channels_last", "channels_last_columns", "channels_last_channels", "transposed", "expanded"],
)
@every_route
def test_output_keeps_the_memory_format_of_the_input(layout, channels_last, route):
    case = conv("v1", 2, **ROUTES[route])
    input = layout(torch.randn(1, 4, 9, 9, dtype=torch.float64)).requires_grad_()
    output = case.op(*case._replace(input=input))
    (grad_input,) = torch.autograd.grad(output.sum(), input)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    for tensor in (output, grad_input):
        assert tensor.is_contiguous(memory_format=memory_format)
    expected = case.op(*case._replace(input=input.contiguous()))
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)


@every_route
def test_channels_last_3d(route):
    case = conv("v1", 3, **ROUTES[route])
    input = case.input.contiguous(memory_format=torch.channels_last_3d)
    output = case.op(*case._replace(input=input))
    assert output.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(output, case.op(*case), rtol=1e-12, atol=1e-12)


def everything(case, op=None):
    """The output and all gradients."""
    output = (op or case.op)(*case)
    return output, *torch.autograd.grad(output.square().sum(), case.tensors)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("groups", "channels"), [(37, 1), (9, 3), (1, 20)])
def test_direct_gives_the_same_bits_for_channels_last_and_any_number_of_threads(groups, channels, stride):
    # Copied by up to 16 channels, of as many groups as leave every thread some: the last of them are fewer. Rows are so
    # long that no instruction set takes its vectors from several images.
    input = torch.randn(1, groups * channels, 13, 31, requires_grad=True)
    weight = torch.randn(2 * groups, channels, 4, requires_grad=True)
    positions = (4 * torch.rand(2, 2 * groups, channels, 4) - 2).requires_grad_()
    results = []
    before = torch.get_num_threads()
    for memory_format, threads in itertools.product((torch.contiguous_format, torch.channels_last), (1, 2, 3, 64)):
        torch.set_num_threads(threads)
        output = torch.ops.dcls.conv2d(
            input.contiguous(memory_format=memory_format), weight, positions, [5, 5], stride=[stride, stride],
            padding=[2, 2], groups=groups, version="v1", method="direct",
        )  # fmt: skip
        grad_output = torch.linspace(-1, 1, output.numel()).view(output.shape).contiguous(memory_format=memory_format)
        grads = torch.autograd.grad(output, [input, weight, positions], grad_output)
        results.append([output, *grads])
    torch.set_num_threads(before)
    expected, *others = results
    for other in others:
        assert all(map(torch.equal, other, expected))


@pytest.mark.parametrize("axes", AXES)
@every_route
def test_same_bits_every_time(axes, route):
    # "construct" does not promise more: PyTorch's own convolution rounds differently with another number of threads.
    case = conv("gauss", axes, dtype=torch.float32, requires_grad=True, **ROUTES[route])
    first = everything(case)
    for _ in range(20):
        for result, expected in zip(everything(case), first, strict=True):
            assert torch.equal(result, expected)


@pytest.mark.parametrize("shape", [(1, 8, 5, 5), (3, 8, 40, 40), (64, 8, 7, 7)], ids=str)
@pytest.mark.parametrize("version", ["v1", "gauss"])
@every_route_of_ours
def test_same_bits_for_any_number_of_threads(shape, version, route):
    options = ROUTES[route]
    kernel = parameters(
        version,
        (9, 9),
        out_channels=16,
        in_channels=8,
        kernel_count=9,
        shared=options.get("shared", False),
        dense_axes=options.get("dense_axes", 0),
        dtype=torch.float32,
    )
    input, bias = torch.randn(shape), torch.randn(16)
    case = Conv(input, *kernel[:4], bias, (1, 1), (4, 4), 1, version, options["method"]).leaves(torch.float32)
    results = []
    for threads in (1, 2, 3, 5):
        with num_threads(threads):
            results.append(everything(case))
    for others in results[1:]:
        for result, expected in zip(others, results[0], strict=True):
            assert torch.equal(result, expected)


@pytest.mark.parametrize("batched", ["input", "weight", "positions", "input and weight", "everything"])
@every_route
@pytest.mark.parametrize("unbatched_input", [False, True])
def test_vmap(batched, route, unbatched_input):
    case = conv("gauss", 2, **ROUTES[route])
    if unbatched_input:
        case = case._replace(input=case.input[0])
    names = case._fields if batched == "everything" else batched.split(" and ")
    tensors = [name for name in case._fields if isinstance(getattr(case, name), torch.Tensor)]
    in_dims = tuple((1 if name == "positions" else 0) if name in names else None for name in tensors)
    values = [
        t if dim is None else torch.stack([t, t * 1.1, t * 0.9], dim)
        for t, dim in zip(case.tensors, in_dims, strict=True)
    ]

    def forward(*tensors):
        return case.op(*case.replace_tensors(tensors))

    def backward(*tensors):
        replaced = case.replace_tensors(tensors)
        output_shape = case.op(*case).shape
        grad = torch.ones(output_shape, dtype=torch.float64)
        return conv_backward(*conv_backward_arguments(replaced, grad, [True] * 5))

    for function in (forward, backward):
        assert_vmap_is_a_loop(function, in_dims, values, 3)


@pytest.mark.parametrize("version", VERSIONS)
@every_route
def test_torch_func(version, route):
    case = conv(version, 2, **ROUTES[route])
    tensors = case.tensors
    argnums = tuple(range(len(tensors)))

    def loss(function):
        return lambda *tensors: (function(*case.replace_tensors(tensors)) ** 2).sum()

    ours, theirs = loss(case.op), loss(reference.conv)
    close = functools.partial(torch.testing.assert_close, rtol=1e-8, atol=1e-8)
    close(torch.func.grad(ours, argnums)(*tensors), torch.func.grad(theirs, argnums)(*tensors))
    hessian = (
        torch.func.jacrev(torch.func.grad(function, argnums=1), argnums=2)(*tensors) for function in (ours, theirs)
    )
    close(*hessian)
    # Gradients per image
    per_image = (
        torch.func.vmap(torch.func.grad(function, argnums[1:]), (0, *[None] * (len(tensors) - 1)))(*tensors)
        for function in (ours, theirs)
    )
    close(*per_image)


@pytest.mark.parametrize("op", ["conv2d", "conv_backward", "construct_kernel", "construct_kernel_backward"])
def test_forward_mode_derivatives_are_an_error_not_zero(op):
    case = conv("gauss", 2)
    output, kernel = case.op(*case), torch.ops.dcls.construct_kernel(*case[1:5], "gauss")
    arguments = {
        "conv2d": tuple(case),
        "conv_backward": conv_backward_arguments(case, output, [True] * 5),
        "construct_kernel": tuple(case[1:5]),
        "construct_kernel_backward": (kernel, case.weight, case.positions, case.sigma, "gauss", [True] * 3),
    }[op]

    def run(first):
        return getattr(torch.ops.dcls, op)(first, *arguments[1:])

    with pytest.raises(NotImplementedError, match=f"^dcls::{op} has no forward-mode derivative"):
        torch.func.jvp(run, arguments[:1], arguments[:1])


def test_forward_over_reverse_is_an_error_not_zero():
    case = conv("gauss", 2)

    def loss(input):
        return case.op(input, *case[1:]).square().sum()

    def value_of_vjp(input):
        return torch.func.vjp(loss, input)[0]

    with pytest.raises(NotImplementedError, match="has no forward-mode derivative"):
        torch.func.hessian(loss)(case.input)
    with pytest.raises(NotImplementedError, match="has no forward-mode derivative"):
        torch.func.jvp(value_of_vjp, (case.input,), (case.input,))


def test_no_grad_within_torch_func():
    case = conv("gauss", 2)
    weight = case.weight.clone().requires_grad_()

    def loss(input):
        with torch.no_grad():
            constant = case.op(input, weight, *case[2:])
        return constant.sum() * input.sum()

    gradient = torch.func.grad(loss)(case.input)
    assert not gradient.requires_grad
    torch.testing.assert_close(gradient, case.op(*case).sum().expand_as(gradient))


def test_defaults_are_those_of_the_schema():
    case = conv("gauss", 2, groups=1)
    arguments = (case.input, case.weight, case.positions, case.kernel_size, case.sigma)
    expected = case.op(*arguments, None, [1, 1], [0, 0], 1, "gauss", "auto", None)
    assert torch.equal(case.op(*arguments), expected)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("touched_taps", "method"), [(1, "direct"), (17, "construct")])
def test_auto_goes_by_the_touched_taps_that_it_is_told(version, touched_taps, method):
    kernel = parameters(version, (17, 17), out_channels=64, in_channels=1, kernel_count=4, dtype=torch.float32)
    case = Conv(torch.randn(4, 64, 28, 28), *kernel[:4], None, (1, 1), (8, 8), 64, version, "auto", touched_taps)
    if version in ("v0", "v1"):  # which touch two taps, whatever is said
        method = "direct"
    assert torch.equal(case.op(*case), case.op(*case._replace(method=method)))
    assert not torch.equal(
        case.op(*case), case.op(*case._replace(method="direct" if method != "direct" else "construct"))
    )
    leaves = case.leaves(torch.float32)
    named = leaves._replace(method=method)
    for result, expected in zip(everything(leaves), everything(named), strict=True):
        assert torch.equal(result, expected)
