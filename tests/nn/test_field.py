"""What the network inside a backbone of fields is shown."""

import pytest
import torch
from torch import nn

from structdiff.batch import Batch
from structdiff.nn.field import FieldNetwork


class Probe(nn.Module):
    """Keeps what it sees and gives the first channels back."""

    def __init__(self, inputs, outputs, *, condition=0, context=0):
        super().__init__()
        self.sizes = (inputs, outputs, condition, context)

    def forward(self, x, condition=None, context=None, mask=None):
        self.seen = (x, condition, context, mask)
        return x[:, : self.sizes[1]]


CLOCK = {"x": torch.tensor(0.3)}


def make(**settings):
    torch.manual_seed(0)
    return FieldNetwork(Probe, 2, features=6, **settings)


def batch_of(**condition):
    return Batch.of(torch.randn(3, 2, 4, 4)).with_condition(condition)


def test_a_condition_with_places_is_brought_to_the_places_of_the_field():
    network, small = make(fields={"small": 1}), torch.randn(3, 1, 2, 2)
    batch = batch_of(small=small)
    output = network(batch, CLOCK, None)["x"]
    x = network.network.seen[0]
    assert network.network.sizes[:2] == (3, 2)
    torch.testing.assert_close(output, batch["x"])
    torch.testing.assert_close(x[:, 2:, ::2, ::2], small)
    torch.testing.assert_close(x[:, 2:, 1::2, 1::2], small)


def test_an_absent_field_is_zero_and_known_to_be_absent_sample_by_sample():
    network = make(fields={"small": 1})
    batch = batch_of(small=torch.full((3, 1, 4, 4), torch.nan))
    batch.condition["small"][1] = 7.0
    batch = batch.with_present({"small": torch.tensor([False, True, False])})
    network(batch, CLOCK, None)
    x, features = network.network.seen[:2]
    assert x[[0, 2], 2:].abs().max() == 0
    assert (x[1, 2:] == 7).all()
    torch.testing.assert_close(features[0], features[2])
    assert not torch.allclose(features[0], features[1])
    without = make(fields={"small": 1})
    without(batch_of(), CLOCK, None)
    torch.testing.assert_close(without.network.seen[1][0], features[0])


def test_features_say_the_clock_and_the_class():
    network = make(kinds={"label": 3})
    batch = batch_of(label=torch.tensor([0, 1, 1]))
    network(batch, CLOCK, None)
    first = network.network.seen[1]
    network(batch, {"x": torch.tensor([0.3, 0.3, 2.0])}, None)
    second = network.network.seen[1]
    torch.testing.assert_close(first[1], first[2])
    assert not torch.allclose(first[0], first[1])
    torch.testing.assert_close(first[:2], second[:2])
    assert not torch.allclose(second[1], second[2])


def test_given_entries_are_marked_and_the_noisiest_entry_says_the_clock():
    network = make(known=True)
    batch = batch_of()
    clock = torch.full((3, 2, 4, 4), 0.3)
    clock[0, :, :2] = 20.0
    clock[1, 0, 0, 0] = 20.0
    network(batch, {"x": clock}, None)
    x, features = network.network.seen[:2]
    assert x[0, 2].tolist() == [[1.0] * 4] * 2 + [[0.0] * 4] * 2
    assert x[1:, 2].abs().max() == 0  # one channel alone is not a known place
    network(batch, CLOCK, None)
    torch.testing.assert_close(features, network.network.seen[1])
    assert network.network.seen[0][:, 2].abs().max() == 0


def test_the_previous_estimate_is_zero_at_first():
    network, batch = make(self_conditioning=True), batch_of()
    network(batch, CLOCK, None)
    assert network.network.seen[0][:, 2:].abs().max() == 0
    before = torch.randn(3, 2, 4, 4)
    network(batch, CLOCK, {"x": before})
    torch.testing.assert_close(network.network.seen[0][:, 2:], before)


def test_tokens_of_a_text_count_where_they_are_symbols_of_a_known_text():
    network = make(texts={"title": 5})
    text = torch.tensor([[1, 2, 0], [3, 0, 0], [4, 4, 4]])
    batch = batch_of(title=text).with_present({"title": torch.tensor([True, True, False])})
    network(batch, CLOCK, None)
    _, _, context, mask = network.network.seen
    assert context.shape == (3, 4, 6)
    assert mask.long().tolist() == [[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]]
    assert not torch.allclose(context[2, 1], context[2, 2])  # one symbol at two places
    network(batch_of(), CLOCK, None)
    assert network.network.seen[3].tolist() == [[True]] * 3


def test_bad_conditions_are_named():
    with pytest.raises(ValueError, match="channels and features must be positive"):
        FieldNetwork(Probe, 0)
    network = make(fields={"small": 1})
    with pytest.raises(ValueError, match=r"'small' must have shape \(samples, 1, ...\)"):
        network(batch_of(small=torch.zeros(3, 2, 2, 2)), CLOCK, None)
    with pytest.raises(ValueError, match="knows the conditions"):
        network(batch_of(other=torch.zeros(3)), CLOCK, None)


def test_a_class_is_heard_beside_the_clock_at_first():
    """Its one feature has weights of unit variance: it moves the layer as 64 that vary do."""
    weight = FieldNetwork(Probe, 2, features=512, kinds={"label": 10}).enter[0].weight.detach()
    label = weight[:, 64:]
    assert label.shape[1] == 11
    assert abs(float(label.var()) - 1) < 5 * (2 / label.numel()) ** 0.5
    assert float(weight[:, :64].var()) < 0.1
