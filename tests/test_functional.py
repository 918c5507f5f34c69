import itertools

import pytest
import torch
import torch.nn.functional as F

import dcls_ops.functional as dcls


def parameters(axes):
    return torch.randn(4, 3, 2), torch.rand(axes, 4, 3, 2) * 3 - 1.5


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize(
    ("padding", "stride"),
    [(0, 1), (2, 1), (1, 2), ("same", 1), ("valid", 1), ("valid", 2)],
)
@pytest.mark.parametrize("extent", [4, 5])
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")  # PyTorch's, of its own function
def test_is_pytorch_s_function_with_the_dense_kernel(axes, padding, stride, extent):
    weight, positions = parameters(axes)
    input, bias = torch.randn(2, 3, *[9] * axes), torch.randn(4)
    kernel = dcls.construct_kernel(weight, positions, extent, version="v1")
    expected = getattr(F, f"conv{axes}d")(input, kernel, bias, stride, padding)
    convolve = getattr(dcls, f"conv{axes}d")
    output = convolve(input, weight, positions, extent, bias=bias, stride=stride, padding=padding, version="v1")
    torch.testing.assert_close(output, expected)
    if not isinstance(padding, str):  # tuples say the same as ints
        tuples = {"stride": (stride,) * axes, "padding": (padding,) * axes}
        assert torch.equal(
            convolve(input, weight, positions, (extent,) * axes, bias=bias, version="v1", **tuples), output
        )


@pytest.mark.parametrize(
    ("dense", "kernel_size"), [((3,), (3, 5)), ((5,), 5), ((5, 5), 5), ((2, 3), (2, 3, 5)), ((3,), (3, 5, 4))], ids=str
)
def test_a_kernel_that_is_dense_along_leading_axes_has_one_of_its_own_at_every_dense_tap(dense, kernel_size):
    learned = (5,) if isinstance(kernel_size, int) else kernel_size[len(dense) :]
    weight, positions = torch.randn(4, 3, *dense, 2), torch.rand(len(learned), 4, 3, *dense, 2) * 3 - 1.5
    kernel = dcls.construct_kernel(weight, positions, kernel_size, version="v1")
    for tap in itertools.product(*map(range, dense)):
        at = (slice(None), slice(None), *tap)
        expected = dcls.construct_kernel(weight[at], positions[(slice(None), *at)], learned, version="v1")
        torch.testing.assert_close(kernel[at], expected)


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, (3, 2, 1), "same", "valid"])
@pytest.mark.parametrize("kernel_size", [(7, 5, 3), (6, 4, 2)])
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
def test_depthwise_conv(axes, padding, kernel_size):
    padding = padding[:axes] if isinstance(padding, tuple) else padding
    input, kernel, bias = torch.randn(2, 4, *(9, 8, 7)[:axes]), torch.randn(4, 1, *kernel_size[:axes]), torch.randn(4)
    torch.testing.assert_close(
        getattr(dcls, f"depthwise_conv{axes}d")(input, kernel, bias, padding=padding),
        getattr(F, f"conv{axes}d")(input, kernel, bias, padding=padding, groups=4),
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"padding": "full"}, "padding must be an int, a tuple, 'same' or 'valid', got 'full'"),
        ({"padding": "same", "stride": (1, 2)}, "padding='same' needs stride 1, got (1, 2)"),
        ({"stride": (1, 1, 1)}, "stride must be an int or 2 ints, got (1, 1, 1)"),
        ({"padding": [1]}, "padding must be an int or 2 ints, got [1]"),
        ({"kernel_size": (3,)}, "kernel_size must be an int or 2 ints, got (3,)"),
    ],
    ids=str,
)
def test_says_what_is_wrong(arguments, message):
    weight, positions = parameters(2)
    with pytest.raises(ValueError) as error:  # noqa: PT011, the whole message is compared
        dcls.conv2d(torch.randn(1, 3, 9, 9), weight, positions, **{"kernel_size": 5, "version": "v1", **arguments})
    assert str(error.value) == message
