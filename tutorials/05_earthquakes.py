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
import os
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
# Any table with two columns of latitudes and longitudes will do, by its path and
# `columns="lat,lon:sphere"`. Name one by the environment variable `EARTHQUAKES`, for instance the
# significant earthquakes of NOAA's catalogue (`data/quakes_all.csv` of the public repository
# oxcsml/riemannian-score-sde). Without one, this page makes a stand-in: 1,500 epicentres strewn
# along eleven seismic belts, thick on some and thin on others, with a few anywhere.
#
# A tenth is for validation and a tenth is held out to the end. A place becomes a unit vector;
# densities are against the area of the unit sphere, 4 pi, so a model that knows nothing has -2.53
# nats everywhere.

# %%
BELTS = {  # weight, then corners as longitude, latitude
    "South America": (3, (-73, -45), (-72, -30), (-75, -15), (-81, -3), (-80, 5)),
    "North America": (2, (-85, 10), (-96, 15), (-105, 19), (-116, 31), (-122, 38), (-125, 45)),
    "Alaska": (2, (-138, 58), (-150, 60), (-165, 54), (-178, 52)),
    "Japan": (4, (160, 54), (150, 46), (143, 40), (140, 34), (142, 24), (145, 15)),
    "Philippines": (2, (131, 31), (124, 24), (121, 20), (125, 10), (127, 3)),
    "Indonesia": (4, (95, 5), (98, 0), (103, -5), (110, -9), (120, -10), (130, -7)),
    "Solomons": (3, (135, -3), (145, -5), (152, -5), (160, -10), (167, -16), (170, -22)),
    "Tonga": (2, (-174, -15), (-175, -22), (-178, -30), (178, -38), (170, -43)),
    "Mediterranean": (3, (-6, 36), (13, 42), (20, 40), (27, 38), (35, 38), (44, 39)),
    "Asia": (3, (50, 35), (58, 30), (66, 30), (72, 36), (80, 32), (88, 28), (95, 26), (97, 22)),
    "Atlantic": (1, (-18, 65), (-30, 50), (-40, 30), (-43, 15), (-25, 0), (-14, -15), (-14, -40)),
}


def stand_in(path: Path, number: int = 1500) -> Path:
    """Points along the belts, about two degrees to either side; one in fifty anywhere."""
    rng = np.random.default_rng(0)
    weights = np.array([belt[0] for belt in BELTS.values()], float)
    lines = ["latitude,longitude"]
    for kind in rng.choice(len(BELTS), number, p=weights / weights.sum()):
        corners = np.array(list(BELTS.values())[kind][1:], float)
        corners[:, 0] = np.rad2deg(np.unwrap(np.deg2rad(corners[:, 0])))
        along = rng.uniform(0, len(corners) - 1)
        first, share = int(along), along % 1
        place = (1 - share) * corners[first] + share * corners[first + 1]
        longitude, latitude = place + rng.normal(0, 2, 2)
        if rng.uniform() < 0.02:
            longitude, latitude = rng.uniform(-180, 180), np.rad2deg(np.arcsin(rng.uniform(-1, 1)))
        lines.append(f"{latitude:.1f},{(longitude + 180) % 360 - 180:.1f}")
    path.write_text("\n".join(lines) + "\n")
    return path


own = os.environ.get("EARTHQUAKES")
table = Path(own or stand_in(Path("05_stand_in.csv")))
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
# Drawn places are as near to known earthquakes as the held-out ones are; places anywhere are more
# than ten times as far.
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
assert own or abs(gain.mean()) < 0.15

# %% [markdown]
# On the stand-in both come out alike within the error: a kernel estimate whose width was fitted is
# hard to beat on points strewn evenly about lines. The catalogue itself has structure of all
# sizes, and many earthquakes where one has been before. There a larger network is ahead of kernels
# of one width and behind kernels of several (the README of the domain has the numbers, and what is
# left of them without those places).
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
assert own or gain[gap < 1].mean() < 0.05 < 0.5 < gain[gap >= 4].mean()

# %% [markdown]
# Near known earthquakes the kernels win a little: they hold the very points. The five that are far
# from all of them are likelier under the network, by a nat in the mean: its density has soft
# flanks, that of the kernels falls to the uniform floor, which is -7.14 nats.
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
assert 0.9 < model.mass < 1.1
figure = sphere_maps(
    samples.numpy(),
    quakes["train"].numpy(),
    log_density=lambda points: known,
    test=quakes["test"].numpy(),
    centre=150,
    pixels=90,
    title="epicentres",
)
save(figure, "05_earthquakes.png")

# %% [markdown]
# And where the two maps differ: red where the network says that earthquakes are more likely than
# the kernels do, blue where it says less. The belts are pale: on them the two agree. They are
# lined with red, for the network does not end them as sharply; and in wide empty places, where
# nothing was ever seen, it goes below the floor of the kernels.

# %%
apart = density_on_map(
    lambda points: known - kernel.log_prob(torch.from_numpy(points)).numpy(), globe, 90
)
figure, axis = plt.subplots(figsize=(8.5, 4), layout="constrained")
globe.base(axis, filled=False)
image = axis.imshow(
    apart.value, extent=apart.extent, origin="lower", cmap="RdBu_r", vmin=-3, vmax=3,
    interpolation="bilinear",
)  # fmt: skip
edge = np.stack(globe.projection.outline(), 1)
image.set_clip_path(Polygon(edge, transform=axis.transData))
globe.scatter(axis, quakes["train"].numpy(), "#1c2333", alpha=0.5)
figure.colorbar(image, shrink=0.7, label="network less kernels, nats")
figure.savefig("05_difference.png")
plt.close(figure)

# %% [markdown]
# To go on: the same run on the command line is `structdiff train manifolds --data TABLE`, then
# `sample`, `score` and `evaluate`, which makes a page with this map. `--noise.route flow` takes
# Riemannian flow matching instead of diffusion, and a table with depths as well becomes a record
# of two leaves by `--data.columns "place=lat,lon:sphere; depth:euclidean"`.
