"""A codec in a file: what was saved comes back, what is damaged or strange is named."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor

from structdiff.artifacts import save_tensors
from structdiff.codecs.autoencoder import Autoencoder
from structdiff.codecs.chain import Chain
from structdiff.codecs.flows import Couplings
from structdiff.codecs.kinds import KINDS, described, make_codec
from structdiff.codecs.latent import LatentCodec
from structdiff.codecs.quantiser import VectorQuantiser
from structdiff.codecs.residual_quantiser import ResidualQuantiser
from structdiff.codecs.standardise import Identity, Standardise
from structdiff.codecs.stored import codec_checksum, load_codec, save_codec


class Doubled(LatentCodec):
    """A codec of one's own."""

    def __init__(self, event: list[int]) -> None:
        super().__init__()
        self.event = self.latent = tuple(event)
        self.classes = 0

    def fit(self, x: Tensor) -> None:
        del x

    def encode(self, x: Tensor) -> Tensor:
        return 2 * x

    def decode(self, z: Tensor) -> Tensor:
        return z / 2

    def log_det(self, x: Tensor) -> Tensor | None:
        del x

    def settings(self) -> dict[str, object]:
        return {"event": list(self.event)}


@pytest.fixture
def path(tmp_path) -> Path:
    codec = Standardise((3,), axes=(0,))
    codec.fit(torch.randn(10, 3, generator=torch.Generator().manual_seed(0)))
    save_codec(tmp_path / "codec.safetensors", codec)
    return tmp_path / "codec.safetensors"


def rewrite(
    path: Path, metadata: dict[str, str], tensors: dict[str, Tensor] | None = None
) -> None:
    state = Standardise((3,), axes=(0,)).state_dict() if tensors is None else tensors
    save_tensors(path, state, metadata)


def words(kind: str = "Standardise", schema: str = "1", **settings: object) -> dict[str, str]:
    codec = {"kind": kind, "settings": settings}
    return {"schema": schema, "codec": json.dumps(codec)}


def test_every_kind_names_a_class() -> None:
    """Those whose module is there; each is a codec of that name."""
    from importlib import import_module

    for name, module in KINDS.items():
        assert issubclass(getattr(import_module(module), name), LatentCodec)


def test_chains_of_chains_come_back(tmp_path) -> None:
    torch.manual_seed(0)
    flow = Couplings((4,), layers=2, width=8)
    for weight in flow.parameters():
        weight.data += 0.1 * torch.randn_like(weight)
    codec = Chain([Chain([Identity((4,)), Standardise((4,))]), flow])
    x = torch.randn(9, 4)
    codec.fit(x)
    save_codec(tmp_path / "codec.safetensors", codec)
    loaded = load_codec(tmp_path / "codec.safetensors")
    assert torch.equal(loaded.encode(x), codec.encode(x))
    assert not loaded.training


def test_the_checksum_knows_weights_settings_and_kinds() -> None:
    plain, other = Standardise((3,)), Standardise((3,))
    other.fit(torch.tensor([[0.0, 1.0, 2.0]]))
    sums = {
        codec_checksum(codec)
        for codec in (plain, other, Standardise((3,), axes=(0,)), Identity((3,)), Identity((4,)))
    }
    assert len(sums) == 5
    assert codec_checksum(plain) == codec_checksum(Standardise((3,)))


def test_a_codec_of_ones_own_is_named_when_it_is_read(tmp_path) -> None:
    file = tmp_path / "codec.safetensors"
    save_codec(file, Chain([Identity((2,)), Doubled([2])]))
    loaded = load_codec(file, others={"Doubled": Doubled})
    assert loaded.encode(torch.ones(1, 2)).tolist() == [[2, 2]]
    with pytest.raises(ValueError, match="kind 'Doubled' is not known; known are .*Wavelet"):
        load_codec(file)


def test_the_precision_is_kept(tmp_path) -> None:
    codec = Couplings((4,), layers=1, width=4).to(torch.bfloat16)
    save_codec(tmp_path / "codec.safetensors", codec)
    loaded = load_codec(tmp_path / "codec.safetensors")
    assert {x.dtype for x in loaded.state_dict().values()} == {torch.bfloat16}
    assert codec_checksum(loaded) == codec_checksum(codec)


@pytest.mark.parametrize("kept", [0, 7, 60, -1])
def test_a_truncated_file_is_refused(path, kept) -> None:
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"codec\.safetensors is truncated or not a safetensors"):
        load_codec(path)


def test_a_changed_number_is_found(path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="was changed after its writing"):
        load_codec(path)


def test_nothing_is_unpickled(path) -> None:
    path.write_bytes(pickle.dumps({"codec": 1}))
    with pytest.raises(ValueError, match="not a safetensors file"):
        load_codec(path)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "has no schema and no codec in its metadata, so it is not the file of a codec"),
        (words(event=[3], axes=[0], schema="2"), "schema 2, this version reads up to 1: upgrade"),
        (words(event=[3], axes=[0], schema="x"), "schema x, this version reads up to 1"),
        ({"schema": "1", "codec": "{"}, "how it is made is no JSON"),
        ({"schema": "1", "codec": "[1]"}, r"described by kind and settings, got \[1\]"),
        (words(kind="Zip", event=[3]), "kind 'Zip' is not known"),
        (words(kind="os.system", event=[3]), "kind 'os.system' is not known"),
        (words(event=[3], speed=2), "'Standardise' cannot be made of its settings: .*speed"),
        (words(event=[-3]), "cannot be made of its settings: sizes of event must be positive"),
        (words(event=3), "cannot be made of its settings"),
    ],
)
def test_what_does_not_describe_a_codec_is_named(path, metadata, message) -> None:
    rewrite(path, metadata)
    with pytest.raises(ValueError, match=rf"codec\.safetensors cannot be read: .*{message}"):
        load_codec(path)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"centre": torch.zeros(3)}, "Missing key"),
        ({"centre": torch.zeros(2), "scale": torch.ones(2)}, "size mismatch for centre"),
    ],
)
def test_weights_that_do_not_fit_are_named(path, tensors, message) -> None:
    rewrite(path, words(event=[3], axes=[0]), tensors)
    with pytest.raises(ValueError, match=f"weights that do not fit its settings: .*{message}"):
        load_codec(path)


def test_no_file_is_no_codec(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere.safetensors does not exist"):
        load_codec(tmp_path / "nowhere.safetensors")


def test_a_new_codec_of_a_description_is_not_fitted() -> None:
    codec = Standardise((2,))
    codec.fit(torch.tensor([[5.0, 9.0]]))
    again = make_codec(described(codec))
    assert again.encode(torch.ones(1, 2)).tolist() == [[1, 1]]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Autoencoder((1, 8, 8), widths=(8, 8)),
        lambda: VectorQuantiser((1, 8, 8), classes=16, width=4, widths=(8, 8)),
        lambda: ResidualQuantiser((1, 16), classes=16, width=4, widths=(8, 8)),
    ],
)
def test_learned_codecs_come_back_after_their_fit(tmp_path, make) -> None:
    torch.manual_seed(0)
    codec = make().eval()
    x = torch.randn(12, *codec.event)
    codec.fit(x)
    save_codec(tmp_path / "codec.safetensors", codec)
    torch.manual_seed(1)
    loaded = load_codec(tmp_path / "codec.safetensors")
    z = loaded.encode(x)
    assert torch.equal(z, codec.encode(x))
    assert torch.equal(loaded.decode(z), codec.decode(z))
    assert (loaded.classes, loaded.latent) == (codec.classes, codec.latent)
    assert (z.shape[1:], z.dtype == torch.int64) == (loaded.latent, loaded.classes > 0)
