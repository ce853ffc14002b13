from __future__ import annotations

from dataclasses import fields, replace

import pytest

from avff.engine.spec import SPEC, ClipSpec


def test_slice_and_window_are_what_the_documents_say() -> None:
    """One slice is 8 pictures = 320 ms = 5120 samples = 32 spectra; one window is 8 slices = 2.56 s."""
    assert (SPEC.slice_frames, SPEC.slice_ns, SPEC.slice_samples, SPEC.slice_spectra) == (
        8,
        320_000_000,
        5120,
        32,
    )
    assert (SPEC.window_slices, SPEC.window_ns, SPEC.window_frames) == (8, 2_560_000_000, 64)
    assert (SPEC.frame_ns, SPEC.context_samples) == (40_000_000, 352)


@pytest.mark.parametrize("name", [field.name for field in fields(ClipSpec)])
def test_every_number_is_in_the_fingerprint(name: str) -> None:
    """A change of any number changes the fingerprint."""
    changed = replace(SPEC, **{name: getattr(SPEC, name) + 1})
    assert changed.fingerprint() != SPEC.fingerprint()
    assert len(changed.fingerprint()) == 64


def test_the_same_numbers_have_the_same_fingerprint() -> None:
    """The fingerprint depends on the numbers only."""
    assert ClipSpec().fingerprint() == SPEC.fingerprint()
