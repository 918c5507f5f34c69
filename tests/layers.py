"""Layers of every kind of both packages, small, with an input each."""

import torch
from DCLS.construct import modules
from DCLS.construct.modules.Dcls import Dcls1d, Dcls2d, Dcls3d
from DCLS.modules.Dcls import Dcls2d as SharedDcls2d
from drawing import LAYERS

OBLONG = {
    "Dcls2d": {"dilated_kernel_size": (5, 4)},
    "Dcls3d": {"dilated_kernel_size": (3, 5, 4)},
    "Dcls2_1d": {"dense_kernel_size": 3, "dilated_kernel_size": 5},
    "Dcls3_1d": {"dense_kernel_size": (2, 3), "dilated_kernel_size": 5},
}

#: (class, arguments besides channels)
EVERY_LAYER = [
    *[(cls, {"kernel_count": 3, **arguments}) for cls, arguments, _ in LAYERS],
    *[
        (getattr(modules, name), {"kernel_count": 3, **OBLONG.get(name, {"dilated_kernel_size": 5})})
        for name in modules.__all__
        if name.startswith("Dcls")
    ],
    *[(cls, {"kernel_size": 3, "dilation": 2}) for cls in (Dcls1d, Dcls2d, Dcls3d, SharedDcls2d)],
]


def name_of(layer):
    """For parametrize: whose layer, and what is unusual about it."""
    return f"{layer.__module__}.{layer.__name__}" if isinstance(layer, type) else None


def input_of(layer, channels=4, size=11):
    return torch.randn(2, channels, *[size] * layer.spatial_axes)
