# %% [markdown]
# # A spoken digit from noise
#
# A second of speech is 8,000 numbers, but what one hears are loudnesses of bands of frequency as
# they change: a *log-mel spectrogram*, a small picture. Diffusion draws the picture, and the
# phases, which the picture lacks, are reconstructed. The four nouns:
#
# | noun | here |
# |---|---|
# | a **schedule** | `Cosine` |
# | a **process** | `Gaussian` noise on spectrograms |
# | a **denoiser** | a U-Net of the noisy spectrogram, the clock and the class, trained |
# | a **sampler** | DDIM, guided by the class |
#
# Name the recordings of the Free Spoken Digit Dataset (a folder or a tar archive) by the
# environment variable `SPOKEN_DIGITS`, and this page speaks; give it an hour then, with
# `training.steps` 5000. Without, it takes a stand-in that needs no download: synthesised tones of
# a bell, a flute, a reed and a string, for about a minute on one core.

# %%
import os
import shutil
from pathlib import Path

import torch

from structdiff.domains.audio import (
    AudioConfig,
    Known,
    judge_of,
    judged,
    read,
    spectrograms,
    train,
    write,
)
from structdiff.domains.audio.metrics import log_mel_distance, signal_to_noise
from structdiff.metrics.judge import JUDGING

torch.set_num_threads(1)
path = os.environ.get("SPOKEN_DIGITS")

# %% [markdown]
# ## The data
# Recordings become clips of one rate and one length, padded with silence. Names like
# `7_jackson_32.wav` say the class, the speaker and the number, and the first numbers of each
# speaker are for the test.

# %%
data = read(path)
print(data.report)
classes = data.train.classes
first = [next(s for s in data.test.sounds() if s.label == name) for name in classes]
Path("10_real.png").write_bytes(spectrograms(first, columns=5))

# %% [markdown]
# ## Sound to picture and back
# How much do we lose before any model comes in? The spectrogram of each test sound is made audible
# again by Griffin and Lim's iterations: phases are guessed, then made consistent. Waves differ
# then (phases may be anything), spectra hardly.

# %%
config = AudioConfig.model_validate(
    {
        "data": {"path": path},
        "sound": {"iterations": 32},
        "network": {"width": 16, "multipliers": [1, 2, 3], "blocks": 1, "attention": [2]},
        "training": {
            "steps": 300,
            "batch_size": 16,
            "learning_rate": 2e-3,
            "warm_up": 50,
            "ema": 0.98,
            "validate_every": 150,
        },
    }
)
out = Path("10_sounds")
shutil.rmtree(out, ignore_errors=True)
run = train(config, out)

# %%
clean = torch.from_numpy(data.test.wave)[:20]
again = run.waves(run.form.fields(clean.unsqueeze(1))).squeeze(1)
print(f"a spectrogram has the shape {tuple(run.form.event)}, a wave {clean.shape[1]} samples")
print(f"spectra are {float(log_mel_distance(again, clean, data.test.rate).mean()):.1f} dB apart,")
print(f"waves have a ratio of {float(signal_to_noise(again, clean).mean()):.1f} dB")

# %% [markdown]
# ## Drawing by name
# Guidance at scale 2: the difference between what the network says with the class and without it
# counts twice. Nothing is chosen: these are the first that were drawn.

# %%
labels = [name for name in classes for _ in range(2)]
drawn = run.sample(len(labels), label=labels, steps=25, guidance=2.0, seed=1, progress=False)
print(write(Path("10_drawn.wav"), drawn, overwrite=True))
Path("10_drawn.png").write_bytes(spectrograms(drawn, columns=len(labels) // 2))

# %% [markdown]
# ## Does it sound like what was asked for?
# One may listen to `10_drawn.wav`. To measure, a small classifier of spectrograms is trained on
# the part for training; its features tell how far drawn and real sounds are apart, beside as many
# real ones, and the nearest training sound tells whether the model repeats what it heard.

# %%
judge = judge_of(
    data, folder=out / "judge", config=JUDGING.model_copy(update={"steps": 100, "warm_up": 20})
)
many = [classes[number % len(classes)] for number in range(48)]
found = judged(
    run.sample(48, label=many, steps=25, guidance=2.0, seed=2, batch_size=48, progress=False),
    data,
    judge,
)
for row in found.rows():
    print(f"{row[0]:52}{row[1]:>28}{row[2]:>24}")
assert found.right.value > 0.6

# %% [markdown]
# ## A gap is filled
# Part of a recording is lost. Frames that were heard whole are held while the others are drawn;
# phases are reconstructed for all of them. There is more than one right answer: two are drawn.

# %%
sound = data.test.sounds()[0]
start, end = (round(share * sound.seconds, 3) for share in (0.4, 0.65))
filled = run.sample(
    2, label=sound.label, known=Known(sound=sound, gap=(start, end)), seed=4, progress=False
)
cut = sound.wave.copy()
cut[round(start * sound.rate) : round(end * sound.rate)] = 0
holed = type(sound)(cut, sound.rate, sound.label)
captions = ["recorded", f"{start:g} to {end:g} s lost", "filled", "filled again"]
picture = spectrograms([sound, holed, *filled], captions, columns=4)
Path("10_gap.png").write_bytes(picture)
before = round((start - config.sound.window) * sound.rate)
pair = [torch.from_numpy(one.wave[:before])[None] for one in (filled[0], sound)]
print(f"before the gap spectra are {float(log_mel_distance(*pair, sound.rate)):.1f} dB apart")

# %% [markdown]
# On the command line:
#
#     structdiff train audio --data recordings.tar.xz --out runs/spoken
#     structdiff sample runs/spoken -n 10 --guidance 2 -o digits.wav
#
# Spectrograms of many frames are drawn faster as latents (`codec.kind kl`), and a diffusion
# vocoder (`sound.model vocoder`), trained on the same recordings, takes the place of the guessed
# phases: name its folder by `sound.vocoder`.
