"""The paper's Figures 3 and 4: files that hold a picture, and where the knee is."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from branchynet.artifact.artifact import Artifact
from branchynet.data.datasets import load_sample
from branchynet.evaluation.compare import comparison_figures, measure_timings
from branchynet.evaluation.evaluation import score
from branchynet.evaluation.paper import TABLE_I
from branchynet.network.runner import Engine
from cli.plots.evaluation import draw_evaluation, knee


@pytest.fixture(scope="module")
def drawn():
    """A shipped artifact on 200 images, and its figures with a baseline put in by hand."""
    sample = load_sample().take(range(200))
    evaluated = score(Artifact.open("lenet-fashion"), sample)
    rules = {"early_exit": evaluated.artifact.manifest.rule}
    timings = measure_timings(evaluated, rules, [], sample.images[:2], 1, [Engine.EAGER], by_exit=True)
    figures = {
        "artifact": "lenet-fashion",
        "images": 200,
        "dataset": "fashion-mnist",
        **comparison_figures(evaluated, [], timings),
    }
    figures["baselines"] = {"static": {"artifact": "small", "accuracy": 0.8, "ms": 0.1, "macs": 5e4, "engine": "eager"}}
    return evaluated, figures


def test_a_png_is_a_picture_with_something_on_it(drawn, tmp_path):
    evaluated, figures = drawn
    draw_evaluation(evaluated, figures, tmp_path / "new" / "figures.png")
    with Image.open(tmp_path / "new" / "figures.png") as picture:
        assert picture.width > 3 * picture.height > 1000
        assert len(picture.convert("RGB").getcolors(1_000_000)) > 50


def test_an_svg_names_everything_and_the_same_figures_make_the_same_file(drawn, tmp_path):
    evaluated, figures = drawn
    named = dataclasses.replace(
        evaluated,
        artifact=Artifact(
            evaluated.artifact.folder, dataclasses.replace(evaluated.artifact.manifest, name=TABLE_I[0].artifact)
        ),
    )
    texts = []
    for name in ("one.svg", "two.svg"):
        draw_evaluation(named, figures, tmp_path / name)
        texts.append((tmp_path / name).read_text())
    assert texts[0] == texts[1]
    for words in ("calibrated T", "plain trunk", "static: small", "paper: early exit", "knee", "exit 0: T = 0.702"):
        assert f"<!-- {words}" in texts[0]


@pytest.mark.parametrize(
    ("scores", "position"),
    [
        (np.concatenate([np.zeros(80), np.linspace(0, 1, 20)]), 79),
        (np.linspace(0, 1, 50) ** 8, 36),
        (np.ones(5), 4),
    ],
)
def test_the_knee_is_where_the_curve_turns_up(scores, position):
    assert knee(scores) == pytest.approx(position, abs=1)
