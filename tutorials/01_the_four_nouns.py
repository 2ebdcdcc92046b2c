# %% [markdown]
# # The four nouns
#
# A diffusion model is four things, and in structdiff each is one object:
#
# | noun | says | here |
# |---|---|---|
# | a **schedule** | how much noise there is at time t | `Cosine()` |
# | a **process** | what noise does to data, and how a step back undoes it | `Gaussian(...)` |
# | a **denoiser** | what a noisy point says of the clean one | a small network, trained |
# | a **sampler** | how to walk from noise to data, asking the denoiser | `DDPM`, `DDIM`, ... |
#
# Time is a number between 0 and 1: **0 is data, 1 is noise.** This page makes one of each for
# points in the plane, looks at each alone, and lets them draw a spiral. It takes less than a
# minute on one core.

# %%
import math

import matplotlib.pyplot as plt
import torch
from torch import nn

import structdiff as sd
from structdiff.objectives import EDM, Denoising, NormalClock
from structdiff.parameterisations import Preconditioned
from structdiff.samplers import Sampler
from structdiff.testing import ExactDenoiser

torch.manual_seed(0)
torch.set_num_threads(1)
plt.rcParams.update({"figure.dpi": 130, "axes.spines.top": False, "axes.spines.right": False})
plt.rcParams["savefig.bbox"] = "tight"

# %% [markdown]
# ## The data
# Two arms of a spiral, each one turn, a little fuzzy. A data set is a tensor with one row per
# sample.


# %%
def spiral(samples: int, seed: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    along = torch.rand(samples, generator=random).sqrt()
    arm = torch.randint(0, 2, (samples,), generator=random)
    angle = 2 * math.pi * along + math.pi * arm
    place = 2 * along[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
    return place + 0.08 * torch.randn(samples, 2, generator=random)


data = spiral(4000, seed=0)
print(f"{len(data)} points, standard deviation of a coordinate {data.std():.2f}")

# %% [markdown]
# ## A schedule
# A noisy point is `x_t = alpha_t x_0 + sigma_t z` with z standard normal. The schedule gives
# alpha and sigma at every time. What a network needs to know of the time is only their ratio, so
# the library measures time by the **clock** log(alpha / sigma): plus is mostly data, minus is
# mostly noise, 0 is half and half. Two schedules differ only in how fast they run through it.

# %%
t = torch.linspace(0.003, 0.997, 300)
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 2.8), layout="constrained")
for name, schedule, colour in (
    ("Cosine", sd.Cosine(), "#3a63d8"),
    ("Linear", sd.Linear(), "#e07a2f"),
    ("Flow", sd.Flow(), "#2a9d5c"),
):
    level = schedule(t)
    left.plot(t, level.alpha, color=colour)
    left.plot(t, level.sigma, color=colour, linestyle="--")
    right.plot(t, level.clock, color=colour, label=name)
left.set(xlabel="time t", title="alpha (lines) and sigma (dashes)")
right.axhline(0, color="0.8", linewidth=0.8, zorder=0)
right.set(xlabel="time t", title="clock: log(alpha / sigma)")
right.legend(frameon=False, loc="lower left", fontsize=9)
figure.savefig("01_schedules.png")
plt.close(figure)

# %% [markdown]
# ## A process
# The process knows what noise does. It needs the schedule, the shape of one row, and what a
# network is going to predict: with `Preconditioned`, a mixture of data and noise that is of size
# one at every time. (Other processes noise categories, rotations or angles, and a `Product` of
# processes noises a record of several such leaves. The samplers below would not change.)
#
# A process is *bound* to a batch before use. Then `diffuse` draws x_t given x_0.

# %%
process = sd.Gaussian(sd.Cosine(), Preconditioned(), event=(2,))
bound = process.bind(sd.Batch.of(data))

figure, axes = plt.subplots(1, 5, figsize=(10, 2.3), layout="constrained")
for axis, time in zip(axes, (0.0, 0.1, 0.25, 0.5, 1.0), strict=True):
    x_t = bound.diffuse(data, torch.tensor(time), sd.Generator(0))
    axis.scatter(*x_t.T, s=1, c=torch.atan2(*data.T), cmap="twilight", linewidths=0)
    axis.set(title=f"t = {time:g}", xlim=(-3, 3), ylim=(-3, 3), aspect="equal")
    axis.axis("off")
figure.savefig("01_process.png")
plt.close(figure)

# %% [markdown]
# Every point keeps the colour that it had as data. At t = 0.25 the arms have run into each other
# but the colours are still in order; at t = 1 nothing is left of either.
#
# ## A denoiser
# A denoiser looks at noisy points and returns an **estimate**: on the plane, the mean of all clean
# points that could have led there. A network becomes one by training. It takes the noisy points
# and the clock, which lies between -20 and 20, so it is divided by 4 here to be of the size of the
# other inputs. Sines and cosines of the coordinates help it to draw fine lines. The objective says
# at which clocks to look most: at little noise, where it is decided which arm a point belongs to.


# %%
class Network(nn.Module):
    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(15, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, 2),
        )

    def forward(self, x: torch.Tensor, clock: torch.Tensor) -> torch.Tensor:
        waves = (x[:, :, None] * torch.tensor([1.0, 2.0, 4.0])).flatten(1)
        return self.layers(torch.cat([x, waves.sin(), waves.cos(), clock[:, None] / 4], 1))


objective = Denoising(EDM(), NormalClock(process.schedule))
denoiser = sd.fit(
    data, process, Network(), steps=2500, batch_size=512, learning_rate=4e-3, objective=objective
)

# %% [markdown]
# What should it have learned? For a finite data set the best denoiser is known without training:
# weigh each data point by how likely it is to have become x_t, and average. `ExactDenoiser` does
# that for any process with a density. Its answer at a point is the pull that a sampler feels.

# %%
record = sd.Product({"x": process})
exact = ExactDenoiser(record, sd.Batch.of(data[:1000]))
check = spiral(500, seed=1)
batch = sd.Batch.of(check)
print("   t   trained vs exact   exact vs clean")
for time in (0.1, 0.25, 0.5, 0.75):
    times = record.bind(batch).times(torch.tensor(time))
    noisy = batch.with_leaves(record.bind(batch).diffuse(batch.leaves, times, sd.Generator(0)))
    with torch.no_grad():
        ours, best = denoiser(noisy, times)["x"].value, exact(noisy, times)["x"].value
    gap, spread = (ours - best).square().mean().sqrt(), (best - check).square().mean().sqrt()
    print(f"{time:4.2f}   {gap:16.2f}   {spread:14.2f}")

# %% [markdown]
# Left: how far the network is from the best answer there is, at most 0.05 where a coordinate has
# standard deviation 1. Right: how far the best answer itself is from the clean point, 0.15 at
# t = 0.1 and 0.94 at t = 0.75, for nobody can know what the noise has erased. A good denoiser is
# not one that finds the clean points.
#
# ## A sampler
# A sampler starts from pure noise and walks a **grid** of falling times. At each it asks the
# denoiser for an estimate and lets the process take the step. All of them share one loop and
# differ only in which estimates they use:
#
# - `DDPM` uses the present one and adds fresh noise at every step,
# - `DDIM` uses the present one and adds none: the walk is a smooth curve,
# - `Heun` takes the step, asks again at its end and repeats it with the mean of both,
# - `Multistep` puts a polynomial through the present estimate and the last ones, which are free.

# %%
samples = sd.sample(denoiser, 2000, sampler=sd.DDPM(denoiser, sd.UniformTime(100)))
print(f"{tuple(samples.shape)}, standard deviation {samples.std():.2f}")

# %% [markdown]
# The cost of a sampler is how often it calls the network. So they are compared at equal numbers
# of calls: Heun, which calls twice a step and once for the last, gets half the steps. The measure
# is the energy distance to 4,000 new points of the true spiral, times 100. It is 0 for two equal
# laws; two samples of the true spiral of this size show what is too small to tell from 0.


# %%
def energy_distance(x: torch.Tensor, y: torch.Tensor) -> float:
    def apart(a: torch.Tensor) -> torch.Tensor:
        return torch.cdist(a, a).sum() / (len(a) * (len(a) - 1))

    return float(2 * torch.cdist(x, y).mean() - apart(x) - apart(y))


def samplers(calls: int) -> dict[str, Sampler]:
    grid = sd.UniformTime(calls)
    return {
        "DDPM": sd.DDPM(denoiser, grid),
        "DDIM": sd.DDIM(denoiser, grid),
        "Heun": sd.Heun(denoiser, sd.UniformTime((calls + 1) // 2)),
        "Multistep": sd.Multistep(denoiser, grid, order=2),
    }


truth = spiral(4000, seed=2)
budgets = (5, 9, 15, 25, 49)
drawn, distance = {}, {}
for calls in budgets:
    for name, sampler in samplers(calls).items():
        drawn[name, calls] = sd.sample(denoiser, 4000, sampler=sampler, seed=1)
        distance[name, calls] = 100 * energy_distance(drawn[name, calls], truth)
print("calls      " + "".join(f"{calls:>8}" for calls in budgets))
for name in samplers(1):
    print(f"{name:11}" + "".join(f"{distance[name, calls]:8.2f}" for calls in budgets))
print(f"the spiral {100 * energy_distance(spiral(4000, seed=3), truth):8.2f}")

# %% [markdown]
# With 49 calls all four draw the spiral as well as a new sample of it does (0.03; the measure is
# an unbiased estimate, so it may fall just below 0). With few calls they differ. At 9, `Multistep`
# is there already (0.02) and `Heun` nearly (0.15); `DDIM` is at 0.50 and `DDPM`, which has to
# average its own noise away, at 1.01. The picture shows what such numbers look like: with few
# calls the arms are too thin and more points are left between them.

# %%
figure, axes = plt.subplots(2, 4, figsize=(9, 4.8), layout="constrained")
for row, calls in zip(axes, (9, 25), strict=True):
    for axis, name in zip(row, samplers(1), strict=True):
        axis.scatter(*drawn[name, calls].T, s=1.2, c="#27356f", linewidths=0, alpha=0.6)
        title = f"{name}, {calls} calls: {distance[name, calls]:.2f}"
        axis.set(xlim=(-2.5, 2.5), ylim=(-2.5, 2.5), aspect="equal")
        axis.set_title(title, fontsize=9)
        axis.axis("off")
figure.savefig("01_samplers.png")
plt.close(figure)

# %% [markdown]
# ## All four at once
# Without fresh noise a walk is a curve: every start has one end. Below, 700 points of pure noise
# go to the spiral, on the left with the trained denoiser, on the right with the exact one of 1,000
# data points. Each curve has the colour of the place where it ends. `bind`, `start` and `step` are
# the loop that `sample` runs; here it keeps every point on the way.


# %%
@torch.no_grad()
def paths(model: sd.Denoiser, walks: int, steps: int) -> torch.Tensor:
    sampler = sd.Multistep(model, sd.UniformTime(steps), order=2)
    sampler = sampler.bind(sd.Batch.of(torch.zeros(walks, 2)), sd.Generator(5))
    carry = sampler.start()
    points = [carry.x["x"]]
    for i in range(sampler.steps):
        carry = sampler.step(carry, i)
        points.append(carry.x["x"])
    return torch.stack(points)


ends = []
figure, axes = plt.subplots(1, 2, figsize=(10, 5.2), layout="constrained", facecolor="#0d1020")
for axis, model, title in ((axes[0], denoiser, "trained"), (axes[1], exact, "exact")):
    walk = paths(model, walks=700, steps=40)
    end = walk[-1]
    ends.append(end)
    nearest = torch.cdist(end, data[:1000]).min(1).values.median()
    print(f"{title}: half of the ends lie within {nearest:.4f} of one of the 1,000 data points")
    colour = plt.get_cmap("plasma")(0.15 + 0.8 * (end.norm(dim=1) / 2.1).clamp(max=1).numpy())
    for i in range(walk.shape[1]):
        axis.plot(*walk[:, i].T, color=colour[i], linewidth=0.5, alpha=0.35)
    axis.scatter(*walk[0].T, s=2, c="#c8cde0", linewidths=0, alpha=0.5)
    axis.scatter(*end.T, s=7, c=colour, linewidths=0, zorder=3)
    axis.set(xlim=(-2.9, 2.9), ylim=(-2.9, 2.9), aspect="equal")
    axis.set_title(f"from noise to data, {title} denoiser", color="#e8eaf4", fontsize=11)
    axis.axis("off")
figure.savefig("01_the_four_nouns.png", facecolor=figure.get_facecolor())
plt.close(figure)
apart = (ends[0] - ends[1]).norm(dim=1)
print(f"ends of the same start less than 0.3 apart: {(apart < 0.3).float().mean():.0%}")

# %% [markdown]
# Both sides start from the same noise, and 97 % of the starts end less than 0.3 apart: the trained
# denoiser has learned nearly the same map. The exact one knows its 1,000 points and nothing else:
# with ever smaller last steps its walks would end on them, here they stop at a mean of the closest
# (half of them within 0.021 of one). So it can only repeat its data, at a cost that grows with
# their number. The trained one has read the two arms out of them; the few points that it leaves
# between the arms are the price.
#
# To go on: change `Cosine()` for `Flow()`, or `UniformTime` for `UniformLogSNR`, and run the page
# again. Nothing else has to change, and that is what the four nouns are for.
