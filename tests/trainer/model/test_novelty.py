"""How far a window is from what the network was trained on: about 1 near, large far away."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from avff.engine.spec import SPEC
from avff.trainer.model.novelty import Novelty

T, WIDTH = SPEC.window_frames, 6
CENTRES = torch.tensor([[3.0], [-2.0]]).expand(2, WIDTH)
"""Where the tokens of picture and sound lie."""


def mixing(place: int) -> Tensor:
    """How they spread: by 1 along some axes, by 0.01 along others, and not along the coordinates."""
    make = torch.Generator().manual_seed(place)
    turn, _ = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=make))
    made: Tensor = torch.tensor([1.0, 1.0, 0.5, 0.5, 0.1, 0.01]).diag() @ turn
    return made


def means(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Mean tokens of windows, ``[count, WIDTH]`` of picture and sound."""
    make = torch.Generator().manual_seed(seed)
    video, audio = (CENTRES[k] + torch.randn(count, WIDTH, generator=make) @ mixing(k) for k in range(2))
    return video, audio


def windows(video: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens ``[n, 64, WIDTH]`` that have these means, and are far from them one by one."""
    noise = torch.randn(T, WIDTH, generator=torch.Generator().manual_seed(9))
    noise -= noise.mean(dim=0)
    return video[:, None] + noise, audio[:, None] - noise


@pytest.fixture
def fitted() -> Novelty:
    made = Novelty(WIDTH)
    made.fit(*means(500))
    return made


def measured(novelty: Novelty, video: Tensor, audio: Tensor) -> Tensor:
    """Novelty of windows with these mean tokens and all evidence there, ``[n, 2]``."""
    there = torch.ones(len(video), T)
    made: Tensor = novelty(*windows(video, audio), there, there)
    return made


@pytest.mark.parametrize("seed", [0, 1], ids=["the same windows", "other windows"])
def test_it_is_about_one_for_windows_like_those_it_was_fitted_to(seed: int) -> None:
    """On average, where every direction is used: whatever the scale of the tokens and their place."""
    each = [1e-2 * torch.randn(2, 2000, WIDTH, generator=torch.Generator().manual_seed(k)) for k in (0, 1)]
    made = Novelty(WIDTH)
    made.fit(each[0][0] + 5, each[0][1] - 5)
    found = measured(made, each[seed][0] + 5, each[seed][1] - 5).mean(dim=0)
    assert found.tolist() == pytest.approx([1.0, 1.0], abs=0.03)


def test_directions_that_are_hardly_used_make_it_less(fitted: Novelty) -> None:
    """By hand: each axis adds its variance over 0.9 of it and 0.1 of the mean variance, a sixth each."""
    variances = np.array([1.0, 1.0, 0.25, 0.25, 0.01, 0.0001])
    wanted = float(np.mean(variances / (0.9 * variances + 0.1 * variances.mean())))
    found = measured(fitted, *means(500)).mean(dim=0)
    assert found.tolist() == pytest.approx([wanted, wanted], abs=0.05)
    assert 0.65 < wanted < 0.75


def test_it_equals_the_mahalanobis_distance_of_the_shrunk_covariance(fitted: Novelty) -> None:
    """Computed another way, in numpy with an inverse: to 1e-3."""
    trained, asked = means(500), means(5, seed=2)
    found = measured(fitted, *asked)
    for k in range(2):
        x = trained[k].double().numpy()
        covariance = 0.9 * np.cov(x.T) + 0.1 * np.trace(np.cov(x.T)) / WIDTH * np.eye(WIDTH)
        away = asked[k].double().numpy() - x.mean(axis=0)
        wanted = np.einsum("ni,ij,nj->n", away, np.linalg.inv(covariance), away) / WIDTH
        np.testing.assert_allclose(found[:, k].numpy(), wanted, rtol=1e-3)


@pytest.mark.parametrize("place", [0, 1], ids=["picture", "sound"])
def test_far_away_is_far(fitted: Novelty, place: int) -> None:
    """Ten deviations off in one modality are seen in that one's number, and not in the other's."""
    near = means(1)
    far = list(near)
    far[place] = near[place] + 10.0
    before, after = measured(fitted, *near)[0], measured(fitted, *far)[0]
    assert after[place] > 50
    assert after[1 - place] == before[1 - place]


def test_a_direction_that_training_hardly_used_does_not_decide(fitted: Novelty) -> None:
    """A hundred of its own deviations along the stillest axis weigh no more than a few of an ordinary one."""
    centre = (CENTRES[:1], CENTRES[1:])
    stillest = mixing(0)[-1] * 100
    ordinary = mixing(0)[0] * 10
    off = [float(measured(fitted, centre[0] + step, centre[1])[0, 0]) for step in (stillest, ordinary)]
    assert 0.1 < off[0] < off[1]


def test_unfitted_is_zero() -> None:
    """A model that was never told what it knows has no novelty, and so no limit is reached."""
    assert measured(Novelty(WIDTH), *means(3)).tolist() == [[0.0, 0.0]] * 3


def test_absent_modality_is_zero(fitted: Novelty) -> None:
    """By window; what lies in the place of it does not matter."""
    video, audio = windows(*means(3))
    seen, heard = torch.ones(3, T), torch.ones(3, T)
    seen[0], heard[2] = 0.0, 0.0
    video[0], audio[2] = 1e3, 1e3
    found = fitted(video, audio, seen, heard)
    assert (found == 0).tolist() == [[True, False], [False, False], [False, True]]


def test_only_evidence_counts(fitted: Novelty) -> None:
    """The mean is of the pictures that are there."""
    video, audio = (x.repeat_interleave(T, dim=0)[None] for x in means(1))
    seen, heard = torch.ones(1, T), torch.ones(1, T)
    whole = fitted(video, audio, seen, heard)
    seen[:, 10:20], heard[:, 40:] = 0.0, 0.0
    video[:, 10:20], audio[:, 40:] = 1e3, -1e3
    torch.testing.assert_close(fitted(video, audio, seen, heard), whole, rtol=1e-4, atol=1e-5)


def test_what_is_carried_beyond_the_width_is_ignored(fitted: Novelty) -> None:
    """Served tokens hold points and spectra too."""
    tokens, there = windows(*means(4)), torch.ones(4, T)
    carried = [torch.cat([x, torch.full((4, T, 9), 1e3)], dim=2) for x in tokens]
    assert torch.equal(fitted(*carried, there, there), fitted(*tokens, there, there))


def test_it_is_saved_with_the_network(fitted: Novelty) -> None:
    """What it was fitted to is part of the weights."""
    again = Novelty(WIDTH)
    again.load_state_dict(fitted.state_dict())
    asked = means(3, seed=3)
    assert torch.equal(measured(again, *asked), measured(fitted, *asked))
