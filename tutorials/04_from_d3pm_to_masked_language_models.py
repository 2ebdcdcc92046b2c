# %% [markdown]
# # From D3PM to masked language models
#
# A diffusion model of text is the four nouns again, and only two of them know that it is text:
#
# | noun | here |
# |---|---|
# | a **schedule** | `Flow()`: the share of letters that are noise is t itself |
# | a **process** | `Categorical(schedule, transition)`: to a mask, or to any letter alike |
# | a **denoiser** | for each letter the odds of what it was, given all of them as they are now |
# | a **sampler** | `DDPM`, or `FirstHitting`, which unmasks letters one by one |
#
# D3PM trains a chain of T steps by a bound on -log p(x). The idea of this page: **let T grow, and
# the bound becomes a short formula**, the weighted cross-entropy of masked language models for one
# chain and the score entropy for the other. First on a language of six words, where everything can
# be summed over, then on text. It takes about a minute on one core.

# %%
import math

import matplotlib.pyplot as plt
import numpy as np
import torch

import structdiff as sd
from structdiff.domains.text import read
from structdiff.domains.text.ngram import NGram
from structdiff.domains.text.pattern import parse_pattern
from structdiff.domains.text.vocabulary import MASK
from structdiff.likelihood import continuous_bound
from structdiff.nn import TokenNetwork
from structdiff.objectives import ContinuousBound, OrderAgnostic
from structdiff.samplers import FirstHitting
from structdiff.testing import ExactDenoiser
from structdiff.training import Source, Trainer, TrainingConfig

torch.manual_seed(0)
torch.set_num_threads(1)
plt.rcParams.update({"figure.dpi": 130, "axes.spines.top": False, "axes.spines.right": False})
plt.rcParams["savefig.bbox"] = "tight"

# %% [markdown]
# ## Six words
# Three letters, six words, some more common than others. The letters hang together: each alone is
# nearly free, but of 27 combinations only six are words. A text is packed as one row a letter, and
# a layout says which rows are one text, so texts of any length go side by side without padding.
#
# The two chains differ in one argument. For both, `ExactDenoiser` is the best denoiser there is.

# %%
LETTERS, WORDS = "aet", ("tea", "eat", "ate", "tee", "eta", "tat")
COUNTS = torch.tensor([7, 5, 3, 2, 2, 1])
law = COUNTS.double() / COUNTS.sum()
words = torch.tensor([[LETTERS.index(letter) for letter in word] for word in WORDS])


def entropy(p: torch.Tensor) -> float:
    return float(torch.special.entr(p).sum())


def batch(words: torch.Tensor) -> sd.Batch:
    return sd.Batch({"x": words.flatten()}, {"x": sd.Layout.ragged([3] * len(words))})


def spell(letters: torch.Tensor) -> list[str]:
    return ["".join((LETTERS + MASK)[i] for i in word) for word in letters.view(-1, 3).tolist()]


chains = {"absorbing": sd.absorbing(3), "uniform": sd.uniform(3)}
exact = {}
for name, transition in chains.items():
    process = sd.Product({"x": sd.Categorical(sd.Flow(), transition)})
    exact[name] = ExactDenoiser(process, batch(words), law)
    bound_process = process.bind(batch(words))
    print(f"{name}: where the words are at time t")
    for time in (0.0, 0.3, 0.6, 1.0):
        times = bound_process.times(torch.tensor(time))
        noisy = bound_process.diffuse(batch(words).leaves, times, sd.Generator(0))["x"]
        print(f"  t = {time:.1f}   {' '.join(spell(noisy))}")

truth = entropy(law)
apart = sum(entropy(torch.bincount(place, law, 3)) for place in words.T)
print(f"entropy {truth:.4f} nats; letter by letter {apart:.4f}, more by {apart - truth:.4f}")

# %% [markdown]
# ## The bound in T steps
# The bound of D3PM adds up, over the steps, how far the step that the denoiser implies is from
# that of someone who knows the word (a KL divergence), and at the last one how surprising the word
# is. It is a mean over words and noise. Here both are few, so `mean` sums over all pairs of a word
# and a noisy word, and nothing is drawn. `sd.bound` draws the noise and works for any data; it is
# held against the sum.


# %%
def mean(name: str, time: torch.Tensor, term) -> float:
    """The mean over words and noise of a term, in nats a word."""
    denoiser, symbols = exact[name], torch.arange(chains[name].symbols)
    noisy = torch.cartesian_prod(symbols, symbols, symbols)
    x_0, x_t = words.repeat_interleave(len(noisy), 0), noisy.repeat(len(words), 1)
    chain = denoiser.process.bind(batch(x_t))["x"]
    likely = chain.log_prob(x_t.flatten(), x_0.flatten(), time).view(-1, 3).sum(1).exp()
    p = law.repeat_interleave(len(noisy)) * likely
    x_0, x_t = x_0[p > 0], batch(x_t[p > 0])
    bound_process = denoiser.process.bind(x_t)
    estimate = denoiser(x_t, bound_process.times(time))["x"]
    nats = term(bound_process["x"], x_0.flatten(), x_t["x"], estimate, time)
    return float(p[p > 0] @ nats.double().view(-1, 3).sum(1))


def in_steps(name: str, steps: int) -> float:
    times = sd.UniformTime(steps).times()

    def step(chain, x_0, x_t, estimate, t):
        (coefficients,) = chain.plan(times[i : i + 2], 1.0)
        return chain.divergence(chain.oracle(x_0, x_t, t), estimate, x_t, coefficients)

    def last(chain, x_0, x_t, estimate, t):
        return chain.reconstruction(estimate, x_0, x_t, t)

    total = mean(name, times[steps - 1], last)
    for i in range(steps - 1):
        total += mean(name, times[i], step)
    return total


STEPS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
gap = {name: [in_steps(name, steps) - truth for steps in STEPS] for name in chains}
shuffled = batch(words.repeat_interleave(20 * COUNTS, 0)[torch.randperm(400)])
print("bound minus entropy, nats a word        sd.bound, drawn")
print("    T   " + "   ".join(f"{name:>9}" for name in chains))
for i, steps in enumerate(STEPS):
    print(f"{steps:5}   " + "   ".join(f"{gap[name][i]:9.4f}" for name in chains), end="")
    for name in chains if steps in (1, 4, 16) else ():
        drawn = sd.bound(exact[name], shuffled, sd.UniformTime(steps), sd.Generator(1), draws=8)
        found, error = float(drawn.total.mean()) - truth, drawn.mean_error()
        assert abs(found - gap[name][i]) < 5 * error + 1e-6
        print(f"   {found:7.3f} +- {error:.3f}", end="")
    print()
assert all(math.isclose(gap[name][0], apart - truth) for name in chains)
assert math.isclose(256 * gap["absorbing"][-1], 1.380, abs_tol=1e-3)
assert math.isclose(256 * gap["uniform"][-1], 3.011, abs_tol=1e-3)

# %% [markdown]
# With one step both chains draw the letters apart, and the gap is what the letters know of each
# other, 1.5239 nats. From there it falls with 1 / T, for what is lost is that two letters can
# change in one step, and then change apart. For the absorbing chain T times the gap settles at
# 1.38. For the uniform one, which mends letters up to the very end, it still grows slowly, from
# 2.6 at T = 32 to 3.0 at 256.
#
# ## The bound in infinitely many steps
# In the limit the sum is an integral over t, of a *rate*: how far the two reversals drift apart
# per unit of time. That is `divergence_rate`, and for each chain it is a formula that is known by
# a name of its own. For the absorbing chain it is the cross-entropy of masked letters with the
# weight -alpha' / (1 - alpha), here 1 / t: the objective of MDLM and MD4. For the uniform chain it
# is the score entropy of SEDD, which holds the ratios s_j = p(j) / p(x_t) that the estimate
# implies against the true ones, r_j.


# %%
def rate(chain, x_0, x_t, estimate, t):
    return chain.divergence_rate(estimate, x_0, x_t, t)


def masked_cross_entropy(chain, x_0, x_t, estimate, t):
    surprise = -estimate.value.gather(1, x_0[:, None])[:, 0]
    return torch.where(x_t == 3, surprise, 0.0) / t


def score_entropy(chain, x_0, x_t, estimate, t):
    log_s = chain.ratios(estimate, x_t, t)
    log_r = chain.ratios(chain.oracle(x_0, x_t, t), x_t, t)
    each = log_s.exp() - log_r.exp() * (log_s - log_r + 1)  # 0 for j = x_t
    return chain.jump(t, x_t).beta / 3 * each.sum(1)


formulas = {"absorbing": masked_cross_entropy, "uniform": score_entropy}
for name, formula in formulas.items():
    for time in torch.tensor([0.05, 0.4, 0.9], dtype=torch.float64):
        assert math.isclose(mean(name, time, formula), mean(name, time, rate), rel_tol=1e-9)

place, share = np.polynomial.legendre.leggauss(16)  # an integral over u in [0, 1], t = u^3
nodes = [(torch.tensor(((u + 1) / 2) ** 3), 3 * ((u + 1) / 2) ** 2 * w / 2)
         for u, w in zip(place, share, strict=True)]  # fmt: skip
for name, formula in formulas.items():
    limit = sum(weight * mean(name, time, formula) for time, weight in nodes)
    drawn = continuous_bound(exact[name], shuffled, sd.Generator(2), draws=100)
    found, error = float(drawn.total.mean()) - truth, drawn.mean_error()
    assert abs(limit - truth) < 1e-6
    assert abs(found) < 5 * error
    print(
        f"{name:9}   integral of {formula.__name__:20}   minus entropy {limit - truth:8.0e}",
        end="",
    )
    print(f"   continuous_bound, drawn: {found:6.3f} +- {error:.3f}")

# %% [markdown]
# Both integrals are the entropy: to 1e-14 for the absorbing chain, to 4e-8 for the uniform one,
# where a sum over 16 times is not quite the integral. In infinitely many steps nothing is lost,
# whichever the chain.
#
# For the absorbing chain time itself can go. The denoiser sees which letters are masked; given
# their number m, all choices are equally likely, and the integral over t leaves the weight 1 / m.
# So the bound is that of a model that predicts letters in a *random order*, an order-agnostic
# ARDM. As objectives the two have one expectation, and the second has less chance in it:

# %%
for objective in (ContinuousBound(), OrderAgnostic()):
    totals = []
    for seed in range(100):
        mixed = shuffled.select(torch.randperm(400, generator=torch.Generator().manual_seed(seed)))
        totals.append(3 * float(objective(exact["absorbing"], mixed, sd.Generator(seed)).total))
    center, spread = np.mean(totals), np.std(totals)
    assert abs(center - truth) < 5 * spread / math.sqrt(len(totals))
    print(
        f"{type(objective).__name__:15}   {center:.3f} nats a word, a batch is off by {spread:.3f}"
    )

# %% [markdown]
# ## A language model
# Now with a network, on the topics of `help()`, which every Python brings along, in windows of 48
# characters. Two models differ in the transition. Both are trained on `ContinuousBound`, which is
# the cross-entropy of masked letters for one and score entropy for the other. The absorbing one is
# not told the time: the masks say all that there is to know of it.

# %%
LENGTH = 48
data = read(length=LENGTH, cache="04_text")
size = data.vocabulary.size
print(data.report)


def language_model(transition, *, clocked: bool, steps: int = 500) -> sd.Denoiser:
    torch.manual_seed(0)
    network = TokenNetwork(transition.symbols, size, width=64, layers=1, heads=4, clocked=clocked)
    process = sd.Product({"token": sd.Categorical(sd.Flow(), transition)})
    denoiser = sd.NetworkDenoiser(network, process)
    source = Source(len(data.train), data.train.collate, batch_size=16)
    config = TrainingConfig(
        steps=steps, batch_size=16, learning_rate=1e-2, warm_up=40, ema=0.98, bf16=False
    )
    trainer = Trainer(denoiser, ContinuousBound(), source, config)
    trainer.run()
    trainer.average.swap()
    return denoiser.eval()


masked = language_model(sd.absorbing(size), clocked=False)
redrawn = language_model(sd.uniform(size), clocked=True)

# %% [markdown]
# The ruler is bits per character on text that no model has seen, beside n-gram models, which count
# how often a character follows the n - 1 before it. For the diffusion models it is a bound; the
# masked one is measured in all three ways, with the same network.

# %%
test = data.test.collate(np.arange(0, len(data.test), 4))
counted = {n: NGram.fit([data.train.tokens], size, n) for n in (1, 2, 3)}
bits = {f"{n}-gram": (model.bits(data.test.tokens), 0.0) for n, model in counted.items()}
unit = LENGTH * math.log(2)
for name, found in {
    "uniform chain": continuous_bound(redrawn, test, sd.Generator(0), draws=16),
    "absorbing chain": continuous_bound(masked, test, sd.Generator(0), draws=16),
    "absorbing, 4 steps": sd.bound(masked, test, sd.UniformTime(4), sd.Generator(0), draws=4),
}.items():
    bits[name] = float(found.total.mean()) / unit, found.mean_error() / unit
totals = []
for seed in range(16):
    mixed = test.select(torch.randperm(test.samples))
    with torch.no_grad():
        totals.append(float(OrderAgnostic()(masked, mixed, sd.Generator(seed)).total))
bits["absorbing, random order"] = np.mean(totals) / math.log(2), np.std(totals) / 4 / math.log(2)
for name, (value, error) in bits.items():
    print(f"{name:23} {value:.2f}" + (f" +- {error:.2f}" if error else ""))

ours, error = bits["absorbing chain"]
again, its_error = bits["absorbing, random order"]
assert abs(ours - again) < 5 * (error + its_error)
assert bits["3-gram"][0] < ours < bits["2-gram"][0] < bits["uniform chain"][0]
assert 0.2 < bits["absorbing, 4 steps"][0] - ours < 0.6

# %% [markdown]
# After 500 updates the masked model stands at 3.0 bits, between the bigram and the trigram counts,
# and at the same number in random order, as it must. A chain of only 4 steps costs it 0.3 bits.
# The uniform chain asks more of a network, which has to find out which letters are wrong: 3.7 bits
# after the same training.
#
# ## Samples
# `DDPM` walks a grid and calls the network at every time of it. `FirstHitting` first draws *when*
# each letter is unmasked, which for the absorbing chain depends on nothing else, and then calls
# the network once for each letter: infinitely many steps for 48 calls. How like the text is what
# they draw? The trigram model says, in bits per character.

# %%
layout = sd.Layout.ragged([LENGTH] * 64)
blank = sd.Batch({"token": torch.zeros(64 * LENGTH, dtype=torch.long)}, {"token": layout})
calls, surprises = [], []


def watch(_, carry):
    calls.append(carry.calls)


print("calls   trigram bits   the first text drawn")
for sampler in (
    sd.DDPM(masked, sd.UniformTime(1)),
    sd.DDPM(masked, sd.UniformTime(8)),
    sd.DDPM(masked, sd.UniformTime(48)),
    FirstHitting(masked),
):
    texts = sampler.sample(blank, sd.Generator(3), watch)["token"].view(64, LENGTH).numpy()
    surprises.append(np.mean([counted[3].bits(text) for text in texts]))
    print(f"{calls[-1]:5}   {surprises[-1]:12.2f}   {data.vocabulary.decode(texts[0])!r}")
print(f" test   {np.mean([counted[3].bits(data.test.window(i)) for i in range(400)]):12.2f}")
assert surprises[0] - 1 > surprises[1] > surprises[2]
assert abs(surprises[3] - surprises[2]) < 0.2

# %% [markdown]
# One call draws all letters apart, which gives the right letters in a wrong order. More steps are
# better, and from 8 to 48 there is less to win than from 1 to 8. With as many calls `FirstHitting`
# draws as well as the grid. What separates 5.7 bits from the 2.4 of the test text is not the
# sampler: a larger network and a longer training do.
#
# ## Filling in
# What is known of a text is held with `given=`, a mask of rows. With the absorbing chain nothing
# special is needed, neither in training nor in sampling: a known letter looks like one that was
# never masked. On the six words, given an *a* in the middle, the draws follow Bayes' rule.

# %%
middle = torch.zeros(4000, 3, dtype=torch.long)  # letters a; those not given are not looked at
held = batch(middle).with_given({"x": torch.tensor([False, True, False]).repeat(4000)})
drawn = spell(FirstHitting(exact["absorbing"]).sample(held, sd.Generator(4))["x"])
possible = {word: float(p) for word, p in zip(WORDS, law, strict=True) if word[1] == "a"}
for word, p in possible.items():
    expected, found = p / sum(possible.values()), drawn.count(word) / len(drawn)
    assert abs(found - expected) < 5 * math.sqrt(expected * (1 - expected) / len(drawn))
    print(f"{word}: drawn {found:.1%}, by Bayes' rule {expected:.1%}")
assert set(drawn) == set(possible)

# %% [markdown]
# A pattern says the same of a text: `{3}` stands for three characters that are not known. How many
# of those that were left out of a sentence come back?

# %%
sentence = "The statement is used to return a value."
pattern = parse_pattern("The st{3}ment is us{2} to ret{3} a va{2}e.", data.vocabulary)
known, count = torch.from_numpy(pattern.known), 100
hidden = torch.from_numpy(pattern.ids * pattern.known)
layout = {"token": sd.Layout.ragged([len(pattern)] * count)}
start = sd.Batch({"token": hidden.repeat(count)}, layout)
start = start.with_given({"token": known.repeat(count)})
frames = [torch.where(known, hidden, size)]
filled = FirstHitting(masked).sample(
    start, sd.Generator(5), lambda _, carry: frames.append(carry.x["token"][: len(pattern)])
)
filled = filled["token"].view(count, -1)
whole = torch.from_numpy(data.vocabulary.encode(sentence))
assert (filled == whole)[:, known].all()
for text in filled[:6]:
    print(repr(data.vocabulary.decode(text.numpy())))
back = float((filled == whole)[:, ~known].double().mean())
blind = data.vocabulary.frequencies[whole[~known]].mean()
print(
    f"{back:.0%} of {(~known).sum()} characters come back; by their frequencies alone {blind:.0%}"
)
assert back > 2 * blind

# %% [markdown]
# A quarter of the characters come back, five times as many as by their frequencies alone. Each is
# drawn with both sides in view, and one call of the network does it for all hundred texts.
#
# ## The picture
# Left, the gap between bound and entropy on the six words, and a grey line of slope -1. Right, how
# the first text was filled in: from the top, one line a call. Held characters are black, masks
# grey, and the others have the colour of the call that drew them.

# %%
figure, (left, right) = plt.subplots(
    1, 2, figsize=(11, 3.6), layout="constrained", gridspec_kw={"width_ratios": [1, 2]}
)
for (name, gaps), colour in zip(gap.items(), ("#3a63d8", "#e07a2f"), strict=True):
    left.loglog(STEPS, gaps, "o-", color=colour, markersize=4, label=name)
left.loglog(STEPS, [1 / steps for steps in STEPS], color="0.7", linewidth=0.8, label="1 / T")
left.set(xlabel="steps T", ylabel="bound minus entropy, nats a word")
left.legend(frameon=False)

turn = (torch.stack(frames) == size).sum(0) / len(frames)
for line, ids in enumerate(frames):
    for place, letter in enumerate(data.vocabulary.decode(ids.numpy())):
        shade = plt.get_cmap("plasma")(0.9 * turn[place].item())
        colour = "0.85" if letter == MASK else "black" if known[place] else shade
        style = {"family": "monospace", "fontsize": 9, "ha": "center", "va": "center"}
        right.text(place, line, letter.replace("\n", "↵"), color=colour, **style)
right.set(xlim=(-1, len(pattern)), ylim=(len(frames) - 0.5, -0.5), ylabel="calls")
right.set(xticks=[], yticks=range(len(frames)))
right.spines["bottom"].set_visible(False)
figure.savefig("04_from_d3pm_to_masked_language_models.png")
plt.close(figure)

# %% [markdown]
# To go on: `sd.marginal(frequencies)` is a third chain, whose noise looks like the text, and
# `StepBound(sd.UniformTime(T))` trains on T steps as D3PM did; both go into `language_model` as
# they are. `structdiff.domains.text` has all of this for files of any size, with a command line.
