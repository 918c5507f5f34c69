"""FSDP2 shards along the first axis, which P has for the axes of the kernel: of two shards, one may be empty."""

import os
import tempfile
import warnings
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from layers import EVERY_LAYER, input_of
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard

WORLD_SIZE = 2


def whole(model):
    return {name: parameter.full_tensor() for name, parameter in model.named_parameters()}


def check_layer(mesh, cls, arguments, axis):
    """From the meta device to a training step, beside a copy that is not sharded."""
    with torch.device("meta"):
        model = nn.Sequential(cls(4, 6, **arguments))
    fully_shard(
        model,
        mesh=mesh,
        # Along other axes than the first, FSDP shards evenly or not at all.
        shard_placement_fn=lambda p: Shard(axis) if p.dim() > axis and p.shape[axis] % WORLD_SIZE == 0 else None,
    )
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        parameter.data.zero_()
    (layer,) = model
    layer.reset_parameters()
    for name, value in whole(model).items():
        assert value.isfinite().all(), name
        assert value.abs().max() > 0, name

    plain = nn.Sequential(cls(4, 6, **arguments))
    plain.load_state_dict(whole(model))
    torch.manual_seed(0)
    input = input_of(layer)
    for each in (model, plain):
        optimiser = torch.optim.SGD(each.parameters(), lr=1e3)  # far enough for positions to leave the kernel
        each(input).square().mean().backward()
        optimiser.step()
        if hasattr(each[0], "clamp_parameters"):
            each[0].clamp_parameters()
    trained = whole(model)
    for name, expected in plain.state_dict().items():
        torch.testing.assert_close(trained[name], expected, rtol=1e-4, atol=1e-3, msg=f"{name} differs")


def run(rank, folder):
    warnings.filterwarnings("ignore", "DTensor random operators may not have complete support on cpu")
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        rank=rank,
        world_size=WORLD_SIZE,
        init_method=f"file://{folder}/rendezvous",
        timeout=timedelta(minutes=3),
    )
    mesh = init_device_mesh("cpu", (WORLD_SIZE,))
    failures = []
    for cls, arguments in EVERY_LAYER:
        for axis in (0, 1):
            try:
                check_layer(mesh, cls, arguments, axis)
            except Exception as error:
                failures.append(f"{cls.__module__}.{cls.__name__}({arguments}), sharded along {axis}: {error!r}")
    Path(folder, f"{rank}").write_text("\n".join(failures))
    dist.barrier()
    # A thread of gloo may still hold the last tensors: it aborts if it lets go of them while Python shuts down.
    os._exit(0)


def test_every_layer_trains_sharded():
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(run, (folder,), WORLD_SIZE)
        assert [Path(folder, f"{rank}").read_text() for rank in range(WORLD_SIZE)] == [""] * WORLD_SIZE
