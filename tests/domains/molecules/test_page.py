"""Pages hold what they were given, escaped, with their pictures inside."""

import base64
import hashlib
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from structdiff.artifacts import RunFolder
from structdiff.domains.molecules import (
    MoleculesConfig,
    Run,
    embedded,
    evaluate_run,
    write,
    write_card,
)
from structdiff.domains.molecules.chemistry import judge
from structdiff.domains.molecules.codec import MoleculeCodec
from structdiff.domains.molecules.recipe import build
from structdiff.domains.molecules.reports.charts import PICTURES, histograms
from structdiff.domains.molecules.reports.chemistry import pictures as chemical_pictures
from structdiff.reports.charts import curves
from structdiff.reports.page import (
    Heading,
    Picture,
    Table,
    Words,
    html_page,
    markdown_page,
)

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJ"
    "RU5ErkJggg=="
)


class Reader(HTMLParser):
    """Checks that tags are closed, and keeps text and what is referred to."""

    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.links, self.tags = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data)


def blocks(tmp_path):
    (tmp_path / "one.png").write_bytes(PNG)
    return [
        Heading("a < b & c"),
        Words('<script>alert("no")</script>'),
        Table(("x", "C|C"), [("1", "[Na+]<&>"), ("2", "line\nbreak")]),
        Picture(tmp_path / "one.png", 'a "picture"'),
    ]


def test_html_escapes_text_and_holds_its_pictures(tmp_path):
    page = html_page("title <1>", blocks(tmp_path))
    reader = Reader(page)
    text = "".join(reader.text)
    for word in ("title <1>", "a < b & c", '<script>alert("no")</script>', "[Na+]<&>"):
        assert word in text
    assert "script" not in reader.tags
    (link,) = reader.links
    assert base64.b64decode(link.removeprefix("data:image/png;base64,")) == PNG
    assert "http" not in page
    assert reader.tags.count("tr") == 3


def test_markdown_tables_survive_bars_and_line_breaks(tmp_path):
    text = markdown_page("title", blocks(tmp_path))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(row) for row in rows}) == 1
    assert "| x | C\\|C" in rows[0]
    assert "line break" in rows[3]
    assert '![a "picture"](one.png)' in text


def test_missing_pictures_are_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        html_page("title", [Picture(tmp_path / "none.png", "")])


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


def test_curves_need_something_to_draw(tmp_path):
    path = tmp_path / "training.png"
    assert not curves([], path)
    assert not path.exists()
    lines = [{"step": k, "steps_per_second": 9.0, "position": 1 / k} for k in (1, 2, 3)]
    assert curves(lines, path)
    single = pixels(path).shape
    bounds = [{"step": k, "bound": 5.0 - k, "bound_position": 3.0 - k} for k in (1, 2)]
    assert curves(lines + bounds, path)
    assert pixels(path).shape[1] == 2 * single[1]


def test_histograms_show_what_is_there(tmp_path):
    """All drawn molecules of one size: the picture differs from that of the data alone."""
    data, path = embedded().select(range(50)), tmp_path / "h.png"
    histograms(data, data, path)
    same = pixels(path)
    histograms(data.select(data.count == data.count[0]), data, path)
    assert (pixels(path) != same).any()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """An untrained model of a small file, as if it had been trained."""
    folder = tmp_path_factory.mktemp("run <1>")
    molecules = embedded().select(range(40))
    path = folder / "data.sdf"
    write(path, molecules, judge(molecules))
    config = MoleculesConfig.model_validate(
        {
            "data": {"path": str(path)},
            "network": {"layers": 1, "width": 8, "hidden": 8, "basis": 4},
            "sampler": {"steps": 5},
        }
    )
    codec = MoleculeCodec.fit(
        molecules.with_properties({"mu": molecules.properties["mu"]}), ["mu"]
    )
    run_folder = RunFolder(folder)
    run_folder.log(step=10, steps_per_second=7.5, position=1.0, element=0.5)
    run_folder.log(step=10, bound=12.5, bound_position=10.0, bound_element=2.5)
    torch.manual_seed(0)
    return Run(run_folder, config, codec, build(config, codec).eval())


def test_an_evaluation_is_one_page(run):
    result = evaluate_run(run, 6, condition={"mu": 2.0}, guidance=1.5, say=lambda _: None)
    folder = run.folder.samples
    assert folder / "evaluation.html" in result.files
    reader = Reader((folder / "evaluation.html").read_text())
    text = " ".join(reader.text)
    for word in (
        f"Evaluation of {run.folder.path.name}",
        "mu = 2.0",
        "1.5",
        "temperature",
        "95 %",
    ):
        assert word in text, word
    pictures = [base64.b64decode(link.split(",")[1]) for link in reader.links]
    assert len(pictures) == 4
    assert all(
        (folder / f"{name}.png").read_bytes() in pictures for name in ("molecules", "training")
    )
    rows = result.reports["model"].rows
    assert all(row.text() in text for row in rows)
    assert all(row.protocol in text for row in rows)
    markdown = (folder / "evaluation.md").read_text()
    assert result.table() in markdown
    numbers = json.loads((folder / "evaluation.json").read_text())
    assert numbers["settings"]["guidance"] == "1.5"
    assert numbers["model"]["drawn"] == 6
    wrong = [v for v in result.samples.verdicts if v.reasons]
    assert sum(numbers["reasons"].values()) == len(wrong) > 0
    assert next(iter(numbers["reasons"])) in text


def test_chemistry_is_a_section_of_the_page(run):
    result = evaluate_run(run, 4, chemistry=True, say=lambda _: None)
    folder = run.folder.samples
    text = " ".join(Reader((folder / "evaluation.html").read_text()).text)
    for row in result.chemistry.reports["as many real ones"].rows:
        assert row.text() in text and row.name in text
    assert result.chemistry.table() in (folder / "evaluation.md").read_text()
    assert result.chemistry.table() in result.measures()
    numbers = json.loads((folder / "evaluation.json").read_text())["chemistry"]
    real = result.chemistry.reports["as many real ones"]["bond lengths"]
    assert numbers["as many real ones"]["metrics"]["bond lengths"]["value"] == real.value
    pictures = [folder / f"{name}.png" for name in PICTURES]
    assert all(path in result.files and path.exists() for path in pictures)
    assert chemical_pictures(folder, None) == []
    assert not any(path.exists() for path in pictures)


def test_the_card_says_what_is_known_and_no_more(run):
    write_card(run)
    card = (run.folder.path / "README.md").read_text()
    total = sum(p.numel() for p in run.denoiser.parameters())
    low, high = run.codec.conditions[0].low[0], run.codec.conditions[0].high[0]
    for words in (
        f"{total:,} parameters",
        f"mu ({low:.4g} to {high:.4g})",
        "12.5 nats per molecule after update 10",
        "7.5 updates a second",
        "to be filled in",
        "Not measured yet",
        "40, of",
    ):
        assert words in card, words
    assert "SHA-256: " in card
    digest = card.split("SHA-256: ")[1].split("\n")[0]
    assert digest == hashlib.sha256(Path(run.config.data.path).read_bytes()).hexdigest()
    bare = Run(RunFolder(run.folder.path / "bare"), MoleculesConfig(), run.codec, run.denoiser)
    bare.folder.path.mkdir()
    write_card(bare, "| a table |")
    card = (bare.folder.path / "README.md").read_text()
    assert "| a table |" in card
    assert "bound:" not in card
    assert "2,000 molecules of QM9 that come with structdiff" in card


def test_the_card_of_the_pretrained_model_does_not_claim_the_embedded_data(tmp_path):
    loaded = Run.pretrained()
    copy = Run(RunFolder(tmp_path), loaded.config, loaded.codec, loaded.denoiser)
    write_card(copy)
    assert "not named by the config" in (tmp_path / "README.md").read_text()
    assert "99,474" in (tmp_path / "README.md").read_text()
    assert (
        "bonds: kekulized; absorbing chain, noised while" in (tmp_path / "README.md").read_text()
    )
