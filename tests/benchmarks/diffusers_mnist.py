"""The other side of `images.py`: digits by diffusers, in an environment of its own.

    OMP_NUM_THREADS=1 peers/bin/python tests/benchmarks/diffusers_mnist.py \
        --data digits.npz --out runs/theirs

The settings are those of its example of unconditional training: AdamW with betas 0.95 and 0.999,
decay 1e-6, a warm-up and a cosine, the mean squared error of the noise, 1,000 linear times, a clip
of the gradient at 1, and the moving average of weights with its warm-up. The class is
UNet2DModel's own class embedding. bfloat16 is the example's `--mixed_precision bf16`. The learning
rate is 1e-3, ten times the example's default, for there are few updates.

Written are `theirs.json` (parameters, CPU seconds of training at each kept step) and
`samples-SAMPLER-STEP.npz` (images in [-1, 1], the classes asked for, CPU seconds). Stop it at any
time, the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, UNet2DModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor
from torch.nn import functional as F

SAVE_SECONDS = 60.0
TOGETHER = 250


def network(widths: list[int]) -> UNet2DModel:
    """A class-conditional U-Net of three levels with attention at the last one."""
    return UNet2DModel(
        sample_size=28,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=tuple(widths),
        norm_num_groups=8,
        attention_head_dim=16,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        num_class_embeds=10,
    )


class Training:
    """The example's loop, with a state that is saved."""

    def __init__(self, chosen: argparse.Namespace) -> None:
        torch.manual_seed(chosen.seed)
        self.chosen, self.step, self.spent = chosen, 0, 0.0
        self.model = network(chosen.widths)
        self.noise = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(),
            lr=chosen.learning_rate,
            betas=(0.95, 0.999),
            weight_decay=1e-6,
            eps=1e-8,
        )
        self.rate = get_scheduler(
            "cosine",
            optimizer=self.optimiser,
            num_warmup_steps=chosen.warm_up,
            num_training_steps=chosen.steps,
        )
        self.average = EMAModel(
            self.model.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75
        )
        self.kept: dict[str, float] = {}
        self.path: Path = chosen.out / "state.pt"
        if self.path.exists():
            self.resume()

    def resume(self) -> None:
        """Go on from what was saved."""
        state: dict[str, Any] = torch.load(self.path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.rate.load_state_dict(state["rate"])
        self.average.load_state_dict(state["average"])
        torch.set_rng_state(state["random"])
        self.step, self.spent, self.kept = state["step"], state["spent"], state["kept"]

    def save(self) -> None:
        """Write the state, atomically."""
        state = {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "rate": self.rate.state_dict(),
            "average": self.average.state_dict(),
            "random": torch.get_rng_state(),
            "step": self.step,
            "spent": self.spent,
            "kept": self.kept,
        }
        torch.save(state, self.path.with_suffix(".part"))
        os.replace(self.path.with_suffix(".part"), self.path)

    def update(self, images: Tensor, labels: Tensor) -> float:
        """One update; the loss."""
        noise = torch.randn_like(images)
        t = torch.randint(0, self.noise.config.num_train_timesteps, (len(images),)).long()
        noisy = self.noise.add_noise(images, noise, t)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.chosen.bf16):
            output = self.model(noisy, t, class_labels=labels).sample
        loss = F.mse_loss(output.float(), noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.rate.step()
        self.optimiser.zero_grad()
        self.average.step(self.model.parameters())
        return float(loss.detach())

    def keep(self) -> None:
        """The averaged weights of this step, in a file."""
        self.kept[str(self.step)] = self.spent
        self.average.store(self.model.parameters())
        self.average.copy_to(self.model.parameters())
        torch.save(self.model.state_dict(), self.chosen.out / f"weights-{self.step}.pt")
        self.average.restore(self.model.parameters())

    def run(self, images: Tensor, labels: Tensor) -> None:
        """Train to the last step."""
        steps, batch = self.chosen.steps, self.chosen.batch
        looks = {steps * part // self.chosen.looks for part in range(1, self.chosen.looks + 1)}
        per_epoch, saved = len(images) // batch, time.monotonic()
        losses = []
        while self.step < steps:
            began = time.process_time()
            epoch, part = divmod(self.step, per_epoch)
            order = torch.randperm(len(images), generator=torch.Generator().manual_seed(epoch))
            rows = order[part * batch : (part + 1) * batch]
            losses.append(self.update(images[rows].float() / 127.5 - 1, labels[rows]))
            self.step += 1
            self.spent += time.process_time() - began
            if self.step in looks:
                self.keep()
            if self.step % 100 == 0:
                loss, losses = sum(losses) / len(losses), []
                print(f"step {self.step} loss {loss:.4f} CPU {self.spent:.0f} s", flush=True)
            if time.monotonic() - saved > SAVE_SECONDS or self.step == steps:
                self.save()
                saved = time.monotonic()


@torch.no_grad()
def draw(model: UNet2DModel, name: str, labels: Tensor, calls: int, *, bf16: bool) -> Tensor:
    """Images of classes by one of its samplers, in blocks."""
    makers = {"DDPM": DDPMScheduler, "DDIM": DDIMScheduler, "DPM++": DPMSolverMultistepScheduler}
    random, parts = torch.Generator().manual_seed(1), []
    for block in labels.split(TOGETHER):
        scheduler = makers[name](num_train_timesteps=1000, beta_schedule="linear")
        scheduler.set_timesteps(calls)
        x = torch.randn(len(block), 1, 28, 28, generator=random)
        for t in scheduler.timesteps:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                output = model(x, t, class_labels=block).sample.float()
            extra = {} if name == "DPM++" else {"generator": random}
            x = scheduler.step(output, t, x, **extra).prev_sample
        parts.append(x.clamp(-1, 1))
    return torch.cat(parts)


def main() -> None:
    """Train, then sample at each kept step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="npz with images and labels")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--widths", type=int, nargs=3, default=[16, 32, 48])
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--warm-up", type=int, default=500)
    parser.add_argument("--looks", type=int, default=4)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--looked", type=int, default=500)
    parser.add_argument("--calls", type=int, default=50)
    parser.add_argument("--samplers", nargs="*", default=["DDPM", "DDIM"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    chosen.out.mkdir(parents=True, exist_ok=True)
    with np.load(chosen.data) as data:
        images = torch.from_numpy(data["train_images"])
        labels = torch.from_numpy(data["train_labels"]).long()
    training = Training(chosen)
    training.run(images, labels)
    model = training.model.eval()
    asked = torch.arange(chosen.samples) % 10
    last = max(int(step) for step in training.kept)
    for step in sorted(map(int, training.kept), reverse=True):
        model.load_state_dict(torch.load(chosen.out / f"weights-{step}.pt", weights_only=True))
        # The course of training is drawn by one sampler, and fewer.
        for name in chosen.samplers if step == last else chosen.samplers[:1]:
            path = chosen.out / f"samples-{name}-{step}.npz"
            if path.exists():
                continue
            classes = asked if step == last else asked[: chosen.looked]
            began = time.process_time()
            x = draw(model, name, classes, chosen.calls, bf16=chosen.bf16)
            seconds = time.process_time() - began
            part = path.with_suffix(".part")
            with part.open("wb") as file:
                np.savez(file, images=x.numpy(), labels=classes.numpy(), seconds=seconds)
            os.replace(part, path)
            print(f"{name} step {step}: {seconds:.0f} CPU s", flush=True)
    about = {
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "kept": training.kept,
        "images_per_second": chosen.steps * chosen.batch / training.spent,
        **{key: str(value) for key, value in vars(chosen).items()},
    }
    (chosen.out / "theirs.json").write_text(json.dumps(about, indent=2))


if __name__ == "__main__":
    main()
