"""What the architectures cost, against sums made by hand."""

from __future__ import annotations

import pytest
import torch

from avff.trainer.model.size import describe, gflop, size_table
from tests.trainer.model.networks import ALL, BASELINES, small_streaming_net


def test_operations_are_two_per_multiply_add() -> None:
    """A product of matrices is counted as by hand."""
    a, b = torch.zeros(3, 5), torch.zeros(5, 7)
    assert gflop(lambda: a @ b) == pytest.approx(2 * 3 * 5 * 7 / 1e9)


def test_a_hop_costs_an_eighth_of_the_encoders_and_the_fusion() -> None:
    """Seven slices of eight come from before."""
    net = small_streaming_net("late-fusion")
    size = describe(net)
    x = torch.zeros(1, 8, 3, 128, 128)
    encoders = gflop(lambda: net.video(x)) + gflop(lambda: net.audio(torch.zeros(1, 2, 80, 32)))
    encoders += gflop(lambda: net.landmarks(torch.zeros(1, 8, 184)))
    assert size.gflop_per_window - size.gflop_per_hop == pytest.approx(7 * encoders)
    assert size.parameters == sum(p.numel() for p in net.parameters())


def test_measuring_leaves_a_network_as_it_is() -> None:
    """Statistics of the norms do not move, and what is in training stays so, what is not stays not."""
    net = small_streaming_net("audio-only").train()
    net.audio.eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    describe(net)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert (net.training, net.fusion.training, net.audio.training) == (True, True, False)


def test_table_names_every_architecture_with_its_size() -> None:
    """Baselines cost less than avff-s; avff-b is the paper's size: some 190 M parameters, 430 GFLOP."""
    rows = [[c.strip(" `") for c in line.strip("|").split("|")] for line in size_table().splitlines()]
    assert [len(row) for row in rows] == [5] * (2 + len(ALL))
    by_name = {row[0]: row[1:] for row in rows[2:]}
    assert tuple(by_name) == ALL
    millions = {name: float(row[0].removesuffix(" M")) for name, row in by_name.items()}
    hop, window = ({name: float(row[k]) for name, row in by_name.items()} for k in (1, 2))
    assert millions["avff-b"] == pytest.approx(190, rel=0.02)
    assert hop["avff-b"] == window["avff-b"] == pytest.approx(430, rel=0.06)
    for name in BASELINES:
        assert millions[name] < millions["avff-s"]
        assert hop[name] < hop["avff-s"] < window["avff-s"]
    assert {name: row[3] for name, row in by_name.items() if row[3] != "yes"} == {"avff-b": "no"}
