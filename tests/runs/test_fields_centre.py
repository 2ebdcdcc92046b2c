"""Noise around a field that is shown, and walks that begin at it: two settings of their own."""

import tomllib

import pytest
import torch

from structdiff.artifacts import RunFolder
from structdiff.codecs.chain import Chain
from structdiff.codecs.standardise import Standardise
from structdiff.codecs.wavelet import Wavelet
from structdiff.counter import Counter
from structdiff.operators import Mask
from structdiff.runs.fields import FieldConfig, FieldModel, FieldRun, Fields, Making, Record, Seen
from structdiff.runs.fields.build import build, objective_of
from structdiff.runs.fields.centre import Centre
from structdiff.runs.fields.process import process_of
from structdiff.testing.noise import Impulses
from tests.runs.stripes import EVENT, Exact, Names, StripeRun, config_of, nearest, patterns


class Worn(Making):
    """Half of the field under some noise."""

    def forward(self, clean, random):
        return clean / 2 + 0.05 * random.normal(clean.shape, clean.dtype, clean.device)


class WornRun(FieldRun):
    """A run of stripes that is shown worn ones."""

    domain, unit, kind = "worn", "stripe", FieldConfig

    @staticmethod
    def codec_from(state):
        return Names()

    @staticmethod
    def fields_of(config, codec):
        return Fields("stripe", EVENT, (), {"seen": Worn()}, near="seen")


def worn(folder, codec=None, **groups):
    """A run whose denoiser is exact, and looks at nothing but the noisy field."""
    config = config_of(**groups)
    fields = WornRun.fields_of(config, Names())
    x, label = patterns()
    z = x if codec is None else codec.encode(x)
    denoiser = Exact(process_of(config, fields, Record(fields, codec)), z, label)
    return WornRun(folder, config, Names(), FieldModel(config, fields, codec, denoiser))


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "run")


def wavelets():
    codec = Chain([Wavelet(EVENT), Standardise((4, 2, 2), axes=(0,))])
    codec.fit(patterns()[0])
    return codec


SHOWN = Worn()(patterns()[0].repeat(8, 1, 1, 1), Counter(0))


def drawn(run, settings=None, seed=0, **asked):
    run = run.drawing(**(settings or {}))
    fields = {"fields": {"seen": SHOWN}, **asked}
    return run.fields(run.request(32, seed=seed, **fields), progress=False)


@pytest.mark.parametrize("latent", [False, True])
@pytest.mark.parametrize("kind", ["ddim", "ancestral", "multistep", "heun"])
def test_every_walk_begins_at_what_is_shown(folder, kind, latent):
    codec = wavelets() if latent else None
    run = worn(folder, codec, sampler={"kind": kind, "steps": 20})
    begun = drawn(run, {"start": 0.1})
    which, far = nearest(begun)
    assert which.tolist() == [0, 1, 2, 3] * 8
    assert far.max() < 0.01
    ordinary = drawn(run)
    assert torch.equal(drawn(run, {"start": 1.0}), ordinary)
    assert nearest(ordinary)[0].tolist() != [0, 1, 2, 3] * 8


def test_steps_before_the_start_are_left_out(folder):
    run = worn(folder, sampler={"steps": 20})
    seen = []
    asked = run.request(4, fields={"seen": SHOWN[:4]})
    run.drawing(start=0.25).fields(asked, progress=False, watch=lambda step, _: seen.append(step))
    assert seen == [1, 2, 3, 4, 5]


def test_noise_ends_around_what_is_shown(folder):
    """Of an impulse the rest is sigma; the mean fades from the field into what is shown."""
    run = worn(folder, noise={"centre": True, "schedule": "flow"})
    x = patterns()[0][:1].expand(3, *EVENT)
    y = SHOWN[:1].expand(3, *EVENT)
    batch = run.model.record.batch(x, {"seen": y})
    bound = run.model.denoiser.process.bind(batch)
    for t in (0.0, 0.3, 1.0):
        noisy = bound.diffuse(batch.leaves, bound.times(torch.tensor(t)), Impulses())["stripe"]
        torch.testing.assert_close(noisy[0], (1 - t) * x[0] + t * y[0])
        torch.testing.assert_close(noisy[1] - noisy[0], torch.full(EVENT, t))
    torch.testing.assert_close(bound.prior(Impulses())["stripe"][0], y[0])
    # The law of the exact model stays, whatever its noise ends in.
    assert nearest(drawn(run))[1].max() < 0.05
    begun = drawn(run, {"start": 0.1})
    assert nearest(begun)[0].tolist() == [0, 1, 2, 3] * 8


def test_what_is_shown_is_brought_to_the_places_of_the_field():
    one = Centre("seen", (3, 2, 4))(torch.tensor([[[[0.0, 4.0]]]]))
    assert one.shape == (1, 3, 2, 4)
    assert torch.equal(one, torch.tensor([0.0, 1.0, 3.0, 4.0]).expand(1, 3, 2, 4))
    same = torch.randn(2, 3, 2, 4)
    assert torch.equal(Centre("seen", (3, 2, 4))(same), same)


@pytest.mark.parametrize("centre", [True, False])
def test_the_centre_is_never_hidden_and_guides_nothing(folder, centre):
    config = config_of(noise={"centre": centre}, loss={"dropout": 1.0})
    fields = WornRun.fields_of(config, Names())
    record = Record(fields, None)
    denoiser = build(config, fields, record)
    for weight in denoiser.parameters():  # the last layer is zero at first
        torch.nn.init.normal_(weight, std=0.3)
    batch = record.batch(patterns()[0], {"seen": SHOWN[:4]})
    times = denoiser.process.bind(batch).times(torch.tensor(0.5))
    hidden = batch.with_present({"seen": torch.zeros(4, dtype=torch.bool)})
    said, unseen = (denoiser(one, times)["stripe"].value for one in (batch, hidden))
    assert torch.equal(said, unseen) == centre
    # In training too, where all conditions are dropped.
    clean = batch.with_condition({"seen": patterns()[0]})
    found = objective_of(config, fields, record)(denoiser, clean, Counter(0)).total
    plain = config_of(noise={"centre": centre}, loss={"dropout": 0.0})
    whole = objective_of(plain, fields, record)(denoiser, clean, Counter(0)).total
    assert torch.equal(found, whole) == centre
    calls = []
    denoiser.backbone.register_forward_hook(lambda *_: calls.append(1))
    config = config_of(noise={"centre": centre}, sampler={"steps": 3, "guidance": 2.0})
    run = WornRun(folder, config, Names(), FieldModel(config, fields, None, denoiser))
    run.fields(run.request(2, fields={"seen": SHOWN[:2]}), progress=False)
    assert len(calls) == (3 if centre else 6)


def test_settings_are_the_same_from_python_and_from_toml():
    text = '[noise]\ncentre = true\n[sampler]\nstart = 0.3\nkind = "heun"\n'
    config = FieldConfig.model_validate(tomllib.loads(text))
    assert config == FieldConfig.model_validate(
        {"noise": {"centre": True}, "sampler": {"start": 0.3, "kind": "heun"}}
    )
    assert (FieldConfig().noise.centre, FieldConfig().sampler.start) == (False, 1.0)


@pytest.mark.parametrize(
    ("groups", "match"),
    [
        ({"noise": {"centre": True}, "codec": {"kind": "kl"}}, "noise.centre is of fields them"),
        ({"noise": {"centre": True}, "codec": {"kind": "vq"}}, "codec.kind vq: take codec.kind"),
        ({"sampler": {"start": 0.3, "repaint": 2}}, "start = 0.3 leaves out what sampler.repaint"),
        ({"sampler": {"start": 0.0}}, "greater than 0"),
        ({"sampler": {"start": 1.5}}, "less than or equal to 1"),
        ({"sampler": {"start": float("nan")}}, "finite number|greater than 0"),
        ({"noise": {"centre": "noisy"}}, "valid boolean"),
    ],
)
def test_settings_that_make_no_sense_are_refused(groups, match):
    with pytest.raises(ValueError, match=match):
        FieldConfig.model_validate(groups)


def test_a_model_that_is_shown_nothing_near_the_field_is_refused(folder):
    plain = StripeRun.fields_of(None, Names())
    far = Fields("stripe", EVENT, (), {"seen": Worn()})
    for groups, words in (
        ({"noise": {"centre": True}}, "noise.centre = true needs a model that is shown a field"),
        ({"sampler": {"start": 0.5}}, "sampler.start = 0.5 needs a model that is shown a field"),
    ):
        with pytest.raises(ValueError, match=rf"{words} .*\(1, 4, 4\).*it is shown none: choose"):
            build(config_of(**groups), plain, Record(plain, None))
        with pytest.raises(ValueError, match=r"it is shown \['seen'\]: choose a task.kind"):
            build(config_of(**groups), far, Record(far, None))
    with pytest.raises(
        ValueError, match=r"near must be one of the conditions \['seen'\], got 'x'"
    ):
        Fields("stripe", EVENT, (), {"seen": Worn()}, near="x")


def test_requests_without_what_is_shown_are_refused(folder):
    run = worn(folder, sampler={"steps": 2})
    with pytest.raises(ValueError, match="sampler.start = 0.5 needs 'seen', which is not given"):
        drawn(run, {"start": 0.5}, fields={})
    with pytest.raises(ValueError, match="sampler.start = 2"):
        run.drawing(start=2.0)
    around = worn(folder, noise={"centre": True})
    with pytest.raises(ValueError, match="noise.centre = true needs 'seen', which is not given"):
        drawn(around, fields={})
    with pytest.raises(ValueError, match="guidance is 2, but nothing is asked to guide by"):
        drawn(around, {"guidance": 2.0})
    seen = Seen(Mask(torch.ones(EVENT, dtype=torch.bool)), torch.zeros(1, 16))
    with pytest.raises(ValueError, match="noise around 0 alone, got noise.centre = true"):
        drawn(around, seen=seen)
