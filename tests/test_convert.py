"""Checkpoints of the original package in layers of dcls_ops.nn."""

import pytest
import torch
from DCLS.construct import modules
from drawing import randomise

from dcls_ops import nn
from dcls_ops._versions import VERSIONS
from dcls_ops.convert import load_original

# Extents: square, not square, even.
LAYERS = [
    ("Dcls1d", {"dilated_kernel_size": 8}, 1),
    ("Dcls2d", {"dilated_kernel_size": 7}, 2),
    ("Dcls2d", {"dilated_kernel_size": (4, 9)}, 2),
    ("Dcls3d", {"dilated_kernel_size": 4}, 3),
    ("Dcls3d", {"dilated_kernel_size": (3, 8, 5)}, 3),
    ("Dcls3_1d", {"dense_kernel_size": (2, 3), "dilated_kernel_size": 7}, 3),
    ("Dcls2dK1d", {"dilated_kernel_size": 7, "flat_dim": 0}, 2),
    ("Dcls2dK1d", {"dilated_kernel_size": 6, "flat_dim": 1}, 2),
]


@pytest.mark.parametrize(
    ("name", "arguments", "axes", "version"),
    # The original's Dcls3_1d has no v0.
    [(*layer, version) for layer in LAYERS for version in VERSIONS if (layer[0], version) != ("Dcls3_1d", "v0")],
    ids=str,
)
def test_computes_what_the_original_did(original, name, arguments, axes, version):
    arguments = {**arguments, "kernel_count": 3, "groups": 2, "version": version}
    theirs = randomise(getattr(original, name)(4, 6, **arguments)).double()
    if "flat_dim" in arguments:
        arguments["flat_dim"] = 1 - arguments["flat_dim"]  # the original counts from the last axis
    model = torch.nn.Sequential(torch.nn.ReLU(), getattr(nn, name)(4, 6, **arguments)).double()
    assert load_original(model, torch.nn.Sequential(torch.nn.ReLU(), theirs).state_dict()) is model
    input = torch.randn(2, 4, *[10] * axes, dtype=torch.float64)
    torch.testing.assert_close(model(input), theirs(input.relu()), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("version", ["v1", "max", "gauss"])
@pytest.mark.parametrize("cls", [nn.Dcls2_1d, modules.Dcls2_1d], ids=["dcls_ops.nn", "DCLS"])
def test_dcls2_1d(version, cls):
    arguments = {"kernel_count": 3, "dense_kernel_size": 2, "dilated_kernel_size": 7, "version": version}
    theirs = randomise(modules.Dcls2_1d(4, 6, **arguments)).double()  # compared with the original in tests/drop_in
    state = {**theirs.state_dict(), "DCK.IDX": torch.zeros(1), "DCK.lim": torch.zeros(1)}
    ours = load_original(cls(4, 6, **arguments).double(), state)
    input = torch.randn(2, 4, 6, 12, dtype=torch.float64)
    torch.testing.assert_close(ours(input), theirs(input), rtol=1e-9, atol=1e-9)


def test_shared_parameters_and_drop_in_layers(original):
    arguments = {"kernel_count": 3, "dilated_kernel_size": (3, 6), "version": "v1"}
    layers = [original.Dcls2d(4, 4, **arguments) for _ in range(3)]
    layers[1].P = layers[0].P
    theirs = torch.nn.Sequential(*layers)
    ours = torch.nn.Sequential(
        nn.Dcls2d(4, 4, **arguments), nn.Dcls2d(4, 4, **arguments), modules.Dcls2d(4, 4, **arguments)
    )
    ours[1].P = ours[0].P
    load_original(ours, theirs.state_dict())
    input = torch.randn(1, 4, 20, 20)
    torch.testing.assert_close(ours(input), theirs(input))


def test_one_layer_in_two_places(original):
    layer, theirs = nn.Dcls2d(4, 4, 3, dilated_kernel_size=5), original.Dcls2d(4, 4, 3, dilated_kernel_size=5)
    model = load_original(torch.nn.Sequential(layer, layer), torch.nn.Sequential(theirs, theirs).state_dict())
    input = torch.randn(1, 4, 20, 20)
    torch.testing.assert_close(model(input), theirs(theirs(input)))


def test_lists_all_that_does_not_match(original):
    theirs = torch.nn.Sequential(
        original.Dcls2d(4, 4, 3, dilated_kernel_size=5), original.Dcls2d(4, 6, 2, dilated_kernel_size=5, version="v1")
    )
    ours = torch.nn.Sequential(
        nn.Dcls2d(4, 4, 4, dilated_kernel_size=5, bias=False), nn.Dcls2d(4, 6, 2, dilated_kernel_size=5)
    )
    before = {key: value.clone() for key, value in ours.state_dict().items()}
    with pytest.raises(ValueError, match="does not fit") as error:
        load_original(ours, theirs.state_dict())
    assert str(error.value).splitlines() == [
        "the checkpoint does not fit the model",
        "  missing in the checkpoint: 1.SIG",
        "  not in the model: 0.bias",
        "  of another shape: 0.P (2, 4, 4, 3) instead of (2, 4, 4, 4), 0.SIG (2, 4, 4, 3) instead of (2, 4, 4, 4), "
        "0.weight (4, 4, 3) instead of (4, 4, 4)",
    ]
    assert all(torch.equal(value, before[key]) for key, value in ours.state_dict().items())


def test_a_checkpoint_of_other_axes_is_an_error(original):
    state = original.Dcls1d(4, 4, 3, dilated_kernel_size=5).state_dict()
    with pytest.raises(ValueError, match=r"P \(1, 4, 4, 3\) instead of \(2, 4, 4, 3\)"):
        load_original(nn.Dcls2d(4, 4, 3, dilated_kernel_size=(3, 6)), state)


def test_lists_keys_in_order():
    model = torch.nn.Sequential(*[nn.Dcls1d(1, 1, 1) for _ in range(3)])
    with pytest.raises(ValueError, match="not fit") as error:
        load_original(model, {key: torch.ones(1) for key in "edcba"})
    _, missing, unexpected = str(error.value).splitlines()
    assert missing.split(": ")[1] == ", ".join(sorted(model.state_dict()))
    assert unexpected.split(": ")[1] == "a, b, c, d, e"


def test_leaves_the_checkpoint_as_it_was(original):
    theirs = original.Dcls2d(4, 4, 3, dilated_kernel_size=(3, 6))
    state = theirs.state_dict()
    before = {key: value.clone() for key, value in state.items()}
    load_original(nn.Dcls2d(4, 4, 3, dilated_kernel_size=(3, 6)), state)
    assert state.keys() == before.keys()
    assert all(torch.equal(state[key], before[key]) for key in state)


class Counting(torch.nn.Linear):
    """With an entry in its state_dict that is no tensor."""

    steps = 0

    def get_extra_state(self):
        return {"steps": self.steps}

    def set_extra_state(self, state):
        self.steps = state["steps"]


def test_entries_that_are_no_tensors(original):
    theirs = torch.nn.Sequential(original.Dcls1d(2, 2, 1, dilated_kernel_size=5), Counting(3, 3))
    theirs[1].steps = 7
    model = load_original(
        torch.nn.Sequential(nn.Dcls1d(2, 2, 1, dilated_kernel_size=5), Counting(3, 3)), theirs.state_dict()
    )
    assert model[1].steps == 7


def test_shared_parameters_that_mean_different_things_are_an_error(original):
    versions = ("v1", "v0")
    theirs, ours = (
        torch.nn.Sequential(*[layers.Dcls2d(4, 4, 3, dilated_kernel_size=5, version=version) for version in versions])
        for layers in (original, nn)
    )
    for model in (theirs, ours):
        model[1].P = model[0].P
    with pytest.raises(ValueError, match=r"0\.P and 1\.P are one parameter of the model, but differ in the checkpoint"):
        load_original(ours, theirs.state_dict())


def test_parametrized_positions_are_an_error(original):
    layer = nn.Dcls2d(4, 4, 3, dilated_kernel_size=5)
    torch.nn.utils.parametrize.register_parametrization(layer, "P", torch.nn.Identity())
    with pytest.raises(ValueError, match=r"P must be a plain parameter, got a parametrized one"):
        load_original(layer, original.Dcls2d(4, 4, 3, dilated_kernel_size=5).state_dict())


def test_what_is_no_tensor_is_an_error(original):
    state = {**original.Dcls2d(4, 4, 3, dilated_kernel_size=5).state_dict(), "bias": None, "P": [1.0]}
    with pytest.raises(ValueError, match=r"P list instead of \(2, 4, 4, 3\), bias NoneType instead of \(4,\)"):
        load_original(nn.Dcls2d(4, 4, 3, dilated_kernel_size=5), state)


def test_keeps_the_versions_of_modules(original):
    class Versioned(torch.nn.Module):
        _version = 3

        def _load_from_state_dict(self, state_dict, prefix, local_metadata, *arguments):
            self.loaded_version = local_metadata.get("version")

    model = torch.nn.Sequential(Versioned())
    load_original(model, model.state_dict())
    assert model[0].loaded_version == 3
