import pytest
import torch
from comparing import operators
from expecttest import assert_expected_inline
from torch import nn
from torch.export import Dim

from dcls_ops.nn import Dcls2d


@pytest.mark.parametrize("strict", [False, True])
def test_dynamic_sizes_survive_saving_and_loading(tmp_path, strict):
    model = nn.Sequential(
        Dcls2d(3, 8, kernel_count=5, padding=4, dilated_kernel_size=9),
        nn.ReLU(),
        Dcls2d(8, 8, kernel_count=4, padding=3, dilated_kernel_size=7, groups=8, version="v1"),
        Dcls2d(
            8, 4, 9, padding=4, dilated_kernel_size=9, version="v0", shared_positions=True, method="im2col", bias=False
        ),
    ).eval()
    sizes = {0: Dim("batch", max=64), 2: Dim("height", min=4, max=512), 3: Dim("width", min=4, max=512)}
    exported = torch.export.export(model, (torch.randn(2, 3, 17, 19),), dynamic_shapes=(sizes,), strict=strict)
    path = tmp_path / "model.pt2"
    torch.export.save(exported, path)
    loaded = torch.export.load(path)
    assert_expected_inline(
        operators(loaded.graph),
        """\
aten.ge.Scalar
aten.neg.default
aten.where.self
aten.add.Tensor
dcls.conv2d.default
aten.relu.default
dcls.conv2d.default
dcls.conv2d.default""",
    )
    for shape in ((1, 3, 4, 5), (2, 3, 17, 19), (5, 3, 40, 33)):
        input = torch.randn(shape)
        torch.testing.assert_close(loaded.module()(input), model(input))


def test_direct_calls_are_one_node():
    class Direct(nn.Module):
        def forward(self, input, weight, positions):
            return torch.ops.dcls.conv2d(input, weight, positions, [5, 5], version="v1")

    arguments = (torch.randn(1, 3, 8, 8), torch.randn(4, 3, 2), torch.randn(2, 4, 3, 2))
    exported = torch.export.export(Direct(), arguments)
    assert operators(exported.graph) == "dcls.conv2d.default"
    # Decomposition to core ATen leaves the operator alone.
    assert operators(exported.run_decompositions().graph) == "dcls.conv2d.default"


def test_compiled_ahead_of_time(tmp_path):
    layer = Dcls2d(3, 4, 2, padding=2, dilated_kernel_size=5).eval()
    input = torch.randn(2, 3, 9, 9)
    exported = torch.export.export(layer, (input,), dynamic_shapes=({0: Dim("batch", min=1, max=64)},))
    path = torch._inductor.aoti_compile_and_package(exported, package_path=str(tmp_path / "layer.pt2"))
    loaded = torch._inductor.aoti_load_package(path)
    for batch in (input, torch.randn(5, 3, 9, 9)):
        torch.testing.assert_close(loaded(batch), layer(batch))
