"""A run is a folder.

`config.json` (with a schema version), `data.json` (which data it was begun with),
`state.safetensors` (everything that resuming needs, the
truth), `model.safetensors` and `ema.safetensors` (the weights for use), `codec.json`,
`metrics.jsonl`, `samples/`, pictures and a model card.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from structdiff.artifacts.store import read_json, remove_temporary, write_atomic, write_json

__all__ = ["SCHEMA", "RunFolder", "differences"]

SCHEMA = 1
"""Version of what a run folder holds."""


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Where two nested configs differ, as `field: old -> new`."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        names = sorted(old.keys() | new.keys())
        return [
            line
            for name in names
            for line in differences(
                old.get(name), new.get(name), f"{path}.{name}" if path else name
            )
        ]
    return [] if old == new else [f"{path}: {old!r} -> {new!r}"]


class RunFolder:
    """Paths of a run, and its small files.

    Arguments:
        path: The folder.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.config = self.path / "config.json"
        self.codec = self.path / "codec.json"
        self.data = self.path / "data.json"
        self.state = self.path / "state.safetensors"
        self.model = self.path / "model.safetensors"
        self.ema = self.path / "ema.safetensors"
        self.metrics = self.path / "metrics.jsonl"
        self.samples = self.path / "samples"

    def open(self, domain: str, config: Mapping[str, Any]) -> None:
        """Create the folder, or go on in one that has the same config.

        Raises:
            ValueError: If the folder holds another config; it says what differs.
            OSError: If the folder cannot be made or written.
        """
        small = (self.config, self.codec, self.data, self.metrics)
        for path in (*small, self.state, self.model, self.ema):
            remove_temporary(path)
        if self.config.exists():
            changed = differences(self.read_config(domain), dict(config))
            if changed:
                listed = "\n  ".join(changed)
                msg = (
                    f"{self.path} was trained with another config:\n  {listed}\n"
                    "Use the same settings to go on, or another --out"
                )
                raise ValueError(msg)
            return
        if self.path.exists() and any(self.path.iterdir()):
            msg = f"{self.path} is not empty and has no config.json: choose another --out"
            raise ValueError(msg)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            msg = f"cannot create {self.path}: {error.strerror}. Choose another --out"
            raise OSError(error.errno, msg) from None
        write_json(self.config, {"schema": SCHEMA, "domain": domain, "config": dict(config)})

    def begin(self, data: Mapping[str, Any], codec: Mapping[str, Any]) -> None:
        """Keep what the run begins with, or check that it goes on with the same.

        Arguments:
            data: What tells the training data from others: a digest, a number of samples.
            codec: State of the codec fitted to them.

        Raises:
            ValueError: If the run was begun with other data.
        """
        if self.data.exists():
            changed = differences(read_json(self.data), dict(data))
            if changed:
                listed = "; ".join(changed)
                msg = (
                    f"the data have changed since {self.path} was begun ({listed}): restore them, "
                    "or choose another --out"
                )
                raise ValueError(msg)
            return
        write_json(self.codec, dict(codec))
        write_json(self.data, dict(data))

    def read_config(self, domain: str | None = None) -> dict[str, Any]:
        """The config.

        Raises:
            FileNotFoundError: If this is not the folder of a run.
            ValueError: If it is a file, of another domain or written by a newer version.
        """
        if self.path.is_file():
            msg = f"{self.path} is a file, no run's folder: give the --out of structdiff train"
            raise ValueError(msg)
        content = read_json(self.config)
        if not isinstance(content, dict) or not {"schema", "domain", "config"} <= content.keys():
            msg = f"{self.config} has no schema, domain and config: it is not a run's"
            raise ValueError(msg)
        if not isinstance(content["schema"], int) or content["schema"] > SCHEMA:
            msg = (
                f"{self.config} has schema {content['schema']}, this version reads up to "
                f"{SCHEMA}: upgrade structdiff"
            )
            raise ValueError(msg)
        if domain is not None and content["domain"] != domain:
            msg = f"{self.path} is a run of the domain {content['domain']!r}, not {domain!r}"
            raise ValueError(msg)
        config: dict[str, Any] = content["config"]
        if not isinstance(config, dict) or not all(isinstance(x, dict) for x in config.values()):
            msg = f"{self.config} has a config that is not groups of settings: it is not a run's"
            raise ValueError(msg)
        return config

    @property
    def domain(self) -> str:
        """The domain that the run belongs to."""
        self.read_config()
        return str(read_json(self.config)["domain"])

    def keep_metrics(self, step: int) -> None:
        """Drop lines of steps after `step`, which a resumed run will write again."""
        if not self.metrics.exists():
            return
        kept = [line for line in self.read_metrics() if line.get("step", 0) <= step]
        content = "".join(json.dumps(x) + "\n" for x in kept).encode()
        if content != self.metrics.read_bytes():
            write_atomic(self.metrics, content)

    def read_metrics(self) -> list[dict[str, Any]]:
        """All whole lines of `metrics.jsonl`; a line cut by a kill is left out."""
        if not self.metrics.exists():
            return []
        lines = []
        for line in self.metrics.read_text().splitlines():
            try:
                lines.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return lines

    def log(self, **values: float | str) -> None:
        """Append a line to `metrics.jsonl`."""
        with self.metrics.open("a") as file:
            file.write(json.dumps(values) + "\n")
