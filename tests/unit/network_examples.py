"""Random networks, batches and rules that the unit tests share."""

import functools

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st

from branchynet.artifact.artifact import Artifact
from branchynet.data.datasets import Dataset
from branchynet.exits.gates import Gate, number_of_features
from branchynet.exits.outcomes import OutcomeTable
from branchynet.exits.rules import LOGIT_CRITERIA, Criterion, ExitRule
from branchynet.models.architectures import ARCHITECTURES, Architecture, build, variants
from branchynet.network.normalisation import Normalisation
from branchynet.network.runner import Engine
from branchynet.training.recipes import Recipe

LENET = Architecture("b-lenet")
EVERY = [Architecture(name, variant) for name in ARCHITECTURES for variant in variants(name) if variant != "plain"]
PLAIN = [Architecture(name, "plain") for name in ARCHITECTURES if "plain" in variants(name)]
LIGHT = [architecture for architecture in EVERY if architecture.name != "b-resnet-110"]

# A loaded machine must not fail a test; the number of examples bounds the time instead.
few = settings(deadline=None, max_examples=4)
some = settings(deadline=None, max_examples=15)
many = settings(deadline=None, max_examples=60)


def title(value):
    """The id of a test that is given an architecture; pytest makes up its own for other values."""
    return f"{value.name}-{value.variant}" if isinstance(value, Architecture) else None


def seeded(seed=0):
    return np.random.default_rng(seed)


def normalisation_for(architecture):
    channels = architecture.input_shape[0]
    return Normalisation((0.45, 0.5, 0.55)[:channels], (0.2, 0.25, 0.3)[:channels])


@functools.cache
def random_network(architecture=LENET, seed=7):
    """Fresh weights. Batch normalisation gets the statistics of random images: with none, 54 blocks explode."""
    torch.manual_seed(seed)
    network = build(architecture, normalisation_for(architecture))
    norms = [layer for layer in network.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    if norms:
        for layer in norms:
            layer.momentum = 1.0
        with torch.no_grad():
            network.train()(network.normalisation(torch.from_numpy(pictures(architecture, 8))))
    return network.eval()


def pictures(architecture, count, seed=0):
    """uint8 [count, C, H, W]: noise of another contrast and brightness in each image."""
    generator = seeded(seed)
    contrast, brightness = generator.uniform(0, 120, (count, 1, 1, 1)), generator.uniform(0, 255, (count, 1, 1, 1))
    noise = generator.normal(size=(count, *architecture.input_shape))
    return (brightness + contrast * noise).clip(0, 255).astype(np.uint8)


def batches(architecture, largest):
    return st.builds(functools.partial(pictures, architecture), st.integers(1, largest), st.integers(0, 2**32))


def exit_logits(network, images):
    """float32 [E, B, C]: every exit's logits on all *images*, without any exit taken."""
    with torch.inference_mode():
        return torch.stack(network(network.normalisation(torch.from_numpy(images)))).numpy()


@st.composite
def rules(draw, network, images):
    """Thresholds among this very batch's scores: between two, exactly on one, or past all of them."""
    criterion = draw(st.sampled_from(LOGIT_CRITERIA))
    logits = exit_logits(network, images)
    thresholds = []
    for scored in logits[:-1]:
        scores = np.sort(criterion.score(scored))
        between = (scores[1:] + scores[:-1]) / 2
        thresholds.append(draw(st.sampled_from([*between, *scores, criterion.never, criterion.always])))
    return ExitRule(criterion, tuple(thresholds))


def gates(exits, classes, seed=0):
    """Random gates for all exits but the last."""
    weights = seeded(seed).normal(0, 0.5, (exits - 1, number_of_features(classes)))
    return tuple(Gate(tuple(row), 0.1) for row in weights)


@st.composite
def scorings(draw, exits, classes):
    """Any rule at which nobody leaves: every criterion, with and without temperatures."""
    criterion = draw(st.sampled_from(Criterion))
    temperatures = draw(st.sampled_from([(), tuple(0.5 + 0.75 * number for number in range(exits))]))
    drawn = gates(exits, classes, draw(st.integers(0, 99))) if criterion is Criterion.GATE else ()
    return ExitRule(criterion, (criterion.never,) * (exits - 1), temperatures, drawn)


@st.composite
def scored_rules(draw, network, images):
    """Any rule that there can be, its thresholds among this very batch's scores or past all of them."""
    rule = draw(scorings(network.exits, network.classes))
    logits = exit_logits(network, images)
    table = OutcomeTable(logits, np.zeros(len(images), np.int64), np.ones(network.exits))
    never, always = rule.criterion.never, rule.criterion.always
    return rule.with_thresholds(
        tuple(draw(st.sampled_from([*scores.tolist(), never, always])) for scores in table.scores(rule)[:-1])
    )


def mixing_rule(network, images, criterion=Criterion.ENTROPY):
    """A rule under which an equal share of *images* leaves at every exit; at least as many images as exits."""
    logits = exit_logits(network, images)
    inside, thresholds = np.arange(len(images)), []
    for number, scored in enumerate(logits[:-1]):
        scores = criterion.score(scored[inside])
        eager = np.argsort(scores if criterion is Criterion.ENTROPY else -scores)
        leaving = len(inside) // (len(logits) - number)
        thresholds.append(float(scores[eager[leaving - 1 : leaving + 1]].mean()))
        inside = inside[eager[leaving:]]
    return ExitRule(criterion, tuple(thresholds))


def save_artifact(folder, network, architecture=LENET, rule=None, *, plain_trunk=None, **options):
    """*network* as an artifact in *folder*; the plain trunk is that of the network *plain_trunk* or else its own."""
    final = f"stages.{network.total_stages - 1}.head."
    weights = (plain_trunk or network).state_dict()
    created = Artifact.create(
        folder,
        network,
        {name: weights[name] for name in weights if ".trunk." in name or name.startswith(final)},
        name="example",
        architecture=architecture,
        labels=tuple(f"class {number}" for number in range(network.classes)),
        dataset="mnist",
        **options,
    )
    created = created.with_rule(rule or ExitRule.never(network.exits), {"test": {"accuracy": 0.5}})
    return created.with_fields(training={"recipe": {"calibration_images": 8, "seed": 0}}).save()


def opened(folder, first=0, last=None, engine=Engine.EAGER):
    """The artifact in *folder* and its stages [*first*, *last*) on *engine*: what a node is made of."""
    artifact = Artifact.open(folder)
    return artifact, artifact.runner(first, last, engine)


def quadrants(per_class, classes=4, seed=0, split="train"):
    """A data set that is easy to learn: the class is the bright quadrant of a noisy 28×28 image."""
    generator = seeded(seed)
    labels = np.tile(np.arange(classes), per_class)
    images = generator.integers(0, 80, (len(labels), 1, 28, 28))
    for image, label in zip(images, labels, strict=True):
        row, column = divmod(int(label), 2)
        image[0, 14 * row : 14 * row + 14, 14 * column : 14 * column + 14] += 120
    names = tuple("abcd"[:classes])
    return Dataset("quadrants", images.astype(np.uint8), labels.astype(np.int64), names, split, "made by a test")


# A training of 3 x 2 epochs of three steps each.
TINY = Recipe(
    Architecture("b-lenet", classes=4),
    "mnist",
    trunk_epochs=2,
    joint_epochs=2,
    batch_size=8,
    exit_weights=(1.0, 1.0),
    learning_rate=3e-3,
    augmentation="affine",
    calibration_images=4,
)
TRAINING, HELD_OUT = quadrants(6), quadrants(10, seed=99)
