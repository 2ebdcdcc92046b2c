# %% [markdown]
# # How to choose a process and a sampler
#
# The four nouns are four choices: a **schedule**, a **process**, a **denoiser**, a **sampler**.
# The process follows from the data, and the sampler from how many network calls a sample may
# cost. This page measures what the choice of the sampler is worth, on laws whose exact denoiser
# is known: so what is seen is the sampler's error and nothing else. It takes about a minute on
# one core.
#
# ## Which process?
#
# | the leaf is | process |
# |---|---|
# | numbers, pixels, latents | `Gaussian(schedule)`: `Cosine`, `Linear`, `Karras`, `Flow` |
# | positions without an origin | `Gaussian(..., space=ZeroCentre())` |
# | numbers with known scales, correlations, means | `Affine(Gaussian(...), factor, mean)` |
# | classes, tokens | `Categorical(Flow(), absorbing(K))`: lowest bits per token |
# | classes that may be corrected on the way | `uniform(K)`, `marginal(p)` in its place |
# | angles, rotations, directions | `Brownian(Geometric(), Torus(n))`, `SO3()`, `Sphere(n)` |
# | any manifold, or straight paths | `GeodesicFlow(manifold)`: exact likelihood, no fresh noise |
# | a mix of them | `Product({...})`: trained and drawn jointly |
#
# The schedule matters less than it seems: networks see its clock, so that one schedule is sampled
# along another one's grid. What a network predicts (`Preconditioned()` is a safe start on R^n)
# changes neither the loss nor the sampler.

# %%
import matplotlib.pyplot as plt
import torch

import structdiff as sd
from structdiff.denoiser import Denoiser
from structdiff.testing import ExactDenoiser, NormalDenoiser

torch.manual_seed(0)
torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
plt.rcParams.update({"figure.dpi": 130, "axes.spines.top": False, "axes.spines.right": False})
plt.rcParams["savefig.bbox"] = "tight"

# %% [markdown]
# ## A law to draw from
# Six normals on a ring, of two sizes. The exact denoiser of a mixture of normals is a formula.

# %%
angle = torch.arange(6) * torch.pi / 3
centres = torch.stack([angle.cos(), angle.sin()], 1)
spreads = torch.tensor([0.05, 0.15]).repeat(3)
schedule = sd.Linear()
denoiser = NormalDenoiser(sd.Gaussian(schedule, event=(2,)), centres, spreads)
blank = sd.Batch.of(torch.zeros(1000, 2))

drawn = sd.DDPM(denoiser, sd.UniformLogSNR(schedule, 200)).sample(blank, sd.Generator(1))["x"]
figure, axis = plt.subplots(figsize=(3, 3))
axis.scatter(*drawn.T, s=2)
axis.set_aspect("equal")
axis.set_title("1,000 samples")

# %% [markdown]
# ## Error against network calls
# All samplers begin with the same noise (`Generator(0)`), and the same equation takes it to the
# same samples as steps grow: the error is the distance to what 800 steps say, over the data's
# spread. `tune_sampler` is told a number of calls, compares grids and rules on a few pilot
# samples with a finer solve of its own, and returns the best; it never sees the reference.

# %%
CALLS = (5, 7, 10, 14, 20, 28, 40)


def walk(sampler) -> torch.Tensor:
    return sampler.sample(blank, sd.Generator(0))["x"]


def grid(calls: int) -> sd.UniformLogSNR:
    return sd.UniformLogSNR(schedule, calls)


reference = walk(sd.Multistep(denoiser, grid(800), order=3))
spread = reference.std(0).norm()


def error(x: torch.Tensor) -> float:
    return float((x - reference).square().sum(1).mean().sqrt() / spread)


makers = {
    "DDIM": lambda n: sd.DDIM(denoiser, grid(n)),
    "Heun, two calls a step": lambda n: sd.Heun(denoiser, grid((n + 1) // 2)),
    "Multistep, order 2": lambda n: sd.Multistep(denoiser, grid(n), order=2),
    "Multistep, order 3": lambda n: sd.Multistep(denoiser, grid(n), order=3),
    "tuned": lambda n: sd.tune_sampler(denoiser, nfe=n, show=None).sampler(denoiser),
}
errors = {name: [error(walk(make(n))) for n in CALLS] for name, make in makers.items()}
for name, values in errors.items():
    print(f"{name:24s}" + "".join(f"{value:9.4f}" for value in values))

# %%
figure, axis = plt.subplots(figsize=(5, 3.4))
for name, values in errors.items():
    axis.loglog(CALLS, values, "o-", ms=3, label=name, lw=2 if name == "tuned" else 1)
axis.set_xticks(CALLS, [str(n) for n in CALLS])
axis.minorticks_off()
axis.set_xlabel("network calls")
axis.set_ylabel("error / spread of the data")
axis.legend(frameon=False, fontsize=8)
axis.set_title("The same noise, the same equation")

# %% [markdown]
# Where a network is good, few calls with a multistep method are enough, and a grid that was made
# for the model is worth more than a higher order.
#
# ## Fresh noise or none?
# A deterministic walk carries every error of the network to the end. Fresh noise (`eta` above 0)
# forgets what went wrong before it, and leans the more on what the network says after it. Here
# the denoiser is wrong on purpose: it says a point further to the right, either early in the walk
# (where noise is larger than the data) or late. What is measured is how far the samples'
# horizontal coordinate is from its true law (Wasserstein distance of 20,000 samples; that of two
# draws of the law is the floor).


# %%
def truth(n: int, seed: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    which = torch.randint(6, (n,), generator=random)
    return centres[which] + spreads[which, None] * torch.randn(n, 2, generator=random)


def distance(x: torch.Tensor, y: torch.Tensor) -> float:
    return float((x[:, 0].sort().values - y[:, 0].sort().values).abs().mean())


class Wrong(Denoiser):
    """A denoiser that errs to the right where there is much noise (early) or little (late)."""

    def __init__(self, when: str) -> None:
        super().__init__()
        self.process, self.when = denoiser.process, when

    def forward(self, batch, t, previous=None):
        said = denoiser(batch, t, previous)["x"]
        level = schedule(t["x"])
        noise = level.sigma / level.alpha
        sizes = {"never": 0.0, "early": 0.4 * (noise > 1), "late": 0.4 * noise * (noise < 0.5)}
        return {"x": type(said)(said.value + sizes[self.when] * torch.tensor([1.0, 0.0]))}


many, true = sd.Batch.of(torch.zeros(20000, 2)), truth(20000, 7)
floor = distance(truth(20000, 8), true)
ETAS = (0.0, 0.25, 0.5, 0.75, 1.0)
distances = {}
for when in ("never", "early", "late"):
    for steps in (10, 60):
        found = []
        for eta in ETAS:
            sampler = sd.DDIM(Wrong(when), grid(steps), eta=eta)
            found.append(distance(sampler.sample(many, sd.Generator(3))["x"], true))
        distances[when, steps] = found
        print(f"wrong {when:6s} {steps:3d} steps: " + "".join(f"{value:8.4f}" for value in found))
print(f"two draws of the truth: {floor:.4f}")
early, late = distances["early", 60], distances["late", 60]
assert early[-1] < 0.8 * early[0]
assert late[-1] > 1.3 * late[0]

# %%
figure, axis = plt.subplots(figsize=(5, 3.2))
colours = {"never": "#3a63d8", "early": "#c0392b", "late": "#7d3c98"}
for (when, steps), found in distances.items():
    style = "-" if steps == 60 else "--"
    label = f"wrong {when}, {steps} steps"
    axis.plot(ETAS, found, "o" + style, ms=3, color=colours[when], label=label)
axis.axhline(floor, color="0.6", lw=1, zorder=0)
axis.set_xlabel("eta: fresh noise of a step")
axis.set_ylabel("distance to the law")
axis.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
axis.set_title("Noise forgives early errors, not late ones")

# %% [markdown]
# ## Classes
# On classes every step draws its rows independently of each other, and the error is of first
# order in the step whatever the sampler. What helps is to draw few rows at a time: `FirstHitting`
# settles one row at each call, exactly. The law has all words of four of three letters, but 90 %
# are two of them, opposite in every letter. Letters that are drawn at once may mix the two. (A
# word is a sample of four rows here, one a letter.)

# %%
words = torch.cartesian_prod(*[torch.arange(3)] * 4)
weights = torch.full((81,), 0.1 / 79)
weights[[int(i) for i in torch.where((words == 0).all(1) | (words == 2).all(1))[0]]] = 0.45
processes = {
    "absorbing": sd.Product({"x": sd.Categorical(sd.Flow(), sd.absorbing(3))}),
    "uniform": sd.Product({"x": sd.Categorical(sd.Flow(), sd.uniform(3))}),
}
STEPS = (2, 4, 8, 16, 32)
N = 1500
letters = sd.Batch({"x": torch.zeros(4 * N, dtype=torch.long)}, {"x": sd.Layout.ragged([4] * N)})
known = sd.Batch({"x": words.flatten()}, {"x": sd.Layout.ragged([4] * 81)})


def mixed(x: torch.Tensor) -> float:
    """Share of words with both a first and a last letter of the alphabet."""
    x = x.reshape(-1, 4)
    return float(((x == 0).any(1) & (x == 2).any(1)).double().mean())


rest = float(weights @ ((words == 0).any(1) & (words == 2).any(1)).double())
shares = {}
for name, process in processes.items():
    exact = ExactDenoiser(process, known, weights)
    shares[name] = [
        mixed(sd.DDPM(exact, sd.UniformTime(n)).sample(letters, sd.Generator(0))["x"])
        for n in STEPS
    ]
    print(f"{name:10s}" + "".join(f"{value:8.3f}" for value in shares[name]))
exact = ExactDenoiser(processes["absorbing"], known, weights)
hit = mixed(sd.FirstHitting(exact).sample(letters, sd.Generator(0))["x"])
print(f"FirstHitting, 4 calls: {hit:.3f}; the law: {rest:.3f}")
assert abs(hit - rest) < 4 * (rest / N) ** 0.5

# %%
figure, axis = plt.subplots(figsize=(4.4, 3))
for name, values in shares.items():
    axis.semilogx(STEPS, values, "o-", ms=3, label=f"{name}, DDPM")
axis.plot(4, hit, "k*", ms=8, label="absorbing, FirstHitting")
axis.axhline(rest, color="0.6", lw=1, zorder=0)
axis.set_xticks(STEPS, [str(n) for n in STEPS])
axis.minorticks_off()
axis.set_ylim(0)
axis.set_xlabel("network calls")
axis.set_ylabel("words that mix both")
axis.legend(frameon=False, fontsize=8)
axis.set_title("Rows that are drawn at once do not agree")

# %% [markdown]
# ## In short
#
# | what is asked | take |
# |---|---|
# | numbers, as good as 10 to 50 calls can | `tune_sampler(denoiser, nfe=N)` |
# | without tuning | `Multistep(denoiser, UniformLogSNR(schedule, N), order=2)` |
# | a network that is worst where noise is large | `DDPM`, 100 and more steps |
# | one that is worst near the data | `DDIM` or a multistep method, no fresh noise |
# | few samples that must be right | `Adaptive(denoiser, tolerance=...)` |
# | encode, interpolate, likelihood | a deterministic walk; `flow_log_prob` |
# | tokens | `FirstHitting`, or `DDPM` with as many steps as one can afford |
# | rotations, angles, directions | the same samplers; `Multistep` has its order there too |
# | a mix | the same ones: a step is taken on all leaves |
