"""Drawing fields with exact denoisers: conditions, guidance, known parts, measurements, jobs."""

import json

import pytest
import torch

from structdiff.artifacts import Part, RunFolder
from structdiff.codecs.chain import Chain
from structdiff.codecs.standardise import Standardise
from structdiff.codecs.wavelet import Wavelet
from structdiff.operators import Downsample, Mask
from structdiff.runs.fields import Given, SamplerConfig, Seen
from structdiff.runs.fields.generation import collect, fill
from structdiff.runs.fields.walks import Clipped, guided
from tests.runs.stripes import EVENT, counted, exact_run, nearest, patterns

WALKS = ["ddim", "ancestral", "multistep", "heun"]


@pytest.fixture
def folder(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    run.ema.write_bytes(b"weights")
    return run


def wavelets():
    codec = Chain([Wavelet(EVENT), Standardise((4, 2, 2), axes=(0,))])
    codec.fit(patterns()[0])
    return codec


def drawn(run, samples, *, progress=False, seed=0, settings=None, **asked):
    run = run.drawing(**(settings or {}))
    return run.fields(run.request(samples, seed=seed, **asked), progress=progress)


@pytest.mark.parametrize("latent", [False, True])
@pytest.mark.parametrize("kind", WALKS)
def test_all_walks_draw_the_law_of_the_exact_model(folder, kind, latent):
    run = exact_run(folder, wavelets() if latent else None, sampler={"kind": kind, "steps": 20})
    which, far = nearest(drawn(run, 200))
    assert far.max() < 0.05
    # four patterns alike: chi-square with 3 degrees of freedom, beyond 16.3 once in a thousand
    counts = counted(which)
    assert ((counts - 50.0) ** 2 / 50).sum() < 16.3


def test_the_scale_is_unconditional_at_0_conditional_at_1_and_nothing_without_a_class(folder):
    run = exact_run(folder, sampler={"steps": 10})
    for seed in range(3):
        free = drawn(run, 8, seed=seed)
        none = drawn(run, 8, seed=seed, label=[1], settings={"guidance": 0.0})
        assert torch.allclose(free, none, atol=1e-5)
        asked = drawn(run, 8, seed=seed, label=[1])
        same = drawn(run, 8, seed=seed, label=[1], settings={"guidance": 1.0})
        assert torch.equal(asked, same)
        assert set(nearest(asked)[0].tolist()) == {2, 3}
    held = exact_run(folder, sampler={"steps": 10, "guidance": 3.0})
    assert torch.equal(drawn(held, 8), drawn(run, 8))
    with pytest.raises(ValueError, match="guidance is 3, but nothing is asked to guide by"):
        drawn(run, 2, settings={"guidance": 3.0})


def test_guidance_holds_in_its_interval_alone(folder):
    run = exact_run(folder)
    model, config = run.model.denoiser, run.config.sampler.model_dump()
    settings = SamplerConfig(**{**config, "guidance": 3.0, "guide_from": 0.4, "guide_to": 0.6})
    x = 0.3 * torch.randn(4, *EVENT, generator=torch.Generator().manual_seed(0))
    batch = run.model.record.batch(x, {"label": torch.tensor([0, 0, 1, 1])})
    for t, scale in ((0.3, 1), (0.5, 3), (0.7, 1)):
        times = model.process.bind(batch).times(torch.tensor(t))
        found = guided(settings, model, batch)(batch, times)["stripe"].value
        free, asked = (
            model(one, times)["stripe"].value for one in (batch.with_condition({}), batch)
        )
        assert torch.allclose(found, free + scale * (asked - free), atol=1e-6)
        assert not torch.allclose(asked, free, atol=1e-2)


def test_classes_are_taken_in_turn(folder):
    run = exact_run(folder, sampler={"steps": 10})
    which, _ = nearest(drawn(run, 5, label=[0, 1]))
    assert [int(k) // 2 for k in which] == [0, 1, 0, 1, 0]


@pytest.mark.parametrize("latent", [False, True])
def test_known_places_stay_and_the_rest_fits_them(folder, latent):
    run = exact_run(folder, wavelets() if latent else None, sampler={"steps": 25})
    source = patterns()[0][[1, 2]]
    known = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    known[..., :2, :] = True
    blank = torch.where(known, source, 0.0)
    for settings in ({"kind": "ddim"}, {"kind": "ancestral", "repaint": 4, "jump": 5}):
        x = drawn(run, 2, given=Given(blank, known), settings=settings)
        assert torch.equal(x[..., :2, :], source[..., :2, :])
        assert nearest(x)[0].tolist() == [1, 2]
        assert nearest(x)[1].max() < 0.05


def test_known_places_are_clean_to_a_model_that_was_trained_so(folder):
    run = exact_run(folder, loss={"given": 0.5}, sampler={"steps": 5})
    source = patterns()[0][[1, 2]]
    known = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    known[..., 3] = True  # one column, which no replacement would look ahead of
    x = drawn(run, 2, given=Given(torch.where(known, source, 0.0), known))
    assert torch.allclose(x, source, atol=1e-5)


def test_what_a_codec_is_shown_of_a_known_part_does_not_hold_what_is_hidden(folder):
    run = exact_run(folder, wavelets(), sampler={"steps": 5})
    known = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    known[..., :3, :] = True  # a block of the wavelets is known in part
    hidden = torch.where(known, patterns()[0][:1], 0.9)
    x, y = (drawn(run, 3, given=Given(source, known)) for source in (patterns()[0][:1], hidden))
    assert torch.equal(x, y)


def test_places_that_are_only_shown_are_put_back_at_the_end(folder):
    run = exact_run(folder, sampler={"steps": 10})
    known = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    known[..., 0, 0] = True
    free = drawn(run, 3)
    shown = drawn(run, 3, given=Given(torch.full((1, *EVENT), 0.25), known, held=False))
    assert torch.equal(shown, torch.where(known, 0.25, free))


@pytest.mark.parametrize("inverse", ["ddrm", "replacement", "projection", "pigdm", "dps"])
def test_measurements_are_followed(folder, inverse):
    rows = torch.ones(EVENT, dtype=torch.bool)
    rows[:, 1] = False
    seen = Seen(Mask(rows), patterns()[0][[0, 3]].flatten(1)[:, rows.flatten()], 0.01)
    noise = {"kind": "ancestral", "steps": 40, "zeta": 0.3}
    run = exact_run(folder, sampler={**noise, "inverse": inverse, "threshold": "none"})
    x = drawn(run, 2, seen=seen)
    assert nearest(x)[0].tolist() == [0, 3]
    assert nearest(x)[1].max() < 0.2


def test_latents_are_measured_through_the_decoder_by_dps_alone(folder):
    row = torch.zeros(EVENT, dtype=torch.bool)
    row[:, 1] = True
    seen = Seen(Mask(row), patterns()[0][[0, 3]].flatten(1)[:, row.flatten()], 0.01)
    run = exact_run(folder, wavelets(), sampler={"steps": 40, "zeta": 0.5})
    x = drawn(run, 2, seen=seen, settings={"inverse": "dps"})
    assert nearest(x)[0].tolist() == [0, 3]
    with pytest.raises(ValueError, match="sampler.inverse ddrm measures fields.*take dps"):
        drawn(run, 2, seen=seen)


def test_estimates_stay_in_the_range_of_the_data_where_that_is_known(folder):
    run = exact_run(folder)
    run.model.denoiser.z = 5 * run.model.denoiser.z  # estimates up to 3
    batch = run.model.record.batch(patterns()[0])
    t = run.model.denoiser.process.bind(batch).times(torch.tensor(0.3))
    free = run.model.denoiser(batch, t)["stripe"].value
    cut = Clipped(run.model.denoiser, "stripe")(batch, t)["stripe"].value
    assert free.abs().max() > 1
    assert torch.equal(cut, free.clamp(-1, 1))
    x = drawn(run, 4, settings={"threshold": "none", "steps": 5})
    assert float(x.abs().max()) == 1  # what is written is in range whatever was drawn


def test_a_sample_does_not_depend_on_its_batch_mates(folder):
    run = exact_run(folder, sampler={"steps": 8, "kind": "ancestral", "randomness": "sample"})
    whole = drawn(run, 7, label=[0, 1])
    parts = drawn(run, 7, label=[0, 1], settings={"batch_size": 3})
    assert torch.allclose(whole, parts, atol=1e-5)
    by_batch = {"randomness": "batch", "batch_size": 3}
    first = drawn(run, 7, settings=by_batch)
    assert torch.equal(first, drawn(run, 7, settings=by_batch))
    assert torch.equal(first[:6], drawn(run, 6, settings=by_batch))
    assert not torch.allclose(first, drawn(run, 7, settings=by_batch, seed=1), atol=1e-3)


def test_a_folder_of_shards_goes_on_and_ends_as_without_a_stop(folder, tmp_path, capsys):
    run = exact_run(folder, sampler={"steps": 4, "batch_size": 2})
    asked = run.request(5, label=[0, 1], seed=3)
    whole = collect(run, asked)

    def encode(x, low):
        return json.dumps([low, x.flatten().tolist()]).encode()

    def into(path, request, *, overwrite=False):
        return fill(
            run,
            request,
            {"label": "0,1"},
            path,
            encode=encode,
            suffix=".json",
            overwrite=overwrite,
        )

    job = into(tmp_path / "out", asked)
    names = [path.name for path in job.files()]
    assert names == [f"stripes-0000{k}.json" for k in range(3)]
    read = [json.loads(path.read_text()) for path in job.files()]
    assert [low for low, _ in read] == [0, 2, 4]
    assert torch.allclose(torch.tensor(sum((x for _, x in read), [])), whole.flatten(), atol=1e-6)
    kept = job.files()[1].read_bytes()
    job.files()[1].unlink()
    assert into(tmp_path / "out", asked).files()[1].read_bytes() == kept
    assert "goes on after 3 stripes drawn" in capsys.readouterr().out
    with pytest.raises(ValueError, match="asked otherwise: known.label"):
        into(tmp_path / "out", run.request(5, label=[1, 0], seed=3))
    folder.ema.write_bytes(b"other weights")
    with pytest.raises(ValueError, match="asked otherwise: model"):
        into(tmp_path / "out", asked)


def test_watching_shows_estimates_that_end_in_the_sample(folder):
    run = exact_run(folder, sampler={"steps": 6})
    steps, shares = [], []
    asked = run.request(2)
    x = run.draw(
        asked, Part(0, 2, (0,)), done=shares.append, watch=lambda i, x: steps.append((i, x))
    )
    assert [i for i, _ in steps] == [1, 2, 3, 4, 5, 6]
    assert shares == pytest.approx([k / 6 for k in range(1, 7)])
    assert torch.allclose(steps[-1][1], x, atol=1e-5)


FULL = torch.ones(1, 1, 4, 4, dtype=torch.bool)


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({"samples": 0}, "number of stripes must be at least 1"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"label": [2]}, "label must be whole numbers from 0 to 1"),
        ({"label": [0.5]}, "label must be whole numbers"),
        ({"label": []}, "label must be whole numbers"),
        (
            {"texts": {"name": torch.ones(1, 3)}},
            r"knows the conditions \['label'\], not \['name'\]",
        ),
        ({"given": Given(torch.zeros(1, 1, 3, 4), FULL)}, r"\(1, 3, 4\), not \(1, 4, 4\)"),
        ({"given": Given(torch.zeros(1, *EVENT), FULL.float())}, "mask of given must be bool"),
        ({"given": Given(torch.zeros(3, *EVENT), FULL)}, "given has 3 rows for 2 samples"),
        ({"given": Given(torch.full((1, *EVENT), torch.nan), FULL)}, "not finite"),
        (
            {"seen": Seen(Downsample((2, 4, 4), 2, axes=2), torch.zeros(1, 2, 2, 2))},
            "operator meas",
        ),
        ({"seen": Seen(Downsample(EVENT, 2, axes=2), torch.zeros(1, 1, 4, 4))}, r"\(1, 2, 2\)"),
        (
            {
                "given": Given(torch.zeros(1, *EVENT), FULL),
                "seen": Seen(Downsample(EVENT, 2, axes=2), torch.zeros(1, 1, 2, 2)),
            },
            "leave one out",
        ),
    ],
)
def test_requests_that_do_not_fit_are_refused(folder, asked, match):
    run = exact_run(folder)
    with pytest.raises(ValueError, match=match):
        run.request(**{"samples": 2, **asked})


def test_a_class_must_be_known_to_a_model_that_was_never_without(folder):
    run = exact_run(folder, loss={"dropout": 0.0})
    with pytest.raises(ValueError, match=r"loss.dropout = 0\): give it"):
        run.request(2)
    assert run.request(2, label=[1]).condition["label"].tolist() == [1, 1]
    with pytest.raises(ValueError, match="sampler.steps = 0"):
        run.drawing(steps=0)
    with pytest.raises(ValueError, match="sampler.stepz"):
        run.drawing(stepz=3)
    with pytest.raises(ValueError, match="confidence is of codes"):
        run.drawing(kind="confidence")
