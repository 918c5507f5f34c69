"""A valid call of every operator, and what is said when an argument of it is replaced by a bad one."""

import torch


def tensor(*shape, dtype=torch.float32, device="cpu"):
    return torch.zeros(shape, dtype=dtype, device=device)


# A valid call of each operator. O=4, I=4, g=2, K=3.
CONV = {
    "input": tensor(2, 4, 9, 8),
    "weight": tensor(4, 2, 3),
    "positions": tensor(2, 4, 2, 3),
    "kernel_size": [5, 3],
    "sigma": tensor(2, 4, 2, 3),
    "bias": tensor(4),
    "stride": [1, 1],
    "padding": [0, 0],
    "groups": 2,
    "version": "gauss",
    "method": "auto",
    "touched_taps": None,
}
KERNEL = {name: CONV[name] for name in ("weight", "positions", "kernel_size", "sigma", "version")}
DEPTHWISE = {
    "input": tensor(2, 4, 9, 8),
    "kernel": tensor(4, 1, 5, 3),
    "bias": tensor(4),
    "stride": [1, 1],
    "padding": [0, 0],
}
DEPTHWISE_1D = {**DEPTHWISE, "input": tensor(2, 4, 9), "kernel": tensor(4, 1, 5), "stride": [1], "padding": [0]}
DEPTHWISE_3D = {
    **DEPTHWISE,
    "input": tensor(4, 9, 8, 7),
    "kernel": tensor(4, 1, 5, 3, 2),
    "stride": [1] * 3,
    "padding": [0] * 3,
}
CONV_BACKWARD = {
    "grad_output": tensor(2, 4, 5, 6),
    **{name: value for name, value in CONV.items() if name != "bias"},
    "output_mask": [True] * 5,
}
KERNEL_BACKWARD = {
    "grad_kernel": tensor(4, 2, 5, 3),
    "weight": CONV["weight"],
    "positions": CONV["positions"],
    "sigma": CONV["sigma"],
    "version": "gauss",
    "output_mask": [True] * 3,
}


def backward_of(depthwise, grad_output):
    others = {name: value for name, value in depthwise.items() if name != "bias"}
    return {"grad_output": grad_output, **others, "output_mask": [True] * 3}


CALLS = {
    "conv2d": CONV,
    "construct_kernel": KERNEL,
    "conv_backward": CONV_BACKWARD,
    "construct_kernel_backward": KERNEL_BACKWARD,
    "depthwise_conv2d": DEPTHWISE,
    "depthwise_conv2d_backward": backward_of(DEPTHWISE, tensor(2, 4, 5, 6)),
    "depthwise_conv1d": DEPTHWISE_1D,
    "depthwise_conv3d": DEPTHWISE_3D,
    "depthwise_conv1d_backward": backward_of(DEPTHWISE_1D, tensor(2, 4, 5)),
    "depthwise_conv3d_backward": backward_of(DEPTHWISE_3D, tensor(4, 5, 6, 6)),
}

FLOATS = "torch.float16, torch.bfloat16, torch.float32 or torch.float64"
SHAPES = "(2, 4, 2, 3) or (2, 1, 2, 3)"
BAD = [
    # The parameters
    ("conv2d", {"version": "v2"}, "version must be one of v0, v1, max, gauss, got 'v2'"),
    ("conv2d", {"weight": tensor(4, 3)}, "weight must have shape (out_channels, in_channels / groups, *dense_kernel_size, kernel_count), got (4, 3)"),
    ("conv2d", {"weight": tensor(4, 2, 4, 3)}, "kernel_size must begin with weight's dense_kernel_size (4,) and go on with a learned axis, got (5, 3)"),
    ("conv2d", {"weight": tensor(4, 2, 5, 3, 3)}, "kernel_size must begin with weight's dense_kernel_size (5, 3) and go on with a learned axis, got (5, 3)"),
    ("conv2d", {"weight": tensor(4, 2, 5, 3)}, "positions must have shape (1, 4, 2, 5, 3) or (1, 1, 2, 5, 3), got (2, 4, 2, 3)"),
    ("conv2d", {"weight": tensor(4, 2, 0)}, "weight must not be empty, got (4, 2, 0)"),
    ("conv2d", {"weight": tensor(4, 2, 3, dtype=torch.int64)}, f"weight must be {FLOATS}, got torch.int64"),
    ("conv2d", {"weight": tensor(4, 2, 3, dtype=torch.complex64)}, f"weight must be {FLOATS}, got torch.complex64"),
    ("conv2d", {"positions": tensor(2, 4, 2, 4)}, f"positions must have shape {SHAPES}, got (2, 4, 2, 4)"),
    ("conv2d", {"positions": tensor(1, 4, 2, 3)}, f"positions must have shape {SHAPES}, got (1, 4, 2, 3)"),
    ("conv2d", {"positions": tensor(4, 2, 3)}, f"positions must have shape {SHAPES}, got (4, 2, 3)"),
    ("conv2d", {"positions": tensor(2, 4, 2, 3, dtype=torch.float64)}, "positions must be torch.float32 like weight, got torch.float64"),
    ("conv2d", {"positions": tensor(2, 4, 2, 3, device="meta")}, "positions must be on cpu like weight, got meta"),
    ("conv2d", {"sigma": None}, "sigma must be given for version 'gauss', got None"),
    ("conv2d", {"sigma": None, "version": "max"}, "sigma must be given for version 'max', got None"),
    ("conv2d", {"version": "v0"}, "sigma must be None for version 'v0', got a tensor"),
    ("conv2d", {"version": "v1"}, "sigma must be None for version 'v1', got a tensor"),
    ("conv2d", {"sigma": tensor(2, 1, 2, 3)}, "sigma must have the shape of positions (2, 4, 2, 3), got (2, 1, 2, 3)"),
    ("conv2d", {"sigma": tensor(2, 4, 2, 3, dtype=torch.bfloat16)}, "sigma must be torch.float32 like weight, got torch.bfloat16"),
    ("conv2d", {"sigma": tensor(2, 4, 2, 3, device="meta")}, "sigma must be on cpu like weight, got meta"),
    # The kernel's extent
    ("conv2d", {"kernel_size": [5]}, "positions must have shape (1, 4, 2, 3) or (1, 1, 2, 3), got (2, 4, 2, 3)"),
    ("conv2d", {"kernel_size": [5], "positions": tensor(1, 4, 2, 3), "sigma": tensor(1, 4, 2, 3)}, "kernel_size must have 2 entries, got (5,)"),
    ("conv2d", {"kernel_size": [5, 0]}, "kernel_size must be positive and below 2**31, got (5, 0)"),
    ("conv2d", {"kernel_size": [-5, 3]}, "kernel_size must be positive and below 2**31, got (-5, 3)"),
    ("conv2d", {"kernel_size": [11, 3]}, "kernel_size (11, 3) must not exceed the padded input, got (9, 8)"),
    ("conv2d", {"weight": tensor(0, 2, 3), "positions": tensor(2, 0, 2, 3)}, "weight must not be empty, got (0, 2, 3)"),
    ("conv2d", {"kernel_size": [2**31, 3]}, "kernel_size must be positive and below 2**31, got (2147483648, 3)"),
    ("construct_kernel", {"kernel_size": [2**16, 2**16]}, "kernel_size must have fewer than 2**31 taps, got (65536, 65536)"),
    ("construct_kernel", {"kernel_size": []}, "kernel_size must have 1 to 3 entries, got ()"),
    ("construct_kernel", {"kernel_size": [5, 3, 3, 3]}, "kernel_size must have 1 to 3 entries, got (5, 3, 3, 3)"),
    ("construct_kernel", {"kernel_size": [5, -1]}, "kernel_size must be positive and below 2**31, got (5, -1)"),
    ("construct_kernel", {"version": "bilinear"}, "version must be one of v0, v1, max, gauss, got 'bilinear'"),
    # The input
    ("conv2d", {"method": "winograd"}, "method must be one of auto, construct, direct, im2col, got 'winograd'"),
    ("conv2d", {"method": "im2col"}, "method 'im2col' needs positions of shape (2, 1, 2, 3), shared by all out channels, got (2, 4, 2, 3)"),
    ("conv_backward", {"method": "im2col"}, "method 'im2col' needs positions of shape (2, 1, 2, 3), shared by all out channels, got (2, 4, 2, 3)"),
    ("conv2d", {"method": "im2col", "weight": tensor(4, 2, 5, 3), "positions": tensor(1, 1, 2, 5, 3), "sigma": tensor(1, 1, 2, 5, 3)}, "method 'im2col' needs positions of shape (2, 1, 2, 3), shared by all out channels, got (1, 1, 2, 5, 3)"),
    ("conv2d", {"touched_taps": 0}, "touched_taps must be positive, got 0"),
    ("conv_backward", {"touched_taps": -1}, "touched_taps must be positive, got -1"),
    ("conv2d", {"input": tensor(9, 8)}, "input must have 3 (unbatched) or 4 dimensions, got (9, 8)"),
    ("conv2d", {"input": tensor(1, 2, 4, 9, 8)}, "input must have 3 (unbatched) or 4 dimensions, got (1, 2, 4, 9, 8)"),
    ("conv2d", {"input": tensor(2, 3, 9, 8)}, "input must have 4 channels (2 per group, groups=2), got 3"),
    ("conv2d", {"input": tensor(3, 9, 8)}, "input must have 4 channels (2 per group, groups=2), got 3"),
    ("conv2d", {"input": tensor(2, 4, 9, 8, dtype=torch.float64)}, "input must be torch.float16, torch.bfloat16 or torch.float32 for torch.float32 parameters, got torch.float64"),
    ("conv2d", {"input": tensor(2, 4, 9, 8, dtype=torch.int32)}, "input must be torch.float16, torch.bfloat16 or torch.float32 for torch.float32 parameters, got torch.int32"),
    ("conv2d", {"input": tensor(2, 4, 9, 8, device="meta")}, "input must be on cpu like weight, got meta"),
    ("conv2d", {"input": tensor(2, 4, 0, 8)}, "input must not be empty along a spatial axis, got (2, 4, 0, 8)"),
    # Groups, bias, stride, padding
    ("conv2d", {"padding": [2**62, 0]}, "padding must be non-negative and below 2**31, got (4611686018427387904, 0)"),
    ("conv2d", {"stride": [2**40, 1]}, "stride must be positive and below 2**31, got (1099511627776, 1)"),
    ("conv2d", {"groups": 0}, "groups must be positive, got 0"),
    ("conv2d", {"groups": -2}, "groups must be positive, got -2"),
    ("conv2d", {"groups": 3}, "groups must divide out_channels 4, got 3"),
    ("conv2d", {"groups": 4}, "input must have 8 channels (2 per group, groups=4), got 4"),
    ("conv2d", {"bias": tensor(3)}, "bias must have shape (4,), got (3,)"),
    ("conv2d", {"bias": tensor(4, 1)}, "bias must have shape (4,), got (4, 1)"),
    ("conv2d", {"bias": tensor(4, dtype=torch.float64)}, "bias must have the dtype of input or weight, got torch.float64"),
    ("conv2d", {"bias": tensor(4, device="meta")}, "bias must be on cpu like weight, got meta"),
    ("conv2d", {"stride": [-1, 1]}, "stride must be positive and below 2**31, got (-1, 1)"),
    ("conv2d", {"stride": [0, 1]}, "stride must be positive and below 2**31, got (0, 1)"),
    ("conv2d", {"stride": [1]}, "stride must have 2 entries, got (1,)"),
    ("conv2d", {"padding": [0, -1]}, "padding must be non-negative and below 2**31, got (0, -1)"),
    ("conv2d", {"padding": [0, 0, 0]}, "padding must have 2 entries, got (0, 0, 0)"),
    # Backward
    ("conv_backward", {"grad_output": tensor(2, 4, 5, 5)}, "grad_output must have shape (2, 4, 5, 6), got (2, 4, 5, 5)"),
    ("conv_backward", {"grad_output": tensor(2, 4, 5, 6, dtype=torch.float64)}, "grad_output must be torch.float32 like input, got torch.float64"),
    ("conv_backward", {"method": "direct?"}, "method must be one of auto, construct, direct, im2col, got 'direct?'"),
    ("construct_kernel_backward", {"grad_kernel": tensor(4, 2)}, "grad_kernel must have shape (out_channels, in_channels / groups, *kernel_size), got (4, 2)"),
    ("construct_kernel_backward", {"grad_kernel": tensor(4, 3, 5, 3)}, "grad_kernel must have shape (4, 2, 5, 3), got (4, 3, 5, 3)"),
    ("construct_kernel_backward", {"grad_kernel": tensor(4, 2, 5, 3, dtype=torch.float64)}, "grad_kernel must be torch.float32 like weight, got torch.float64"),
    ("conv_backward", {"output_mask": [True] * 4}, "output_mask must have 5 entries, got 4"),
    ("construct_kernel_backward", {"output_mask": [True] * 5}, "output_mask must have 3 entries, got 5"),
    ("depthwise_conv2d_backward", {"output_mask": []}, "output_mask must have 3 entries, got 0"),
    # Depthwise
    ("depthwise_conv2d", {"kernel": tensor(4, 2, 5, 3)}, "kernel must have shape (out_channels, 1, kernel_height, kernel_width), got (4, 2, 5, 3)"),
    ("depthwise_conv2d", {"kernel": tensor(4, 1, 5)}, "kernel must have shape (out_channels, 1, kernel_height, kernel_width), got (4, 1, 5)"),
    ("depthwise_conv2d", {"kernel": tensor(4, 1, 0, 3)}, "kernel must not be empty, got (4, 1, 0, 3)"),
    ("depthwise_conv2d", {"kernel": tensor(6, 1, 5, 3)}, "out_channels 6 must be a multiple of the input's channels, got 4"),
    ("depthwise_conv2d", {"kernel": tensor(4, 1, 5, 3, dtype=torch.int8)}, f"kernel must be {FLOATS}, got torch.int8"),
    ("depthwise_conv2d", {"kernel": tensor(4, 1, 5, 3, dtype=torch.float64)}, "input must be torch.float64 like kernel, got torch.float32"),
    ("depthwise_conv2d", {"input": tensor(4, 8)}, "input must have 3 (unbatched) or 4 dimensions, got (4, 8)"),
    ("depthwise_conv2d", {"input": tensor(2, 4, 9, 8, device="meta")}, "input must be on cpu like kernel, got meta"),
    ("depthwise_conv2d", {"bias": tensor(3)}, "bias must have shape (4,), got (3,)"),
    ("depthwise_conv2d", {"bias": tensor(4, dtype=torch.float16)}, "bias must be torch.float32 like kernel, got torch.float16"),
    ("depthwise_conv2d", {"stride": [0, 1]}, "stride must be positive and below 2**31, got (0, 1)"),
    ("depthwise_conv2d", {"padding": [-1, 0]}, "padding must be non-negative and below 2**31, got (-1, 0)"),
    ("depthwise_conv2d", {"input": tensor(2, 4, 4, 8)}, "kernel_size (5, 3) must not exceed the padded input, got (4, 8)"),
    ("depthwise_conv2d_backward", {"grad_output": tensor(2, 4, 6, 5)}, "grad_output must have shape (2, 4, 5, 6), got (2, 4, 6, 5)"),
    ("depthwise_conv1d", {"kernel": tensor(4, 2, 5)}, "kernel must have shape (out_channels, 1, kernel_length), got (4, 2, 5)"),
    ("depthwise_conv1d", {"input": tensor(2, 4, 9, 8)}, "input must have 2 (unbatched) or 3 dimensions, got (2, 4, 9, 8)"),
    ("depthwise_conv1d_backward", {"padding": [0, 0]}, "padding must have 1 entry, got (0, 0)"),
    ("depthwise_conv3d", {"kernel": tensor(4, 1, 5, 3)}, "kernel must have shape (out_channels, 1, kernel_depth, kernel_height, kernel_width), got (4, 1, 5, 3)"),
    ("depthwise_conv3d", {"input": tensor(4, 9, 8)}, "input must have 4 (unbatched) or 5 dimensions, got (4, 9, 8)"),
    ("depthwise_conv3d_backward", {"grad_output": tensor(4, 5, 6, 5)}, "grad_output must have shape (4, 5, 6, 6), got (4, 5, 6, 5)"),
]  # fmt: skip
