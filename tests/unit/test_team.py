"""Processes that train together: shares, sums, errors; and they take the steps that one process would."""

import dataclasses
import json
import os
from pathlib import Path

import pytest
import torch
from network_examples import HELD_OUT, TINY, TRAINING

from branchynet.errors import InvalidInput, Unavailable
from branchynet.training.checkpoints import LOG
from branchynet.training.data_parallel import ALONE, Team, run_team
from branchynet.training.trainer import train


def test_shares_make_up_the_whole():
    for size in (1, 2, 3, 7):
        for count in (0, 1, 6, 7, 100):
            things = list(range(count))
            shares = [things[Team(rank, size).share(count)] for rank in range(size)]
            assert [thing for share in shares for thing in share] == things
            assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_one_process_alone_keeps_its_own():
    tensor = torch.tensor([1.0, 2.0])
    ALONE.average([tensor])
    assert tensor.tolist() == [1.0, 2.0]
    assert ALONE.total([3, 4]) == [3, 4]
    assert ALONE.leads
    assert not Team(1, 2).leads


def average_and_total(team, folder):
    """What each member writes down after an average and a total over all."""
    laid_out = torch.full((1, 2, 2, 2), float(team.rank)).contiguous(memory_format=torch.channels_last)
    counted = torch.arange(6.0).reshape(1, 2, 3, 1).contiguous(memory_format=torch.channels_last) * (team.rank + 1)
    team.average([laid_out, counted])
    seen = {
        "mean": laid_out.unique().tolist(),
        "counted": counted.flatten().tolist(),
        "total": team.total([team.rank, 10]),
        "threads": torch.get_num_threads(),
    }
    (folder / f"{team.rank}.json").write_text(json.dumps(seen))


def test_a_team_averages_tensors_and_adds_counts(tmp_path):
    run_team(3, 1, average_and_total, tmp_path)
    for rank in range(3):
        seen = json.loads((tmp_path / f"{rank}.json").read_text())
        assert seen == {
            "mean": [1.0],
            "counted": [2.0 * value for value in range(6)],
            "total": [3, 30],
            "threads": 1,
        }


def fail_in_the_second(team, kind):
    """The first member waits for the second, which fails."""
    if team.rank == 1:
        raise kind("no seven")
    team.average([torch.zeros(1)])


@pytest.mark.parametrize("kind", [InvalidInput, KeyError])
def test_the_error_of_a_member_is_raised_and_ends_the_others(kind):
    with pytest.raises(kind, match="no seven"):
        run_team(2, 1, fail_in_the_second, kind)


def die_in_the_second(team):
    """As a member that the system killed for its memory."""
    if team.rank == 1:
        os._exit(9)
    team.average([torch.zeros(1)])


def test_a_member_that_dies_ends_the_others():
    with pytest.raises(Unavailable, match="without a word"):
        run_team(2, 1, die_in_the_second)


def test_a_team_has_two_members_at_least():
    with pytest.raises(InvalidInput, match="size is 1"):
        run_team(1, None, die_in_the_second)


# Without augmentation that differs and without dropout, a team is one process that takes the whole batch.
STILL = dataclasses.replace(TINY, optimiser="sgd", averaging=0.5)


def train_together(team, folder):
    """Train, and say how far this member was told."""
    steps = []
    train(STILL, TRAINING, HELD_OUT, folder, steps.append, team=team)
    (folder / f"{team.rank}.told").write_text(str(len(steps)))


def test_a_team_takes_the_steps_of_one_process(tmp_path):
    size = 3  # of a batch of 8 its members have unequal shares
    together = tmp_path / "together"
    together.mkdir()
    run_team(size, 1, train_together, together)
    assert [(together / f"{rank}.told").read_text() for rank in range(size)] == ["24"] + ["0"] * (size - 1)
    told = []
    trained = train(STILL, TRAINING, HELD_OUT, together, told.append)  # from the finished checkpoints
    assert not told
    alone = train(STILL, TRAINING, HELD_OUT, tmp_path / "alone")
    ours, theirs = trained.network.state_dict(), alone.network.state_dict()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=2e-3, atol=2e-4)
    assert len(read_log(together)) == len(read_log(tmp_path / "alone")) == 6


def read_log(folder: Path):
    """The records of a run's log."""
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


def test_a_batch_smaller_than_the_team_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match="a batch of 1 cannot be shared by 2 workers"):
        train(dataclasses.replace(TINY, batch_size=1), TRAINING, HELD_OUT, tmp_path, team=Team(0, 2))
