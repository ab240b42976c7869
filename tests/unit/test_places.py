"""Where a model is worth cutting, and where exits go if nobody says."""

import pytest
from torch import fx, nn

from branchynet.errors import InvalidInput
from branchynet.network.normalisation import Normalisation
from branchynet.surgery.attach import Cut, attach, legal_cuts
from branchynet.surgery.graphs import Carried
from branchynet.surgery.places import places_to_cut, proposed_places

SHAPE = (3, 32, 32)


NODE = fx.Graph().placeholder("x")


def cut(name, share, shape=(8, 4, 4), tensors=1):
    crossing = tuple(Carried(name, shape, (0, 1, 2, 3), NODE) for _ in range(tensors))
    return Cut(name, (), crossing, round(1000 * share), round(1000 * (1 - share)))


def names(cuts):
    return [one.name for one in cuts]


def test_of_neighbours_that_hand_on_the_same_the_outermost_is_listed():
    cuts = [cut("a.conv", 0.300), cut("a.bn", 0.301), cut("a", 0.302), cut("b.conv", 0.4), cut("b.act", 0.401)]
    assert names(places_to_cut(cuts)) == ["a", "b.act"]


def test_the_inside_of_a_block_is_left_out_where_more_crosses_there():
    cuts = [cut("a.wide", 0.30, (64, 4, 4)), cut("a", 0.33), cut("b.narrow", 0.5, (2, 4, 4)), cut("b", 0.52)]
    assert names(places_to_cut(cuts)) == ["a", "b.narrow", "b"]


def test_where_several_tensors_cross_is_listed_only_if_there_is_nothing_else():
    packed = [cut("a", 0.3, tensors=2), cut("b", 0.6, tensors=2)]
    assert names(places_to_cut([*packed, cut("c", 0.8)])) == ["c"]
    assert places_to_cut(packed) == packed


def test_exits_go_near_even_shares_where_the_fewest_bytes_cross():
    cuts = [
        *(cut("a", 0.04, (1, 1, 1)), cut("b", 0.25, (4, 4, 4)), cut("c", 0.35), cut("d", 0.45, (1, 4, 4))),
        *(cut("e", 0.6, (4, 4, 4)), cut("f", 0.7, (3, 4, 4)), cut("g", 0.95, (1, 1, 1))),
    ]
    assert names(proposed_places(cuts)) == ["d", "f"]
    assert names(proposed_places(cuts, 1)) == ["d"]
    assert names(proposed_places(cuts, 5)) == ["b", "c", "d", "e", "f"]


def test_far_from_an_even_share_the_nearest_is_taken():
    cuts = [cut("a", 0.06), cut("b", 0.1, (4, 4, 4)), cut("c", 0.12, (2, 4, 4))]
    assert names(proposed_places(cuts)) == ["b", "c"]


def test_there_are_no_more_exits_than_places():
    ends = [cut("a", 0.01), cut("c", 0.99)]
    assert names(proposed_places([ends[0], cut("b", 0.5), ends[1]])) == ["b"]
    with pytest.raises(InvalidInput, match="no place of the model has work on both sides"):
        proposed_places(ends)


def test_a_real_model_is_attached_where_it_is_proposed():
    layers = [
        nn.Sequential(nn.Conv2d(8 if index else 3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()) for index in range(6)
    ]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    cuts = legal_cuts(model, SHAPE)
    assert names(places_to_cut(cuts))[:6] == [str(n) for n in range(6)]
    proposed = names(proposed_places(cuts))
    assert proposed == ["1", "3"]
    network = attach(model, proposed, 4, input_shape=SHAPE, normalisation=Normalisation((0.5,) * 3, (0.5,) * 3))
    assert network.exits == 3
