"""A trained model of images: training it, keeping it in a folder, drawing from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, final

from torch import Tensor

from structdiff.domains.images.codec import ImageCodec
from structdiff.domains.images.data import Data, read
from structdiff.domains.images.images import Images
from structdiff.domains.images.recipe import ImagesConfig, fields_of
from structdiff.domains.images.request import Labels, Picture, asked_of
from structdiff.domains.images.tasks import Task
from structdiff.runs import load_together
from structdiff.runs.fields import FieldRun, Fields, Request
from structdiff.runs.fields.model import Watch
from structdiff.runs.fields.record import LABEL

__all__ = ["Run", "load_data", "train"]


def load_data(config: ImagesConfig, path: Path | str | None = None) -> Data:
    """The images of a config.

    Arguments:
        config: Settings.
        path: Where they lie, if not where the config says.

    Raises:
        FileNotFoundError: If there is nothing of that name.
        ValueError: If the images cannot be used.
    """
    data = config.data
    return read(
        data.path if path is None else path,
        size=data.size,
        channels=data.channels,
        labelled=data.labelled,
        workers=data.workers,
    )


def train(
    config: ImagesConfig | None = None,
    out: Path | str = "runs/images",
    *,
    say: Callable[[str], None] = print,
) -> Run:
    """Train on images, or go on with a run that was stopped.

    Arguments:
        config: Settings; the defaults train on scikit-learn's handwritten digits.
        out: Folder of the run.
        say: Where to report.

    Raises:
        ValueError: If the images cannot be used, or the folder has another config.
        FileNotFoundError: If the images are missing.
        Stopped: If a signal asked to stop; the state is saved.
    """
    config = config or ImagesConfig()
    data = load_together(lambda: load_data(config), config.training)
    codec = ImageCodec.of(data)
    return Run.trained(
        config, out, codec, data.train, data.validation, words=[data.report], say=say
    )


@final
class Run(FieldRun[ImagesConfig, ImageCodec]):
    """A model of images in a folder."""

    domain, unit, kind = "images", "image", ImagesConfig

    @staticmethod
    def codec_from(state: dict[str, Any]) -> ImageCodec:
        """The codec of images with that state."""
        return ImageCodec.from_state(state)

    @staticmethod
    def fields_of(config: ImagesConfig, codec: ImageCodec) -> Fields:
        """Shape, classes and what the model is shown."""
        return fields_of(config, codec)

    def asked(
        self,
        images: int,
        *,
        label: Labels | None = None,
        given: Picture | None = None,
        known: Picture | None = None,
        measured: Picture | None = None,
        task: Task | None = None,
        noise: float = 0.0,
        seed: int = 0,
    ) -> Request:
        """What to draw, see `sample`."""
        config = self.config.task
        wanted = asked_of(
            self.codec,
            config,
            label=label,
            given=given,
            known=known,
            measured=measured,
            task=task,
            noise=noise,
        )
        return self.request(images, **wanted, seed=seed)

    def images(self, x: Tensor, asked: Request) -> Images:
        """Drawn fields as images, with the classes that were asked for."""
        labels = asked.condition.get(LABEL)
        return Images.of_fields(x, None if labels is None else labels.expand(len(x)))

    def sample(
        self,
        images: int,
        *,
        label: Labels | None = None,
        given: Picture | None = None,
        known: Picture | None = None,
        measured: Picture | None = None,
        task: Task | None = None,
        noise: float = 0.0,
        seed: int = 0,
        progress: bool = True,
        watch: Watch | None = None,
        **settings: float | str | None,
    ) -> Images:
        """Draw images; nothing is rejected or corrected.

        Arguments:
            images: How many.
            label: Classes by name or number, one for all or one for each.
            given: Images that are known in part: a file, an array of bytes, `Images`, or numbers
                in [-1, 1]; one for all or one for each. Where a file is transparent it is not
                known.
            known: Which pixels of `given` are known, as a mask: a file, or an array of bool.
            measured: Images that are to be enlarged or coloured.
            task: What was measured, `super-resolution` or `colourisation`; that of the model by
                default.
            noise: Standard deviation of the noise in `measured`, where the model was not trained
                for the task.
            seed: Start of the random numbers.
            progress: Whether to show a bar.
            watch: Called with the steps done and the estimated fields of the first batch.
            settings: Fields of `SamplerConfig`: kind, steps, guidance, inverse, ...

        Raises:
            ValueError: If a number is out of range, or a picture does not fit the model.
        """
        run = self.drawing(**settings)
        asked = run.asked(
            images,
            label=label,
            given=given,
            known=known,
            measured=measured,
            task=task,
            noise=noise,
            seed=seed,
        )
        return run.images(run.fields(asked, progress=progress, watch=watch), asked)
