# %% [markdown]
# # Earthquakes
#
# A domain package puts the four nouns together for one kind of data. For points of the Earth, or
# of any other curved space, they are:
#
# | noun | here |
# |---|---|
# | a **schedule** | `Geometric`: noise from 0.02 to 4 radians, one to 230 degrees |
# | a **process** | `Brownian` motion on the sphere, until the points are anywhere |
# | a **denoiser** | a residual network of the place and the clock, trained |
# | a **sampler** | ancestral steps, evenly in the log of the noise |
#
# This page goes from a table of latitudes and longitudes to a **map of density** and asks the one
# question that such a map must answer: *how likely are earthquakes that it has not seen?* A kernel
# density estimate, which needs no training at all, answers the same question beside it. It takes
# about a minute on one core.

# %%
import math
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.patches import Polygon

from structdiff.domains.manifolds import ManifoldsConfig, Points, read, train
from structdiff.domains.manifolds.kde import fit_bandwidth
from structdiff.domains.manifolds.metrics import nearest
from structdiff.domains.manifolds.pictures import sphere_maps
from structdiff.domains.manifolds.pictures.canvas import save
from structdiff.domains.manifolds.pictures.maps import Globe, density_on_map
from structdiff.domains.manifolds.pictures.projections import EqualEarth

torch.set_num_threads(1)
plt.rcParams.update({"figure.dpi": 130, "savefig.bbox": "tight"})

# %% [markdown]
# ## The data
# 1,500 epicentres of significant earthquakes, from the catalogue of NOAA, lie in a table beside
# this page. Any table with two such columns will do, by its path and `columns="lat,lon:sphere"`;
# these have names that are understood. A fifth is held out, and looked at only at the end.
#
# A place becomes a unit vector. Densities are against the area of the unit sphere, 4 pi, so a
# model that knows nothing has -2.53 nats everywhere.

# %%
here = Path(__file__).parent if "__file__" in globals() else Path()
table = here / "earthquakes.csv"
data = read(table)
print(data.report)
(leaf,) = data.codec.leaves
sphere = data.codec.spaces[leaf.name]
quakes = {part: getattr(data, part).leaves[leaf.name] for part in ("train", "validation", "test")}
print(f"uniform: {-sphere.log_volume:.2f} nats")

# %% [markdown]
# ## What needs no training
# A kernel density estimate puts a bump on every earthquake that it knows: the heat kernel of the
# sphere, with a width for all that is chosen on the validation points. A hundredth of it is
# uniform, for earthquakes far from all others.

# %%
kernel = fit_bandwidth(sphere, quakes["train"], quakes["validation"])
by_kernel = kernel.log_prob(quakes["test"]).numpy()
print(f"bumps of {math.degrees(kernel.bandwidths[0]):.1f} degrees")
print(f"held-out earthquakes: {by_kernel.mean():.3f} nats")

# %% [markdown]
# ## A run
# `train` takes a config and makes a folder: weights, settings, the columns and what was seen on
# the way. The network here is small and the training short. `sigma_min` is the finest structure
# that the model may know, `octaves` how fine the waves are that its network sees. Weights are kept
# that are best on the validation points, and so is the noise at which the model's density is
# taken: less of it shows structure that the network has not learned.

# %%
shutil.rmtree("05_run", ignore_errors=True)
config = ManifoldsConfig.model_validate(
    {
        "data": {"path": str(table)},
        "noise": {"sigma_min": 0.02},
        "network": {"width": 128, "waves": 128, "octaves": 5},
        "training": {
            "steps": 1200,
            "batch_size": 256,
            "learning_rate": 2e-3,
            "ema": 0.995,
            "validate_every": 100,
        },
    }
)
run = train(config, "05_run", say=lambda line: None)
for name, value in run.facts().items():
    print(f"{name}: {value}")

# %% [markdown]
# ## Samples
# `sample` gives columns as they were in the table. Are they where earthquakes are? For each, the
# distance to the nearest epicentre of the training part, and beside it the same for the held-out
# earthquakes and for places drawn anywhere.

# %%
drawn = run.sample(1500, steps=100, progress=False)
latitude, longitude = (drawn.columns[name] for name in leaf.columns)
for place in zip(latitude[:4], longitude[:4], strict=True):
    print("latitude {:6.1f}, longitude {:7.1f}".format(*place))

samples = data.codec.encode(drawn)[leaf.name].double()
anywhere = torch.nn.functional.normalize(
    torch.randn(1500, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64), dim=1
)
print("degrees to the nearest known earthquake: a half, nine of ten within")
for name, points in {"held out": quakes["test"], "drawn": samples, "anywhere": anywhere}.items():
    gap = torch.rad2deg(nearest(sphere, points.double(), quakes["train"].double()))
    half, most = gap.quantile(0.5), gap.quantile(0.9)
    print(f"{name:9} {half:5.1f} {most:5.1f}")

# %% [markdown]
# TEXT
#
# ## Likelihood
# The walk without noise is a flow on the sphere, and a flow carries density along. `score` follows
# each point from data to noise and adds up the divergence: the exact log density of the model.

# %%
scores = run.score(data.test, progress=False)
print(scores.summary())
gain = scores.total - by_kernel
error = gain.std(ddof=1) / math.sqrt(len(gain))
print(f"the network, less the kernels: {gain.mean():.3f} +- {error:.3f} nats an earthquake")

# %% [markdown]
# TEXT
#
# ## Where the two differ
# The mean hides much. For each held-out earthquake there is a difference; the largest of either
# sign, with the distance to the nearest earthquake that both have seen.

# %%
gap = torch.rad2deg(nearest(sphere, quakes["test"].double(), quakes["train"].double())).numpy()
order = np.argsort(gain)
place = data.codec.decode(data.test.batch())
print("latitude longitude   kernels   network   nearest, degrees")
for i in (*order[:4], *order[-4:]):
    where = [place.columns[name][i] for name in leaf.columns]
    print("{:8.1f} {:9.1f}".format(*where), end="")
    print(f"{by_kernel[i]:10.2f} {scores.total[i]:9.2f} {gap[i]:18.1f}")
for name, some in {"near": gap < 1, "between": (gap >= 1) & (gap < 4), "far": gap >= 4}.items():
    print(f"{name:8} {some.sum():4} earthquakes, {gain[some].mean():6.2f} nats")

# %% [markdown]
# TEXT
#
# ## The picture
# Above, the data and the samples; below, the log density of the model with the held-out
# earthquakes on it. The Pacific is in the middle, with the ring of fire around it.


# %%
@torch.no_grad()
def log_model(points: np.ndarray) -> np.ndarray:
    asked = Points({leaf.name: torch.from_numpy(points)}, np.arange(len(points)))
    return run.score(asked, tolerance=1e-2, progress=False).total


globe = Globe(EqualEarth(), centre=150)
model = density_on_map(log_model, globe, 90)
known = model.value[model.inside]
print(f"the density adds up to {model.mass:.2f} on {len(known):,} cells of the map")
figure = sphere_maps(
    samples.numpy(),
    quakes["train"].numpy(),
    log_density=lambda points: known,
    test=quakes["test"].numpy(),
    centre=150,
    pixels=90,
    title="significant earthquakes",
)
save(figure, "05_earthquakes.png")

# %% [markdown]
# And where the two maps differ: red where the network says that earthquakes are more likely than
# the kernels do, blue where it says less.

# %%
apart = density_on_map(
    lambda points: known - kernel.log_prob(torch.from_numpy(points)).numpy(), globe, 90
)
figure, axis = plt.subplots(figsize=(8, 4), layout="constrained")
globe.base(axis, filled=False)
image = axis.imshow(
    apart.value, extent=apart.extent, origin="lower", cmap="RdBu_r", vmin=-3, vmax=3,
    interpolation="bilinear",
)  # fmt: skip
edge = np.stack(globe.projection.outline(), 1)
image.set_clip_path(Polygon(edge, transform=axis.transData))
globe.scatter(axis, quakes["train"].numpy(), "#1c2333")
figure.colorbar(image, shrink=0.7, label="network less kernels, nats")
figure.savefig("05_difference.png")
plt.close(figure)
