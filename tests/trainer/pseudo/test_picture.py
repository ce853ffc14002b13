"""Recipes that change the picture: self-blend, lip-swap and faults in time."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from avff.trainer.data.sample import Sample
from avff.trainer.pseudo.lipswap import lip_swap
from avff.trainer.pseudo.selfblend import FACE_OVAL, blend, polygon_mask, self_blend
from avff.trainer.pseudo.temporal import freeze, retime
from tests.support.samples import differing, make_donors, make_sample


def swapped(recipe: str, seed: int) -> tuple[Sample, Sample]:
    """Return window 0 before and after one recipe."""
    before = make_sample(0)
    after, donors = before.copy(), make_donors(before)
    make = {"blend": self_blend, "lips": lip_swap, "freeze": freeze}[recipe]
    return before, make(after, np.random.default_rng(seed), donors)


def test_blend_keeps_the_picture_bit_for_bit_outside_the_mask() -> None:
    """Weight 0 is the picture below, weight 1 the one above, half their mean."""
    rng = np.random.default_rng(0)
    below, above = rng.integers(0, 256, (2, 3, 128, 128, 3), dtype=np.uint8)
    weight = np.zeros((3, 128, 128), np.float32)
    weight[1], weight[2] = 1, 0.5
    mixed = blend(below, above, weight)
    assert np.array_equal(mixed[0], below[0])
    assert np.array_equal(mixed[1], above[1])
    assert np.abs(mixed[2] - (below[2] / 2 + above[2] / 2)).max() <= 0.51


def test_polygon_mask_follows_parts_of_a_pixel() -> None:
    """A hull moved by half a pixel moves the mask's centre of mass by half a pixel."""
    square = np.array([[30, 30], [90, 30], [90, 90], [30, 90]], np.float32)
    columns, half = np.arange(128), np.array([0.5, 0], np.float32)
    first, second = (polygon_mask(place).astype(float) for place in (square, square + half))
    centres = [(mask.sum(0) * columns).sum() / mask.sum() for mask in (first, second)]
    assert centres[1] - centres[0] == pytest.approx(0.5, abs=0.1)


def test_self_blend_stays_inside_the_face() -> None:
    """Nothing changes beyond the face outline and the reach of the mask's softness."""
    for seed in range(12):
        before, after = swapped("blend", seed)
        changed = differing(before.faces, after.faces) > 0
        for t in (0, 30, 63):
            outline = polygon_mask(before.landmarks[t, list(FACE_OVAL), :2])
            # Half the widest kernel (17 px), plus a bend of up to 3 sigma of 4 px, plus tremble.
            allowed = cv2.dilate(outline, np.ones((49, 49), np.uint8)) > 0
            assert not changed[t][~allowed].any()
        labelled = after.frame_labels[:, 1] == 1
        assert np.array_equal(changed.any(axis=(1, 2)), labelled)
        assert np.array_equal(before.landmarks, after.landmarks)


def test_self_blend_sometimes_touches_a_span_only() -> None:
    """About a fifth of the windows are manipulated for part of the time, in one run."""
    partial = 0
    for seed in range(40):
        _, after = swapped("blend", seed)
        on = after.frame_labels[:, 1]
        partial += int(on.sum() < 64)
        assert np.abs(np.diff(np.pad(on, 1))).sum() == 2
    assert 2 <= partial <= 16


def test_self_blend_is_steady_over_time() -> None:
    """On a still picture the change of one picture looks like that of the next: no flicker."""
    before = make_sample(0)
    before.faces[:], before.landmarks[:] = before.faces[0], before.landmarks[0]
    for seed in range(6):
        after = self_blend(before.copy(), np.random.default_rng(seed), make_donors(before))
        on = np.flatnonzero(after.frame_labels[:, 1])
        added = after.faces[on].astype(np.float32) - before.faces[on]
        assert np.abs(np.diff(added, axis=0)).mean() < 0.35 * np.abs(added).mean()


def test_lip_swap_leaves_the_upper_face_alone() -> None:
    """Above the nose base, but for the feather, every pixel stays."""
    for seed in range(12):
        before, after = swapped("lips", seed)
        changed = differing(before.faces, after.faces) > 0
        nose = int(before.landmarks[:, 2, 1].min())
        assert not changed[:, : nose - 8].any()
        assert np.array_equal(changed.any(axis=(1, 2)), after.frame_labels[:, 1] == 1)


def test_lip_swap_in_place_keeps_the_mouth_in_step() -> None:
    """Where desync is 0 the landmarks stay; where it is 1 the mouth opens at other times."""
    verdicts, alike = [], []
    for seed in range(16):
        before, after = swapped("lips", seed)
        on = after.frame_labels[:, 1] == 1
        gap_before = before.landmarks[on, 14, 1] - before.landmarks[on, 13, 1]
        gap_after = after.landmarks[on, 14, 1] - after.landmarks[on, 13, 1]
        desync = float(after.labels[3])
        verdicts.append(desync)
        if desync == 0:
            assert np.array_equal(before.landmarks, after.landmarks)
        else:
            alike.append(float(np.corrcoef(gap_before, gap_after)[0, 1]))
        assert np.array_equal(before.landmarks[~on], after.landmarks[~on])
        assert np.array_equal(before.landmarks[:, 33], after.landmarks[:, 33])
    assert {0.0, 1.0} <= set(verdicts)
    assert np.mean(alike) < 0.4


def test_lip_swap_of_a_still_mouth_claims_no_mismatch() -> None:
    """Lips that never move cannot contradict the sound, so desync is unknown."""
    before = make_sample(0)
    before.landmarks[:] = before.landmarks[0]
    still = make_sample(60)
    still.landmarks[:] = before.landmarks[0]
    donors = make_donors(before)
    verdicts = set()
    for seed in range(12):
        rng = np.random.default_rng(seed)
        after = lip_swap(before.copy(), rng, type(donors)(lambda: still, donors.other, donors.clip_audio))
        verdicts.add(str(float(after.labels[3])))
    assert verdicts == {"0.0", "nan"}


def test_retime_adds_up_the_motion_of_skipped_pictures() -> None:
    """A repeat does not move; a jump moves by the sum of what it skipped."""
    sample = make_sample(0)
    moved = sample.motion.copy()
    index = np.array([*range(10), 9, *range(13, 64), 63, 63])
    retime(sample, index)
    assert not sample.motion[10, 3:].any()
    np.testing.assert_allclose(sample.motion[11, 3:], moved[10:14, 3:].sum(axis=0), atol=1e-6)
    np.testing.assert_array_equal(sample.motion[11, :3], moved[13, :3])
    np.testing.assert_allclose(sample.motion[5], moved[5], atol=1e-6)


def test_freeze_label_is_the_measured_displacement() -> None:
    """Desync is on exactly when some shown picture is more than 3 pictures off."""
    before = make_sample(0)
    before.faces[:, 0, 0, 0] = np.arange(64)  # a time code in the corner
    verdicts = set()
    for seed in range(60):
        after = freeze(before.copy(), np.random.default_rng(seed), make_donors(before))
        furthest = int(np.abs(after.faces[:, 0, 0, 0].astype(int) - np.arange(64)).max())
        expected = np.nan if furthest == 3 else float(furthest > 3)
        assert np.array_equal(after.labels[3], np.float32(expected), equal_nan=True), furthest
        shown = after.faces[:, 0, 0, 0]
        assert np.array_equal(after.landmarks, before.landmarks[shown])
        verdicts.add(str(expected))
    assert {"0.0", "1.0"} <= verdicts
