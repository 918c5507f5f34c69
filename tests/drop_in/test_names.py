"""Every name that code may have from the original package: its module's, its layers' and its kernels'."""

import copy
import importlib
import pickle

import pytest
import torch
from DCLS.construct import modules
from torch import nn

from dcls_ops import deploy
from dcls_ops._versions import VERSIONS

# What is left out, of which docs/migrating.md says why.
LEFT_OUT = {"_DepthWiseConv2dImplicitGEMMFP16", "_DepthWiseConv2dImplicitGEMMFP32"}

LAYERS = {
    "Dcls1d": {"dilated_kernel_size": 5},
    "Dcls2d": {"dilated_kernel_size": (5, 4)},
    "Dcls3d": {"dilated_kernel_size": (3, 5, 4)},
    "Dcls2dK1d": {"dilated_kernel_size": 5},
    "Dcls3_1d": {"dense_kernel_size": (2, 3), "dilated_kernel_size": 5},
}
KERNELS = ["ConstructKernel1d", "ConstructKernel2d", "ConstructKernel3d", "ConstructKernel3_1d"]


def is_dunder(name):
    """Python's own, or what torch.compile leaves in a module."""
    return name.startswith("__") and name not in ("__constants__", "__init_tmp_variables__")


def pair(original, name, version="gauss", **arguments):
    arguments = {"kernel_count": 3, "version": version, **LAYERS[name], **arguments}
    theirs, ours = (getattr(module, name)(4, 6, **arguments) for module in (original, modules))
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def test_names_of_the_module(original):
    theirs = {name for name in dir(original) if not name.startswith("__")}  # torch.compile leaves names with __ in it
    assert theirs - set(dir(modules)) - LEFT_OUT == set()


def test_names_of_star_imports(original):
    theirs = {name for name in vars(original) if not name.startswith("_")}
    brought = {}
    exec("from DCLS.construct.modules import *", brought)
    assert theirs - brought.keys() - LEFT_OUT == set()
    assert brought["F"] is torch.nn.functional


@pytest.mark.parametrize("name", ["_DclsNd", "_DclsN_Md", *LAYERS, *KERNELS])
def test_names_of_classes(original, name):
    theirs, ours = (getattr(module, name) for module in (original, modules))
    assert {name for name in dir(theirs) if not is_dunder(name)} - set(dir(ours)) == set()
    assert set(getattr(theirs, "__constants__", ())) <= set(getattr(ours, "__constants__", ()))


@pytest.mark.parametrize(
    ("name", "version"),
    # The original has no Dcls3_1d of version v0.
    [(name, version) for name in LAYERS for version in VERSIONS if (name, version) != ("Dcls3_1d", "v0")],
)
def test_names_and_values_of_instances(original, name, version):
    theirs, ours = pair(original, name, version, padding=2)
    theirs(torch.randn(1, 4, *[9] * ours.spatial_axes))  # after which it has its tables
    for their_module, our_module in ((theirs, ours), (theirs.DCK, ours.DCK)):
        for kind in ("_parameters", "_buffers", "_modules"):
            assert vars(their_module)[kind].keys() == vars(our_module)[kind].keys()
        for attribute, value in vars(their_module).items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(getattr(our_module, attribute), value), attribute
            elif attribute not in vars(nn.Module()):
                assert vars(our_module)[attribute] == value, attribute


def test_tables_can_be_set_and_reset():
    ours = modules.Dcls2d(4, 6, 3, **LAYERS["Dcls2d"])
    ours.DCK.IDX = ours.DCK.IDX.double()
    assert ours.DCK.IDX.dtype == torch.float64
    ours.DCK.IDX = ours.DCK.lim = None
    assert ours.DCK.lim.shape == ours.P.shape
    assert ours.to("meta").DCK.IDX.device.type == "cpu"  # those of a device are made when asked for on it
    ours.DCK.__init_tmp_variables__("meta")
    assert ours.DCK.IDX.device.type == ours.DCK.lim.device.type == "meta"
    assert "DCK.IDX" not in ours.state_dict()


@pytest.mark.parametrize("path", ["DCLS", "DCLS.construct", "DCLS.construct.modules"])
def test_paths(path):
    importlib.import_module(path)


@pytest.mark.parametrize("set_on", ["layer", "DCK"])
def test_version_is_where_formats_look_for_it(set_on):
    layer = modules.Dcls2d(4, 4, 3, dilated_kernel_size=5)
    (layer if set_on == "layer" else layer.DCK).version = "max"
    assert (layer.version, layer.DCK.version) == ("max", "max")
    assert "{kernel_count}, version={version}".format(**layer.__dict__) == "3, version=max"


COPIES = {"deepcopy": copy.deepcopy, "copy": copy.copy, "pickle": lambda layer: pickle.loads(pickle.dumps(layer))}


@pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)
def test_versions_of_copies_are_one_too(make):
    layer = modules.Dcls1d(4, 4, 3, dilated_kernel_size=5)
    copied = make(layer)
    copied.DCK.version = "max"
    assert vars(copied)["version"] == "max"
    assert vars(layer)["version"] == layer.DCK.version  # shared by a shallow copy, the layer's own otherwise


def test_a_replaced_dck_no_longer_counts():
    layer = modules.Dcls1d(4, 4, 3, dilated_kernel_size=5)
    before = layer.DCK
    layer.DCK = modules.ConstructKernel1d(4, 4, 1, 3, (5,), "max")
    before.version = "v0"
    assert (layer.version, vars(layer)["version"]) == ("max", "max")


# Subclasses of the base classes: the same source on either package.

SUBCLASSES = """
class Delays(_DclsNd):
    def __init__(self, version):
        super().__init__(4, 6, 2, (1,), (2,), (9,), False, (0,), 1, True, "zeros", version)
        self.DCK = ConstructKernel1d(
            self.out_channels, self.in_channels, self.groups, self.kernel_count, self.dilated_kernel_size, self.version
        )

    def extra_repr(self):
        return super().extra_repr().format(**self.__dict__)

class DelaysByPadding(Delays):
    def __init__(self, version):
        super().__init__(version)
        self.padding_mode = "circular"

    def forward(self, input):
        return self._conv_forward(input, self.weight, self.bias, self.P, self.SIG)

    def _conv_forward(self, input, weight, bias, P, SIG):
        padded = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
        return F.conv1d(padded, self.DCK(weight.abs(), P, SIG), bias, self.stride, 0, 1, self.groups)

class Flat(_DclsNd):
    def __init__(self, version):
        super().__init__(4, 6, 2, (1, 1), (2, 0), (5,), False, (0, 0), 2, False, "zeros", version)
        self.DCK = ConstructKernel1d(6, 4, 2, 2, (5,), version)

    def forward(self, input):
        kernel = self.DCK(self.weight, self.P, self.SIG).unsqueeze(-1)
        return F.conv2d(input, kernel, self.bias, self.stride, self.padding, 1, self.groups)

class Transposed(_DclsNd):
    def __init__(self, version):
        super().__init__(4, 6, 2, (2,), (1,), (5,), True, (1,), 2, True, "zeros", version)
        self.DCK = ConstructKernel1d(4, 6, 2, 2, (5,), version)

    def forward(self, input):
        kernel = self.DCK(self.weight, self.P, self.SIG)
        return F.conv_transpose1d(
            input, kernel, self.bias, self.stride, self.padding, self.output_padding, self.groups
        )

class Spectrogram(_DclsN_Md):
    def __init__(self, version):
        super().__init__(
            4, 6, 2, (1, 1, 1), (0, 0, 2), (2, 3), (5,), False, (0, 0, 0), 2, True, "zeros", version
        )
        self.DCK = ConstructKernel3_1d(6, 4, 2, 2, (2, 3), (5,), version)

    def forward(self, input):
        return self._conv_forward(input, self.weight, self.bias, self.P, self.SIG)

    def _conv_forward(self, input, weight, bias, P, SIG):
        return F.conv3d(input, self.DCK(weight, P, SIG), bias, self.stride, self.padding, _triple(1), self.groups)

class ImplicitGemm(Dcls2d):
    def __init__(self, version):
        super().__init__(4, 4, 2, padding=2, dilated_kernel_size=5, groups=4, version=version)

    def _conv_forward(self, input, weight, bias, P, SIG):
        if self.use_implicit_gemm and self.cond:
            raise ImportError
        return F.conv2d(input, self.DCK(weight, P, SIG), bias, self.stride, self.padding, _pair(1), self.groups)

class DckFirst(Dcls1d):
    def __init__(self, version):
        super().__init__(4, 6, 2, dilated_kernel_size=9, padding=4, version=version)
        self.DCK = ConstructKernel1d(6, 4, 1, 5, (9,), version)
        self.weight = Parameter(torch.randn(6, 4, 5))
        self.P = Parameter(torch.randn(1, 6, 4, 5))
        if version in ("max", "gauss"):
            self.SIG = Parameter(torch.rand(1, 6, 4, 5))

class OneFormula(ConstructKernel1d):
    def forward_v1(self, W, P):
        self.__init_tmp_variables__(W.device)
        X = (1.5 - (self.IDX - P - self.lim // 2).abs()).relu().prod(1)
        return ((X * W).sum(-1)).permute(1, 2, 0)

class OwnFormula(Delays):
    def __init__(self, version):
        super().__init__(version)
        self.DCK = OneFormula(6, 4, 1, 2, (9,), version)

    def forward(self, input):
        return F.conv1d(input, self.DCK(self.weight, self.P, self.SIG), self.bias, padding=self.padding)
"""


@pytest.mark.parametrize("version", VERSIONS[1:])
@pytest.mark.parametrize(
    ("name", "axes"),
    [
        ("DelaysByPadding", 1),
        ("Flat", 2),
        ("Transposed", 1),
        ("Spectrogram", 3),
        ("ImplicitGemm", 2),
        ("OwnFormula", 1),
        ("DckFirst", 1),
    ],
)
def test_subclasses(original, name, axes, version):
    layers = []
    for module in (original, modules):
        names = {key: getattr(module, key) for key in dir(module) if not is_dunder(key)}
        exec(SUBCLASSES, names)
        torch.manual_seed(0)
        layers.append(names[name](version).double())
    theirs, ours = layers
    if name == "Transposed":
        assert ours.weight.shape == theirs.weight.shape == (4, 3, 2)
    for key, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value), key
    input = torch.randn(2, 4, *[9] * axes, dtype=torch.float64)
    torch.testing.assert_close(ours(input), theirs(input))
    ours.clamp_parameters()
    assert ours.version == version
    assert repr(ours)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_subclass_need_only_set_dck(original, version):
    names = {key: getattr(modules, key) for key in dir(modules) if not is_dunder(key)}
    exec(SUBCLASSES, names)
    layer = names["Delays"](version)
    reference = modules.Dcls1d(4, 6, 2, padding=2, dilated_kernel_size=9, version=version)
    reference.load_state_dict(layer.state_dict())
    input = torch.randn(2, 4, 12)
    torch.testing.assert_close(layer(input), reference(input))
    layer.version = "v1"
    assert layer.DCK.version == "v1"
    layer.clamp_parameters()
    assert "kernel_count=2" in repr(layer)
    torch.testing.assert_close(deploy.fold(nn.Sequential(layer))(input), layer(input))


def test_a_transposed_layer_needs_a_forward():
    names = {key: getattr(modules, key) for key in dir(modules) if not is_dunder(key)}
    exec(SUBCLASSES, names)
    layer = names["Transposed"]("v1")
    with pytest.raises(NotImplementedError, match="Transposed is transposed: it needs a _conv_forward of its own"):
        modules._DclsNd.forward(layer, torch.randn(1, 4, 9))
