"""The motion head: what moves counts, and neither who it is nor where the camera stands."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from avff.engine.faces.landmarks import MODEL_POINTS
from avff.engine.spec import SPEC
from avff.trainer.model.fusion import MAX_SHIFT
from avff.trainer.model.motion import LIPS, MotionHead, MotionOut, raw_sound
from tests.support.training import WITH_MOTION, random_windows, seeded_net

T, POINTS = SPEC.window_frames, 2 * len(MODEL_POINTS)


@pytest.fixture
def head() -> MotionHead:
    made = seeded_net(config=WITH_MOTION).motion
    assert made is not None
    return made


def windows(count: int, seed: int = 0) -> list[Tensor]:
    """Arguments of the head: points and sound that go anywhere, all of it there."""
    make = torch.Generator().manual_seed(seed)
    landmarks, sound = torch.randn(count, T, 184, generator=make), torch.randn(count, T, 320, generator=make)
    return [landmarks, sound, torch.ones(count, T), torch.ones(count, T)]


@torch.no_grad()
def said(head: MotionHead, arguments: list[Tensor], fold: Tensor | None = None) -> MotionOut:
    made: MotionOut = head(*arguments, fold)
    return made


def assert_same(one: MotionOut, other: MotionOut) -> None:
    """Far finer than windows differ; of noise the curves are flat, and so is what is read off them."""
    for mine, theirs, atol in zip(one, other, (2e-4, 1e-5, 1e-5), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=atol)


def assert_differs(one: MotionOut, other: MotionOut) -> None:
    assert (one.logit - other.logit).abs().min() > 1e-3


def test_answers_have_their_shapes(head: MotionHead) -> None:
    """One logit of each kind, and a curve; windows differ in all of them."""
    made = said(head, windows(3))
    assert [tuple(x.shape) for x in made] == [(3, 1), (3, 1), (3, 31)]
    for values, least in zip(made, (0.1, 5e-4, 5e-3), strict=True):
        assert float(values.std(dim=0).max()) > least


def test_what_is_constant_does_not_count(head: MotionHead) -> None:
    """A face of another shape, elsewhere, at another angle, and another microphone: the same answer."""
    before, after = windows(2), windows(2)
    after[0] += 3 * torch.randn(2, 1, 184)
    after[1] += 3 * torch.randn(2, 1, 320)
    assert_same(said(head, before), said(head, after))
    after[0][:, 30:] += 0.5 * torch.randn(184)
    assert_differs(said(head, before), said(head, after))


def test_constant_is_of_what_is_there(head: MotionHead) -> None:
    """Also where pictures and sound are missing in between."""
    before, after = windows(2), windows(2)
    for arguments in (before, after):
        arguments[2][:, 5:20], arguments[3][:, 40:50] = 0.0, 0.0
    after[0][:, 20:] += 2.0
    after[0][:, :5] += 2.0
    after[1][:, :40] -= 2.0
    after[1][:, 50:] -= 2.0
    assert_same(said(head, before), said(head, after))


@pytest.mark.parametrize("place", [0, 1], ids=["face", "sound"])
def test_what_lies_where_there_is_no_evidence_does_not_matter(head: MotionHead, place: int) -> None:
    """Whatever stands in for a picture without a face, or for sound that was lost."""
    before, after = windows(2), windows(2)
    for arguments in (before, after):
        arguments[2 + place][0, :12], arguments[2 + place][1, 30:41] = 0.0, 0.0
    after[place][0, :12], after[place][1, 30:41] = 100.0, -100.0
    assert_same(said(head, before), said(head, after))
    assert_differs(said(head, before), said(head, windows(2)))


def test_where_there_is_no_evidence_nothing_moves(head: MotionHead) -> None:
    """Normalised, it is 0 there: neither the mean of the training data nor anything else."""
    landmarks, sound, seen, heard = windows(2)
    seen[0, :12], heard[1, 30:41] = 0.0, 0.0
    face, lips = head.face(landmarks, seen)
    speech = head.speech(sound, heard)
    for values, there in ((face, seen), (lips, seen), (speech, heard)):
        assert torch.equal((values != 0).any(dim=1).squeeze(2), there > 0)


def test_blind_it_says_the_same_of_everything(head: MotionHead) -> None:
    """Without a face there is nothing to judge: sound alone is no motion."""
    one, other = windows(2), windows(2, seed=1)
    for arguments in (one, other):
        arguments[2][:] = 0.0
    assert_same(said(head, one), said(head, other))


def test_deaf_it_judges_the_face_alone(head: MotionHead) -> None:
    """With no sound at all, none counts; the face still does."""
    before, after, other = windows(2), windows(2), windows(2)
    for arguments in (before, after, other):
        arguments[3][:] = 0.0
    after[1][:] = torch.randn(2, T, 320)
    other[0][:, 20:40] += 1.0
    assert_same(said(head, before), said(head, after))
    assert_differs(said(head, before), said(head, other))
    assert not said(head, before).sync.any()


def test_heard_sound_counts(head: MotionHead) -> None:
    """The tests above would not notice a head that is always deaf."""
    before, after = windows(2), windows(2)
    after[1][:] = windows(2, seed=1)[1]
    assert_differs(said(head, before), said(head, after))


def test_one_window_alone_equals_the_same_window_in_a_batch(head: MotionHead) -> None:
    """A batch of N equals N batches of 1, whatever the batch mates lack."""
    arguments = windows(4)
    arguments[2][1, 8:], arguments[3][2] = 0.0, 0.0
    together = said(head, arguments)
    each = [said(head, [x[k : k + 1] for x in arguments]) for k in range(4)]
    assert_same(together, MotionOut(*(torch.cat(parts) for parts in zip(*each, strict=True))))


def test_no_gradient_crosses_windows(head: MotionHead) -> None:
    """What one window answers depends on that one's points and sound."""
    arguments = windows(2)
    leaves = [x.requires_grad_() for x in arguments[:2]]
    made = head(*arguments)
    torch.autograd.backward(made.logit[0].sum() + made.desync[0].sum() + made.sync[0].sum())
    for leaf in leaves:
        assert leaf.grad is not None
        assert leaf.grad[0].abs().amax(dim=1).min() > 0
        assert not leaf.grad[1].any()


def test_fold_selects_its_own_predictor(head: MotionHead) -> None:
    """0 and 1 each have one, window by window; without a fold the mean of both predictions answers."""
    arguments, fold = windows(3), torch.tensor([0, 1, 0])
    speech = head.speech(*arguments[1::2])
    with torch.no_grad():
        each = [predictor(speech) for predictor in head.lips]
        found, mean = head.predict(speech, fold), head.predict(speech)
    for k in range(3):
        assert torch.equal(found[k], each[int(fold[k])][k])
        assert (each[0][k] - each[1][k]).abs().max() > 0.1
    torch.testing.assert_close(mean, (each[0] + each[1]) / 2)
    zero, one = (said(head, arguments, torch.full((3,), k)) for k in (0, 1))
    assert_differs(zero, one)
    assert_differs(said(head, arguments), zero)
    mixed = said(head, arguments, fold)
    assert_same(mixed, MotionOut(*(torch.stack([a[0], b[1], a[2]]) for a, b in zip(zero, one, strict=True))))


def test_face_that_is_moved_as_a_whole_moves_nothing(head: MotionHead) -> None:
    """Points count as seen from the nose; the head's pose counts by itself."""
    before, after, turned = windows(2), windows(2), windows(2)
    after[0][..., :POINTS] += torch.randn(2, T, 2).repeat(1, 1, len(MODEL_POINTS))
    turned[0][..., POINTS:] += torch.randn(2, T, 6)
    assert_same(said(head, before), said(head, after))
    assert_differs(said(head, before), said(head, turned))


def test_lost_points_count_as_far_and_no_farther(head: MotionHead) -> None:
    """One picture in which the tracker was somewhere else is at most six deviations off."""
    before = windows(1)
    before[0] *= 0.01
    wild, wilder = ([x.clone() for x in before] for _ in range(2))
    wild[0][0, 30, :POINTS:4] += 1e3
    wilder[0][0, 30, :POINTS:4] += 1e3
    wilder[0][0, 30, 4:8] += 1e6
    face, _ = head.face(wilder[0], wilder[2])
    assert float(face.abs().max()) == 6.0
    assert said(head, wilder).logit.isfinite().all()


def test_lips_by_sound_are_in_units_of_the_landmark_vector() -> None:
    """A face whose lips move just so has, normalised, the very course that the sound predicts."""
    torch.manual_seed(0)
    head = MotionHead().eval()
    assert head.face_norm.running_mean is not None
    assert head.face_norm.running_var is not None
    head.face_norm.running_mean.zero_()
    head.face_norm.running_var.copy_(torch.linspace(0.01, 4, 184))
    _, sound, there, _ = windows(2)
    fold = torch.tensor([0, 1])
    landmarks = torch.zeros(2, T, 184)
    with torch.no_grad():
        predicted = head.predict(head.speech(sound, there), fold)
        moves = head.lips_by_sound(sound, fold)
        landmarks[..., list(LIPS)] = moves
        _, lips = head.face(landmarks, there)
    assert moves.shape == (2, T, 114)
    assert 0.1 < float(predicted.abs().max()) < 3
    torch.testing.assert_close(lips, predicted - predicted.mean(dim=2, keepdim=True), rtol=1e-3, atol=1e-3)


def test_raw_sound_is_the_mel_bands_picture_by_picture() -> None:
    """Four spectra of 80 bands after one another; the linear bands are left out."""
    audio = random_windows(1)[1][0]
    made = raw_sound(audio)
    assert made.shape == (8, 8, 320)
    for piece, picture, spectrum, band in ((0, 0, 0, 0), (3, 5, 2, 71), (7, 7, 3, 79)):
        assert made[piece, picture, 80 * spectrum + band] == audio[piece, 0, band, 4 * picture + spectrum]


@pytest.mark.parametrize("late", [-15, -4, 0, 7, 15])
def test_curve_peaks_where_the_sound_is(head: MotionHead, late: int) -> None:
    """Sound that comes k pictures late has its peak k places right of the middle, near 1 in step."""
    lips = torch.randn(2, 114, T, 1)
    predicted = torch.roll(lips, late, dims=2)
    if late:
        predicted[:, :, slice(late, None) if late < 0 else slice(0, late)] = 0.0
    with torch.no_grad():
        logit, curve = head.step(lips, predicted)
    assert (logit.shape, curve.shape) == ((2, 1), (2, 31))
    assert curve.argmax(dim=1).tolist() == [MAX_SHIFT + late] * 2
    assert late or curve[:, MAX_SHIFT].tolist() == pytest.approx([1.0, 1.0], abs=1e-3)


def test_each_classifier_answers_for_itself_while_training(head: MotionHead) -> None:
    """Three logits to learn from; served, it is their mean."""
    served = said(head, windows(2)).logit
    head.training = True  # the parts stay as they are: no dropout
    each = said(head, windows(2)).logit
    assert each.shape == (2, 3)
    assert float(each.std(dim=1).min()) > 1e-2
    torch.testing.assert_close(each.mean(dim=1, keepdim=True), served)
