"""A domain of tiny fields: stripes across or along, bright or dark first."""

import numpy as np
import torch

from structdiff.denoiser import Denoiser
from structdiff.processes import Estimate
from structdiff.runs.fields import FieldConfig, FieldModel, FieldRun, Fields, Making
from structdiff.runs.fields.process import process_of
from structdiff.runs.fields.record import Record

SIDE = 4
EVENT = (1, SIDE, SIDE)

SMALL = {
    "network": {
        "kind": "dilated",
        "width": 16,
        "layers": 2,
        "patch": 2,
        "heads": 2,
        "features": 16,
    }
}


def training(steps, **others):
    fast = {"batch_size": 4, "warm_up": 1, "validate_every": 100, "bf16": False}
    return {"steps": steps, **fast, **others}


def patterns():
    """Four fields, `(4, 1, 4, 4)`, and their classes: bright (0) or dark (1) in a corner."""
    across = torch.tensor([0.6, -0.6, 0.6, -0.6]).reshape(1, SIDE, 1).expand(EVENT)
    along = across.transpose(1, 2)
    return torch.stack([across, along, -across, -along]), torch.tensor([0, 0, 1, 1])


class Stripes:
    """The patterns over and over."""

    def __init__(self, samples=16, name="stripes"):
        x, label = patterns()
        self.x, self.label, self.name = (
            x.repeat(samples // 4, 1, 1, 1),
            label.repeat(samples // 4),
            name,
        )

    def __len__(self):
        return len(self.x)

    def fields(self, index):
        return self.x[index]

    def conditions(self, index):
        return {"label": self.label[index]}, {}

    def identity(self):
        return {"name": self.name, "samples": len(self)}


class Names:
    """The codec of objects."""

    def state(self):
        return {"names": ["bright", "dark"]}


class Small(Making):
    """Means of blocks, and one number that is drawn."""

    def forward(self, clean, random):
        blocks = torch.nn.functional.avg_pool2d(clean, 2)
        drawn = random.uniform((len(clean), 1, 1, 1), torch.float32, clean.device)
        return torch.cat([blocks, drawn.expand(-1, 1, 2, 2)], 1)


class StripeRun(FieldRun):
    """A run of stripes."""

    domain, unit, kind = "stripes", "stripe", FieldConfig

    @staticmethod
    def codec_from(state):
        if "names" not in state:
            msg = "names are missing"
            raise ValueError(msg)
        return Names()

    @staticmethod
    def fields_of(config, codec):
        return Fields("stripe", EVENT, tuple(codec.state()["names"]))


def config_of(**groups):
    return FieldConfig.model_validate({**SMALL, "training": training(2), **groups})


def train(path, config, data=None, check=None, words=()):
    data = Stripes() if data is None else data
    return StripeRun.trained(config, path, Names(), data, check, words=words, say=lambda _: None)


class Exact(Denoiser):
    """The denoiser of the patterns, or of those of the class that is known."""

    def __init__(self, process, z, label):
        super().__init__()
        self.process, self.z, self.label = process, z, label

    def forward(self, batch, t, previous=None):
        del previous
        (name,) = batch.leaves
        x, leaf = batch[name], self.process.bind(batch)[name]
        rows = []
        for z in self.z:
            value = leaf.log_prob(x, z.expand_as(x), t[name])
            rows.append(value)
        weight = torch.stack(rows, 1).double()
        if "label" in batch.condition:
            other = self.label != batch.condition["label"].unsqueeze(1)
            known = batch.present.get("label", torch.ones(len(x), dtype=torch.bool))
            weight = torch.where(other & known.unsqueeze(1), -torch.inf, weight)
        share = weight.softmax(1).to(x)
        return {name: Estimate(torch.einsum("nk,kchw->nchw", share, self.z.to(x)))}


def exact_run(folder, codec=None, **groups):
    """A run whose denoiser is exact."""
    config = config_of(**groups)
    fields = StripeRun.fields_of(config, Names())
    x, label = patterns()
    z = x if codec is None else codec.encode(x)
    denoiser = Exact(process_of(config, fields, Record(fields, codec)), z, label)
    return StripeRun(folder, config, Names(), FieldModel(config, fields, codec, denoiser))


def nearest(x):
    """Which pattern each field is nearest to, and how far away."""
    far = torch.cdist(x.flatten(1), patterns()[0].flatten(1))
    return far.argmin(1), far.amin(1)


def counted(labels):
    return np.bincount(labels.numpy(), minlength=4)
