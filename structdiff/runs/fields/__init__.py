r"""Runs of fields: what images, waveforms and spectrograms share from settings to samples.

A *field* is a tensor `(samples, channels, *places)` of numbers in [-1, 1]. A run trains a model of
fields in up to three phases, each of which goes on where it was stopped: the codec, if it is
learned (`run/codec`), the latents of the data (`run/latents`), and the diffusion model of them.
Without a codec the model is of the fields themselves.

What a domain brings:

    class PictureConfig(FieldConfig):              its settings: the groups below, and its own
        data: DataConfig = DataConfig()

    class Run(FieldRun[PictureConfig, PictureCodec]):
        domain, unit, kind = "pictures", "picture", PictureConfig
        @staticmethod
        def codec_from(state) -> PictureCodec      codec of objects: has state(), event, classes
        @staticmethod
        def fields_of(config, codec) -> Fields     leaf, event, classes, conditions, see `Fields`

    run = Run.trained(config, out, codec, train, validation, words=[...], say=print)
    run = Run.load(out)
    x = run.fields(run.request(8, label=[3], given=Given(source, known), seed=0))   # a tensor

- `train` and `validation` are data sets, see `FieldSet`: `len()`, `fields(index)`,
  `conditions(index)` and `identity()`.
- `Fields.conditions` are conditions that are fields, made from the clean field while training
  (an image made small, a mel spectrogram): name to a `Making`, a module with
  `forward(clean, random) -> (samples, channels, *places)`. A condition that is given with the data
  and not made from the field is a text (`Fields.texts`) or the class (`Fields.classes`).
  `Making.source` is the shape of what it is made of where that is not the field.
- `Fields.near` names the condition that is near the clean field, as a noisy sound is; then
  `noise.centre` and `sampler.start` have a meaning, see `centre`.
- `run.request(n, label=, texts=, fields=, given=, seen=, seed=)` says what to draw; `run.draw(
  asked, part)` draws a part of it as fields, `run.fields(asked)` all of it with a bar.
- `run.drawing(**changes)` is the run with other settings of the sampler.
- `generation.collect(run, asked)` and `generation.fill(run, asked, words, path, encode=...,
  suffix=".png", overwrite=...)` draw at the command line, in one go or into a folder of shards
  that can be gone on with.
- `run.model` has `codec` (a `LatentCodec`, or None), `denoiser`, `record` (fields to batches of
  latents and back) and `decode(batch) -> fields`.
"""

from structdiff.runs.fields.conditions import Made, Making, folded
from structdiff.runs.fields.model import FieldModel
from structdiff.runs.fields.record import Fields, FieldSet, Record
from structdiff.runs.fields.request import Given, Request, Seen
from structdiff.runs.fields.run import FieldRun
from structdiff.runs.fields.settings import (
    CodecConfig,
    FieldConfig,
    LossConfig,
    NetworkConfig,
    NoiseConfig,
    SamplerConfig,
)

__all__ = [
    "CodecConfig",
    "FieldConfig",
    "FieldModel",
    "FieldRun",
    "FieldSet",
    "Fields",
    "Given",
    "LossConfig",
    "Made",
    "Making",
    "NetworkConfig",
    "NoiseConfig",
    "Record",
    "Request",
    "SamplerConfig",
    "Seen",
    "folded",
]
