"""The parts of runs of fields: folds, masks, conditions that are made, settings."""

import pytest
import torch
from torch.nn import functional as F

from structdiff.artifacts import RunFolder
from structdiff.batch import Batch
from structdiff.codecs.standardise import Standardise
from structdiff.counter import Counter
from structdiff.objectives import Denoising, Objective, Terms
from structdiff.random import Generator
from structdiff.runs.fields import FieldConfig, Fields, Made, Record, folded
from structdiff.runs.fields.build import build, codec_of, objective_of
from structdiff.runs.fields.conditions import fold_of
from structdiff.runs.fields.model import latent_mask
from structdiff.runs.fields.objective import Seeded, random_boxes
from structdiff.runs.fields.process import process_of
from tests.runs.stripes import EVENT, Names, Small, StripeRun, config_of, patterns


def test_folds_are_torchs_blocks_and_rims_are_zero():
    x = torch.randn(2, 3, 8, 12)
    assert torch.equal(folded(x, (4, 6)), F.pixel_unshuffle(x, 2))
    odd = folded(x[:, :, :7], (4, 6))
    assert torch.equal(odd, F.pixel_unshuffle(F.pad(x[:, :, :7], (0, 0, 0, 1)), 2))
    assert torch.equal(folded(x, (9, 12)), x)
    line = torch.arange(6.0).reshape(1, 1, 6)
    assert folded(line, (3,)).tolist() == [[[0, 2, 4], [1, 3, 5]]]
    assert fold_of((30, 28), (8, 7)) == 4


@pytest.mark.parametrize("sizes", [((8, 8), (4, 4)), ((7, 5), (4, 3)), ((6,), (2,))])
def test_a_latent_place_is_known_where_all_that_it_covers_is(sizes):
    places, latent = sizes
    known = torch.rand(5, 1, *places, generator=torch.Generator().manual_seed(0)) < 0.8
    found = latent_mask(known, (3, *latent))
    factor = fold_of(places, latent)
    for place in torch.cartesian_prod(*(torch.arange(n) for n in latent)).reshape(-1, len(latent)):
        block = [slice(factor * int(p), factor * int(p) + factor) for p in place]
        want = known[(slice(None), 0, *block)].flatten(1).all(1)
        assert torch.equal(found[(slice(None), 0, *place.tolist())], want)
    assert latent_mask(known, latent).shape == (5, *latent)


def test_boxes_leave_all_but_a_box_given_alone_and_in_any_batch():
    batch = Batch.of({"x": torch.zeros(64, 2, 8, 8)})
    chosen = torch.arange(64) % 2 == 0
    given = random_boxes(batch, Counter(3), chosen).given["x"]
    assert not given[1::2].any()
    assert torch.equal(given[:, 0], given[:, 1])
    holes = ~given[::2, 0]
    for hole in holes:
        rows, columns = hole.any(1), hole.any(0)
        assert torch.equal(hole, rows[:, None] & columns[None])
        for side in (rows, columns):
            inside = side.nonzero().flatten()
            assert 2 <= len(inside) == int(inside[-1] - inside[0]) + 1
    assert len(torch.unique(holes.flatten(1), dim=0)) > 16
    one = random_boxes(batch.select([10]), Counter(3), chosen[10:11]).given["x"]
    assert torch.equal(one[0], given[10])


class Kept(Objective):
    """Remembers the batch that it sees."""

    def __call__(self, denoiser, batch, random):
        self.batch = batch
        return Terms({"x": torch.zeros(batch.samples)}, {})


def test_conditions_are_made_of_the_clean_field_alike_alone_and_in_any_batch():
    x = torch.randn(6, *EVENT)
    batch = Batch.of({"x": x}).with_condition({"seen": x, "label": torch.arange(6)})
    kept = Kept()
    Made(kept, {"seen": Small()}, (4, 4))(None, batch, Counter(1))
    seen = kept.batch.condition["seen"]
    assert torch.allclose(seen[:, :1], F.avg_pool2d(x, 2))
    assert torch.equal(kept.batch.condition["label"], torch.arange(6))
    drawn = seen[:, 1, 0, 0]
    assert len(drawn.unique()) == 6
    Made(kept, {"seen": Small()}, (4, 4))(None, batch.select([4]), Counter(1))
    assert torch.equal(kept.batch.condition["seen"][0], seen[4])


def test_conditions_are_hidden_at_the_rate_of_the_settings():
    config = config_of(loss={"dropout": 0.3})
    fields = StripeRun.fields_of(config, Names())
    objective = objective_of(config, fields, Record(fields, None))
    objective.objective = kept = Kept()
    batch = Batch.of({"stripe": torch.zeros(4000, *EVENT)})
    objective(None, batch.with_condition({"label": torch.zeros(4000).long()}), Generator(0))
    absent = 1 - kept.batch.present["label"].double().mean()
    assert abs(absent - 0.3) < 4 * (0.21 / 4000) ** 0.5
    none = objective_of(config_of(loss={"dropout": 0.0}), fields, Record(fields, None))
    assert isinstance(none, Denoising)


def test_dropout_of_the_network_follows_from_the_noise_that_it_is_handed():
    unet = {"kind": "unet", "width": 8, "multipliers": (1,), "attention": (), "features": 8}
    config = config_of(network={**unet, "dropout": 0.5})
    fields = StripeRun.fields_of(config, Names())
    record = Record(fields, None)
    denoiser, objective = build(config, fields, record), objective_of(config, fields, record)
    for weight in denoiser.parameters():  # the last layer is zero at first
        torch.nn.init.normal_(weight, std=0.3)
    assert isinstance(objective, Seeded)
    batch = record.batch(patterns()[0], {"label": patterns()[1]})
    before = torch.random.get_rng_state()
    first, again, other = (
        float(objective(denoiser, batch, Generator(seed)).total.detach()) for seed in (0, 0, 1)
    )
    assert first == again != other
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("kind", "latent", "classes"),
    [
        ("standardise", (1, 4, 4), 0),
        ("wavelet", (4, 2, 2), 0),
        ("kl", (3, 2, 2), 0),
        ("vq", (2, 2), 8),
        ("residual-vq", (2, 2, 2), 8),
    ],
)
def test_codecs_of_the_settings_have_the_latents_that_they_say(kind, latent, classes):
    codec = {"kind": kind, "halvings": 1, "width": 4, "channels": 3, "codes": 8, "books": 2}
    config = config_of(codec=codec)
    fields = StripeRun.fields_of(config, Names())
    made = codec_of(config, fields)
    record = Record(fields, made)
    assert (record.latent, record.classes) == (latent, classes)
    z = made.encode(patterns()[0])
    batch = record.batch(z)
    assert torch.equal(record.whole(batch[record.leaf]), z)
    assert record.leaf == ("code" if classes else "stripe")
    assert batch.layouts[record.leaf].counts == (record.rows,) * 4
    process_of(config, fields, record).bind(batch)


def test_a_shift_multiplies_the_noise_to_signal_ratio():
    fields = Fields("x", EVENT)
    plain, shifted = (
        process_of(config_of(noise={"shift": shift}), fields, Record(fields, None))["x"].schedule
        for shift in (1.0, 3.0)
    )
    t = torch.tensor(0.4)
    ratio = shifted.sigma(t) / shifted.alpha(t) / (plain.sigma(t) / plain.alpha(t))
    assert abs(float(ratio) - 3) < 1e-9


@pytest.mark.parametrize(
    ("groups", "match"),
    [
        ({"noise": {"predict": "noise"}}, "predict velocity"),
        ({"codec": {"kind": "vq", "joint": True}}, "codec.joint.*take kl"),
        (
            {"codec": {"kind": "kl", "joint": True}, "noise": {"schedule": "flow"}},
            "keeps the variance",
        ),
        ({"codec": {"kind": "kl", "joint": True}, "loss": {"given": 0.5}}, "loss.given = 0.5"),
        ({"codec": {"kind": "vq"}, "sampler": {"kind": "heun"}}, "take ancestral"),
        ({"sampler": {"kind": "confidence"}}, "confidence is of codes"),
        ({"sampler": {"temperature": 0.5}}, "are of codes: leave them at 1, got 0.5"),
        ({"codec": {"kind": "kl"}, "sampler": {"threshold": "dynamic"}}, "take none"),
        (
            {
                "codec": {"kind": "vq"},
                "noise": {"process": "mask-and-replace"},
                "sampler": {"eta": 0.5},
            },
            "mask-and-replace is 1, got 0.5",
        ),
        ({"sampler": {"guide_from": 0.6, "guide_to": 0.4}}, "guide_from must be at most"),
        ({"network": {"kind": "transformer", "width": 10, "heads": 4}}, "multiple of twice"),
        ({"network": {"attention": (3,)}}, "sizes below 3"),
        ({"network": {"multipliers": (1, 0, 2)}}, "positive numbers, got"),
        ({"codec": {"kind": "vq"}, "loss": {"given": 0.5}}, "leave it at 0, got 0.5"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(groups, match):
    with pytest.raises(ValueError, match=match):
        FieldConfig.model_validate(groups)


def test_codecs_and_conditions_that_do_not_fit_are_refused(tmp_path):
    config = config_of(codec={"kind": "kl", "halvings": 3})
    with pytest.raises(
        ValueError, match=r"codec.kind kl does not fit fields of shape \(1, 4, 4\)"
    ):
        StripeRun.trained(config, tmp_path / "run", Names(), None)  # before the data are looked at
    assert not (tmp_path / "run").exists()
    codes = config_of(codec={"kind": "vq", "halvings": 1, "width": 4})
    fields = Fields("stripe", EVENT, (), {"seen": Small()})
    with pytest.raises(ValueError, match=r"codes cannot see \['seen'\]"):
        build(codes, fields, Record(fields, codec_of(codes, fields)))
    narrow = config_of(network={"kind": "transformer", "width": 8, "heads": 4})
    plain = Fields("stripe", EVENT, ())
    with pytest.raises(ValueError, match=r"network.heads, 8, and at least 16 for 2 axes, got 8"):
        build(narrow, plain, Record(plain, None))
    with pytest.raises(ValueError, match="one class, 'a'"):
        Fields("x", EVENT, ("a",))
    with pytest.raises(ValueError, match="channels and places"):
        Fields("x", (3,))
    with pytest.raises(ValueError, match="channels and places"):
        Record(Fields("x", EVENT), Standardise((16,)))
    with pytest.raises(FileNotFoundError, match="config.json"):
        StripeRun.load(RunFolder(tmp_path).path)
