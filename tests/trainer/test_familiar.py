"""What a network knows: fitted to training windows, with limits that every validation window keeps."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from avff.engine.spec import SPEC
from avff.trainer import familiar
from avff.trainer.data.windows import Batch
from avff.trainer.familiar import MARGIN, fit_novelty, limits_of
from avff.trainer.model.avff import Architecture, Avff, StreamingNet
from avff.trainer.model.novelty import Novelty
from tests.support.training import SMALL, random_windows, seeded_net
from tests.trainer.model.networks import small_streaming_net

T, WIDTH = SPEC.window_frames, SMALL.width


@pytest.fixture(autouse=True)
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several batches of few windows, as there are several of many."""
    monkeypatch.setattr(familiar, "_BATCH", 2)


@pytest.fixture
def net() -> Avff:
    return seeded_net(config=SMALL)


class Windows(Dataset[Batch]):
    """Random windows of more and more contrast, some without picture or sound; notes which are drawn."""

    def __init__(
        self, count: int, *, seed: int = 0, faceless: Sequence[int] = (), silent: Sequence[int] = ()
    ) -> None:
        self.drawn: list[int] = []
        self._count = count
        self._inputs = random_windows(count, seed)
        for k in range(count):
            self._inputs[0][k] *= 0.2 + 0.4 * k
            self._inputs[1][k] *= 2.0 - 0.2 * k
        self._inputs[3][list(faceless)] = 0.0
        self._inputs[4][list(silent)] = 0.0

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Batch:
        self.drawn.append(index)
        labels = (torch.zeros(4), torch.zeros(T, 3), torch.tensor(0))
        return Batch._make([*(x[index] for x in self._inputs), *labels, torch.zeros(0)])

    def means(self, net: StreamingNet) -> list[tuple[Tensor, Tensor]]:
        """Mean tokens of each window's picture and sound."""
        video, audio, _, _, _ = self._inputs
        with torch.no_grad():
            return [
                (net.video(v).reshape(T, -1).mean(dim=0), net.audio(a).reshape(T, -1).mean(dim=0))
                for v, a in zip(video, audio, strict=True)
            ]


def novelty_of(net: StreamingNet, means: Sequence[tuple[Tensor, Tensor]]) -> list[list[float]]:
    """By window: of picture and sound, from mean tokens."""
    there = torch.ones(1, T)
    tokens = [[x.expand(1, T, -1) for x in pair] for pair in means]
    return [net.novelty(*pair, there, there)[0].tolist() for pair in tokens]


def test_limits_are_beyond_the_least_familiar_validation_window(net: Avff) -> None:
    """By modality, MARGIN times its novelty, wherever in the set it is."""
    validation = Windows(5)
    limits = limits_of(net, validation, workers=0)
    each = novelty_of(net, validation.means(net))
    highest = [max(row[k] for row in each) for k in range(2)]
    assert [max(range(5), key=lambda n: each[n][k]) for k in range(2)] != [0, 0]
    assert limits == {
        "video": pytest.approx(MARGIN * highest[0], abs=2e-3, rel=1e-4),
        "audio": pytest.approx(MARGIN * highest[1], abs=2e-3, rel=1e-4),
    }
    assert sorted(set(validation.drawn)) == list(range(5))
    assert MARGIN > 1


def test_what_a_window_lacks_sets_no_limit(net: Avff) -> None:
    """Of windows without a face the picture is not asked, and so with sound."""
    whole, some = Windows(5), Windows(5, faceless=(3, 4), silent=(0,))
    each = novelty_of(net, whole.means(net))
    limits = limits_of(net, some, workers=0)
    assert limits["video"] == pytest.approx(MARGIN * max(row[0] for row in each[:3]), abs=2e-3, rel=1e-4)
    assert limits["audio"] == pytest.approx(MARGIN * max(row[1] for row in each[1:]), abs=2e-3, rel=1e-4)
    assert limits["video"] < limits_of(net, whole, workers=0)["video"]


def test_limits_are_written_to_a_thousandth(net: Avff) -> None:
    """As numbers that people read in a contract."""
    limits = limits_of(net, Windows(3), workers=0)
    assert all(value == round(value, 3) > 0 for value in limits.values())


@pytest.mark.parametrize(("architecture", "known"), [("video-only", "video"), ("audio-only", "audio")])
def test_modality_that_a_network_has_no_tokens_of_has_no_limit(
    architecture: Architecture, known: str
) -> None:
    """Zero would be one that the slightest rounding exceeds, and by which an ensemble cannot divide."""
    made = small_streaming_net(architecture)
    fit_novelty(made, Windows(4), workers=0)
    assert set(limits_of(made, Windows(3), workers=0)) == {known}


def test_it_is_fitted_to_the_first_training_windows(net: Avff, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as it says, and no more are drawn; it is the statistics of their mean tokens."""
    monkeypatch.setattr(familiar, "WINDOWS", 6)
    training = Windows(9)
    wanted = Novelty(WIDTH)
    video, audio = zip(*training.means(net)[:6], strict=True)
    wanted.fit(torch.stack(video), torch.stack(audio))
    fit_novelty(net, training, workers=0)
    assert training.drawn == list(range(6))
    means = training.means(net)
    for found, expected in zip(novelty_of(net, means), tokens_by(wanted, means), strict=True):
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-4)


def tokens_by(novelty: Novelty, means: Sequence[tuple[Tensor, Tensor]]) -> list[list[float]]:
    """What another novelty says of the same windows."""
    there = torch.ones(1, T)
    return [novelty(*(x.expand(1, T, -1) for x in pair), there, there)[0].tolist() for pair in means]


def test_windows_that_lack_a_modality_teach_nothing(net: Avff, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their tokens are of a blank picture, or of silence that stands in for what was withheld."""
    monkeypatch.setattr(familiar, "WINDOWS", 8)
    training = Windows(8, faceless=(1, 6), silent=(3,))
    fit_novelty(net, training, workers=0)
    whole = [pair for k, pair in enumerate(training.means(net)) if k not in (1, 3, 6)]
    wanted = Novelty(WIDTH)
    wanted.fit(*(torch.stack(x) for x in zip(*whole, strict=True)))
    for found, expected in zip(novelty_of(net, whole), tokens_by(wanted, whole), strict=True):
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_nothing_but_the_novelty_is_changed(net: Avff, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights and the statistics of norms stay as training has left them."""
    monkeypatch.setattr(familiar, "WINDOWS", 4)
    before = {name: x.clone() for name, x in net.state_dict().items()}
    fit_novelty(net, Windows(4), workers=0)
    moved = {name for name, x in net.state_dict().items() if not torch.equal(x, before[name])}
    assert moved == {"novelty.means", "novelty.whitening"}


def test_too_few_windows_leave_it_unfitted() -> None:
    """One window, or none with both modalities: no limit, and no NaN that would silence the model."""
    for training in (Windows(1), Windows(3, faceless=(0, 1))):
        made = Avff(SMALL).eval()
        fit_novelty(made, training, workers=0)
        assert limits_of(made, Windows(3), workers=0) == {}
        assert torch.isfinite(torch.tensor(novelty_of(made, Windows(3).means(made)))).all()
