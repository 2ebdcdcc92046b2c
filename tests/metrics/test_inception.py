"""Inception-v3: the known numbers of weights, its names, its pools, and files that are not its."""

import pytest
import torch
from safetensors.torch import save_file

from structdiff.metrics.inception import InceptionFeatures


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return InceptionFeatures()


def test_it_has_the_weights_that_are_known_of_it(network):
    # torchvision's has 27,161,264; 3,326,696 of its side branch, 2,049,000 of its classes.
    count = sum(weight.numel() for weight in network.parameters())
    assert count == 27_161_264 - 3_326_696 - 2_049_000
    names = network.state_dict()
    assert names["Conv2d_1a_3x3.conv.weight"].shape == (32, 3, 3, 3)
    assert names["Mixed_5b.branch_pool.conv.weight"].shape == (32, 192, 1, 1)
    assert names["Mixed_6c.branch7x7dbl_2.conv.weight"].shape == (160, 160, 7, 1)
    assert names["Mixed_6e.branch7x7_3.bn.running_mean"].shape == (192,)
    assert names["Mixed_7a.branch7x7x3_4.conv.weight"].shape == (192, 192, 3, 3)
    assert names["Mixed_7c.branch3x3dbl_1.conv.weight"].shape == (448, 2048, 1, 1)


def test_sizes_on_the_way_are_those_of_the_paper(network):
    found, hooks = {}, []
    for name, module in network.named_children():

        def keep(_, __, y, name=name):
            found[name] = tuple(y.shape[1:])

        hooks.append(module.register_forward_hook(keep))
    with torch.no_grad():
        x = torch.rand(1, 1, 20, 20) * 2 - 1
        grey, colour = network.features(x), network.features(x.expand(1, 3, 20, 20))
    for hook in hooks:
        hook.remove()
    assert found["Conv2d_4a_3x3"] == (192, 71, 71)
    assert found["Mixed_5d"] == (288, 35, 35)
    assert found["Mixed_6e"] == (768, 17, 17)
    assert found["Mixed_7c"] == (2048, 8, 8)
    assert grey.shape == (1, 2048)
    torch.testing.assert_close(grey, colour, rtol=1e-3, atol=0)


def test_means_leave_out_the_rim_and_the_last_block_takes_a_maximum(network):
    x = torch.ones(1, 1, 4, 4)
    assert torch.equal(network.Mixed_5b.pool(x), x)
    x[0, 0, 1, 1] = 5
    assert float(network.Mixed_7b.pool(x)[0, 0, 0, 0]) == 2
    assert float(network.Mixed_7c.pool(x)[0, 0, 0, 0]) == 5


def test_weights_come_from_a_file_and_are_named(network, tmp_path):
    path = tmp_path / "inception.safetensors"
    others = {"fc.weight": torch.zeros(1000, 2048), "AuxLogits.fc.bias": torch.zeros(1000)}
    plain = {n: x for n, x in network.state_dict().items() if "num_batches" not in n}
    save_file({**plain, **others}, path)
    loaded = InceptionFeatures.load(path)
    for name, x in loaded.state_dict().items():
        assert torch.equal(x, network.state_dict()[name])
    assert loaded.about().startswith("Inception-v3, weights of inception.safetensors (")
    assert "random" in network.about()


def test_files_that_are_not_its_are_refused(network, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        InceptionFeatures.load(tmp_path / "no")
    torch.save({"a": torch.zeros(1)}, tmp_path / "pickled.pth")
    with pytest.raises(ValueError, match="is no safetensors file"):
        InceptionFeatures.load(tmp_path / "pickled.pth")
    plain = {n: x for n, x in network.state_dict().items() if "num_batches" not in n}
    few = {n: x for n, x in plain.items() if "Conv2d_1a" in n}
    save_file(few, tmp_path / "cut")
    with pytest.raises(ValueError, match=f"lacks {len(plain) - 5} tensors .* as Conv2d_2a"):
        InceptionFeatures.load(tmp_path / "cut")
    shapes = {n: torch.zeros(x.shape, dtype=torch.uint8) for n, x in plain.items()}
    shapes["Conv2d_1a_3x3.conv.weight"] = torch.zeros(32, 1, 3, 3)
    save_file(shapes, tmp_path / "grey")
    with pytest.raises(ValueError, match="other shapes: .*Conv2d_1a_3x3"):
        InceptionFeatures.load(tmp_path / "grey")
