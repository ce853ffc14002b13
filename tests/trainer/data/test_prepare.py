"""Prepared clips: made once, found again by content and preprocessing, and honest about what failed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from avff.engine.offline import slices_of_file
from avff.engine.spec import SPEC
from avff.trainer.data import prepare as module
from avff.trainer.data.manifest import Clip
from avff.trainer.data.prepare import Prepared, cache_path, from_slices, load_prepared, prepare
from tests.support.engine import face_models, make_face, make_slice
from tests.support.training import make_clip, talking_clip

FIELDS = tuple(Prepared.__dataclass_fields__)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with one good clip, one that is no media, and one that is next to nothing."""
    made = tmp_path_factory.mktemp("data")
    talking_clip(made / "good.mp4", seconds=1.0)
    (made / "text.mp4").write_text("this is no film\n" * 100)
    talking_clip(made / "blink.mp4", seconds=0.08)
    return made


def test_entry_is_found_by_content_and_preprocessing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another file, or other numbers of the preprocessing, is another entry; the name of a clip is not."""
    clip = make_clip("a.mp4")
    renamed = dataclasses.replace(clip, uid="b.mp4", label=1)
    altered = dataclasses.replace(clip, sha256="f" * 64)
    first = cache_path(tmp_path, clip)
    assert cache_path(tmp_path, renamed) == first
    assert cache_path(tmp_path, altered) != first
    monkeypatch.setattr(module, "SPEC", dataclasses.replace(SPEC, revision=SPEC.revision + 1))
    assert cache_path(tmp_path, clip) != first


def test_cache_holds_what_the_engine_makes_of_the_file(root: Path, tmp_path: Path) -> None:
    """Every array of an entry is the engine's own, slice after slice."""
    clip = make_clip("good.mp4")
    assert prepare([clip], root, tmp_path, workers=1) == {}
    found = load_prepared(tmp_path, clip)
    slices = slices_of_file(root / "good.mp4", face_models())
    assert found.faces.shape == (len(slices) * SPEC.slice_frames, SPEC.face_px, SPEC.face_px, 3)
    assert found.ok.mean() > 0.7
    for k, piece in enumerate(slices):
        pictures = slice(k * SPEC.slice_frames, (k + 1) * SPEC.slice_frames)
        assert piece.face is not None
        for name in ("faces", "ok", "landmarks", "motion"):
            assert np.array_equal(getattr(found, name)[pictures], getattr(piece.face, name)), name
        start = k * SPEC.slice_samples
        sound = found.audio[start : start + SPEC.context_samples + SPEC.slice_samples]
        assert np.array_equal(sound, piece.audio)
        assert found.audio_ok[k] == np.float32(piece.audio_ok)


def test_second_run_does_nothing(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in the cache is neither decoded nor written again, and no face model is asked for."""
    clip = make_clip("good.mp4")
    cache_path(tmp_path, clip).write_bytes(b"as it was")

    def refuse(**_: object) -> None:
        raise AssertionError("nothing is to do")

    monkeypatch.setattr(module, "load_face_models", refuse)
    assert prepare([clip], root, tmp_path, workers=1) == {}
    assert cache_path(tmp_path, clip).read_bytes() == b"as it was"
    assert [p.name for p in tmp_path.iterdir()] == [cache_path(tmp_path, clip).name]


def test_clip_that_cannot_be_prepared_is_reported_with_its_reason(root: Path, tmp_path: Path) -> None:
    """By name and reason, in the answer and in a file; the others are prepared all the same."""
    clips = [make_clip(uid) for uid in ("text.mp4", "good.mp4", "gone.mp4", "blink.mp4")]
    bad = prepare(clips, root, tmp_path, workers=1)
    assert set(bad) == {"text.mp4", "gone.mp4", "blink.mp4"}
    assert "text.mp4" in bad["text.mp4"]
    assert "no such file" in bad["gone.mp4"].lower()
    assert bad["blink.mp4"] == "shorter than half a slice"
    lines = (tmp_path / "bad_samples.jsonl").read_text().splitlines()
    assert {row["uid"]: row["reason"] for row in map(json.loads, lines)} == bad
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".jsonl", ".npz"]


def test_slices_are_joined_without_a_seam() -> None:
    """The left context of every slice but the first is dropped, and a slice without a face is blank."""
    slices = [make_slice(0, face=make_face(seed=1)), make_slice(1), make_slice(2, face=make_face(seed=2))]
    joined = from_slices(slices)
    assert len(joined.audio) == SPEC.context_samples + 3 * SPEC.slice_samples
    for k, piece in enumerate(slices):
        start = SPEC.context_samples + k * SPEC.slice_samples
        own = piece.audio[SPEC.context_samples :]
        assert np.array_equal(joined.audio[start : start + SPEC.slice_samples], own)
    assert np.array_equal(joined.audio[: SPEC.context_samples], slices[0].audio[: SPEC.context_samples])
    gap = slice(SPEC.slice_frames, 2 * SPEC.slice_frames)
    assert not any(getattr(joined, name)[gap].any() for name in ("faces", "ok", "landmarks", "motion"))
    assert joined.ok.sum() == 2 * SPEC.slice_frames


def test_entry_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """A clip that was not prepared is never replaced by zeros."""
    clip: Clip = make_clip("never.mp4")
    with pytest.raises(OSError, match="No such file"):
        load_prepared(tmp_path, clip)


def test_entry_survives_the_way_to_disk(tmp_path: Path) -> None:
    """Types and values are kept."""
    clip, joined = make_clip("x.mp4"), from_slices([make_slice(0, face=make_face())])
    np.savez(cache_path(tmp_path, clip), **{name: getattr(joined, name) for name in FIELDS})
    found = load_prepared(tmp_path, clip)
    for name in FIELDS:
        assert getattr(found, name).dtype == getattr(joined, name).dtype
        assert np.array_equal(getattr(found, name), getattr(joined, name))
