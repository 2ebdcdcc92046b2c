# %% [markdown]
# # Latent diffusion of digits
#
# An image has many numbers, and most of them say little: a pixel is much like its neighbour. So
# two models share the work. A **codec** learns small *latents* from which images can be made
# again; diffusion then draws latents, and never sees a pixel. The four nouns stay what they are:
#
# | noun | here |
# |---|---|
# | a **schedule** | `Cosine` |
# | a **process** | `Gaussian` noise on latents of 4 x 4 places |
# | a **denoiser** | a U-Net of the noisy latent, the clock and the class, trained |
# | a **sampler** | DDIM, guided by the class |
#
# The data are the 8 x 8 handwritten digits that come with scikit-learn, so nothing is downloaded.
# With `data.path` the same page takes a folder of images, or the files of MNIST. It takes about a
# minute on one core.

# %%
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from structdiff.domains.images import ImagesConfig, read, train
from structdiff.metrics.comparison import accuracy, extracted
from structdiff.metrics.frechet import frechet
from structdiff.metrics.judge import JUDGING, Labelled, train_judge
from structdiff.metrics.nearest import nearest

torch.set_num_threads(1)
plt.rcParams.update({"figure.dpi": 130, "savefig.bbox": "tight", "image.cmap": "gray_r"})

# %% [markdown]
# ## The data
# A digest of its pixels says which part an image is in: one in twenty is for validation, one in
# ten is for the test, and equal images are never in two parts.

# %%
data = read()
print(data.report)


def side_by_side(images, columns):
    """Images `(n, 1, height, width)` as one, so many in a row."""
    x = np.asarray(images)[:, 0]
    rows, height, width = len(x) // columns, *x.shape[1:]
    blocks = x[: rows * columns].reshape(rows, columns, height, width)
    return blocks.swapaxes(1, 2).reshape(rows * height, columns * width)


# %% [markdown]
# ## One config, two trainings
# `codec.kind kl` asks for an autoencoder whose latents are kept near the normal law. It is trained
# first and then left alone; its shift and scale are measured, so that latents have mean 0 and
# deviation 1, which is what the schedule expects. All digits are encoded once, and the second
# training reads latents from the disk. Each phase goes on where it was stopped.
#
# A tenth of the samples lose their class in training (`loss.dropout`). So one network knows both
# p(digit) and p(digit | class), and guidance can go beyond the second.

# %%
config = ImagesConfig.model_validate(
    {
        "codec": {
            "kind": "kl",
            "channels": 3,
            "halvings": 1,
            "width": 16,
            "training": {"steps": 300, "batch_size": 64, "learning_rate": 3e-3, "warm_up": 30},
        },
        "network": {"width": 24, "multipliers": [1, 2], "blocks": 1, "attention": [1]},
        "training": {
            "steps": 500,
            "batch_size": 32,
            "learning_rate": 2e-3,
            "warm_up": 50,
            "ema": 0.99,
            "validate_every": 250,
        },
    }
)
out = Path("09_digits")
shutil.rmtree(out, ignore_errors=True)
run = train(config, out)
for name, value in run.facts().items():
    print(f"{name}: {value}")

# %% [markdown]
# ## What a latent keeps
# A digit goes to three small pictures and comes back. What is lost here no diffusion can give
# back: this is the floor of all that follows.

# %%
some = data.test.fields(np.arange(12))
latents = run.model.encode(some)
again = run.model.decode(latents)
lost = float((again - some).square().mean().sqrt())
print(f"{some[0].numel()} pixels, {latents[0].numel()} numbers in a latent")
print(f"deviation of the latents {float(latents.std()):.2f}, error of a pixel {lost:.2f} of 2")

figure, axes = plt.subplots(5, 1, figsize=(7, 3.2), layout="constrained")
rows = {"digit": some, **{f"latent {k + 1}": latents[:, k : k + 1] for k in range(3)}}
for axis, (name, x) in zip(axes, {**rows, "again": again}.items(), strict=True):
    axis.imshow(side_by_side(x, 12))
    axis.set(xticks=[], yticks=[])
    axis.set_ylabel(name, rotation=0, ha="right", va="center")
figure.savefig("09_latents.png")
plt.close(figure)
assert lost < 0.4

# %% [markdown]
# ## From noise to a digit
# `watch` sees what the model holds the digits to be, after each step, decoded.

# %%
seen = {}
run.sample(
    10,
    label=list(range(10)),
    steps=20,
    guidance=2.0,
    seed=3,
    progress=False,
    watch=lambda step, x: seen.setdefault(step, x),
)
shown = [step for step in (1, 4, 8, 12, 16, 20) if step in seen]
figure, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
axis.imshow(side_by_side(torch.cat([seen[step] for step in shown]), 10))
places = [8 * row + 3.5 for row in range(len(shown))]
axis.set(xticks=[], yticks=places, yticklabels=[f"step {step}" for step in shown])
figure.savefig("09_steps.png")
plt.close(figure)

# %% [markdown]
# ## A judge
# Are they the digits that were asked for? A small classifier, trained on the training part alone,
# says so; how often it is right on real digits bounds what its word is worth. Its features also
# measure the distance of drawn and real digits as two clouds (the Frechet distance). The judge
# never enters training or drawing, and nothing that is drawn is thrown away.

# %%
parts = [Labelled(part.labels, part.fields, part.identity()) for part in (data.train, data.test)]
settings = JUDGING.model_copy(update={"steps": 300, "warm_up": 30})
judge = train_judge(*parts, data.train.shape, 10, config=settings)
print(judge.about())
real = extracted(judge, data.train.fields())
held_out = frechet(extracted(judge, data.test.fields()), real)

# %% [markdown]
# ## How strongly to guide
# Scale 1 is the model's own p(digit | class). Above it, digits become more like their class and
# less like each other: the judge agrees more often, and the clouds drift apart. The nearest
# training digit says whether the model copies; held-out digits are the measure.

# %%
labels = np.arange(200) % 10
blocks = [data.train.fields()]
near = float(nearest(data.test.fields(), blocks).distance.median())
print(f"held-out digits: distance of the clouds {held_out.value:.1f}, nearest {near:.2f}")
drawn, right = {}, {}
for guidance in (0.0, 1.0, 2.0, 4.0):
    images = run.sample(
        200, label=labels.tolist(), steps=20, guidance=guidance, batch_size=200, progress=False
    )
    x = images.fields()
    drawn[guidance], right[guidance] = images, accuracy(judge, x, labels).value
    apart = frechet(extracted(judge, x), real).value
    near = float(nearest(x, blocks).distance.median())
    print(
        f"scale {guidance:g}: judged right {right[guidance]:.0%}, "
        f"distance of the clouds {apart:.1f}, nearest {near:.2f}"
    )
assert right[0.0] < 0.3 < 0.8 < right[2.0]

# %% [markdown]
# ## The picture
# Unguided, guided a little, guided hard: a column for each class.

# %%
figure, axes = plt.subplots(1, 3, figsize=(8.5, 2.4), layout="constrained")
for axis, guidance in zip(axes, (1.0, 2.0, 4.0), strict=True):
    axis.imshow(side_by_side(drawn[guidance].pixels[:60], 10))
    axis.set(title=f"scale {guidance:g}", xticks=[], yticks=[])
figure.savefig("09_digits.png")
plt.close(figure)

# %% [markdown]
# The same run on the command line is
#
#     structdiff train images --codec.kind kl --out runs/digits
#     structdiff sample runs/digits -n 60 --guidance 2 -o digits.png
#
# What else a line of the config changes: `codec.kind vq` makes latents *codes* of a table, and the
# process becomes `Categorical`, with nothing else to do; `codec.kind none` is diffusion of pixels.
# Latents pay off as images grow: these 64 pixels hardly need them, 28 x 28 do, and a photograph
# can hardly do without.
