"""The U-Nets of papers, by the settings of a run alone."""

from functools import partial

import pytest
import torch

from structdiff.batch import Batch
from structdiff.nn.field import FieldNetwork
from structdiff.nn.unet_blocks import ResidualBlock
from structdiff.nn.unet_presets import adm, ddpm_plus_plus, ncsn_plus_plus
from structdiff.runs.fields import FieldConfig, Fields, Record
from structdiff.runs.fields.network import backbone_of
from tests.nn.networks import awake, random
from tests.runs.stripes import StripeRun, Stripes, config_of, train

PUBLISHED = {
    "ddpm++": (8, (1, 8, 8), ddpm_plus_plus(8, 1)),
    "ncsn++": (8, (1, 9, 6), ncsn_plus_plus(8, 1)),
    "adm": (64, (3, 32, 32), adm(32, 64, 1)),
}


def built(kind, width, event, **others):
    network = {"kind": kind, "width": width, "blocks": 1, "features": 8, **others}
    config = FieldConfig.model_validate({"network": network})
    fields = Fields("image", event, ("cat", "dog"))
    torch.manual_seed(0)
    return backbone_of(config, fields, Record(fields, None))


@pytest.mark.parametrize("kind", PUBLISHED)
def test_the_network_that_settings_name_is_that_of_the_function(kind):
    """The same parts, the same weights of the same seed, and the same output of woken ones."""
    width, event, make = PUBLISHED[kind]
    found = built(kind, width, event, dropout=0.1)
    torch.manual_seed(0)
    own = FieldNetwork(make, event[0], leaf="image", kinds={"label": 2}, features=8)
    assert str(found) == str(own)
    weights = own.state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in found.state_dict().items())
    batch = Batch.of({"image": random(2, *event)})
    batch = batch.with_condition({"label": torch.tensor([1, 0])})
    clock = {"image": torch.tensor([0.3, -1.0])}
    outputs = []
    for network in (found, own):
        torch.manual_seed(1)
        outputs.append(awake(network).eval()(batch, clock, None)["image"])
    assert outputs[0].abs().max() > 0.01
    assert torch.equal(*outputs)


def test_the_papers_networks_differ_and_width_blocks_and_dropout_are_settings():
    """Sizes, attention and heads are the paper's: what is said of the plain one is not theirs."""
    kinds = ("unet", "ddpm++", "ncsn++", "adm")
    assert len({str(built(kind, 64, (1, 32, 32))) for kind in kinds}) == 4
    plain = built("ddpm++", 8, (1, 8, 8))
    assert str(built("ddpm++", 8, (1, 8, 8), multipliers=(1,), attention=())) == str(plain)
    dropped = [
        {part.dropout for part in network.modules() if isinstance(part, ResidualBlock)}
        for network in (plain, built("ddpm++", 8, (1, 8, 8), dropout=0.2))
    ]
    assert dropped == [{0.0}, {0.2}]
    more = built("ddpm++", 8, (1, 8, 8), blocks=2)
    assert len(more.network.down[0]) == 2 == 2 * len(plain.network.down[0])


def test_the_papers_networks_are_of_any_number_of_axes():
    """A line: DDPM++ of one axis has a third of the weights of each convolution."""
    line = built("ddpm++", 8, (1, 12))
    torch.manual_seed(0)
    make = partial(ddpm_plus_plus(8, 1), dimensions=1, dropout=0.0)
    own = FieldNetwork(make, 1, leaf="image", kinds={"label": 2}, features=8)
    assert str(line) == str(own)


def test_a_run_with_a_papers_network_is_the_same_again(tmp_path):
    """What is dropped follows from the seed of the run, as dropout is that of its settings."""
    said = {"kind": "ddpm++", "width": 4, "blocks": 1, "features": 8, "dropout": 0.3}
    config = config_of(network=said)
    runs = [train(tmp_path / name, config, Stripes()) for name in ("one", "two")]
    first, second = (run.model.denoiser.state_dict() for run in runs)
    assert all(torch.equal(weight, second[name]) for name, weight in first.items())
    assert StripeRun.load(tmp_path / "one").config.network.kind == "ddpm++"
    assert "ddpm++ of width 4" in runs[0].facts()["network"]


def test_unknown_networks_and_sizes_are_refused():
    with pytest.raises(ValueError, match=r"'unet', 'ddpm\+\+', 'ncsn\+\+', 'adm', 'transformer'"):
        FieldConfig.model_validate({"network": {"kind": "ddpm"}})
    with pytest.raises(ValueError, match="network.width must be a multiple of 64 .* got 100"):
        FieldConfig.model_validate({"network": {"kind": "adm", "width": 100}})
    with pytest.raises(ValueError, match=r"fields of 28 places .* one of \[32, 64, 128, 256\]"):
        built("adm", 64, (1, 28, 28))
