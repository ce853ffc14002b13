"""Prepared clips: made once, found again by content and preprocessing, and honest about what failed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from avff.engine.offline import slices_of_file
from avff.engine.spec import SPEC
from avff.trainer.data import prepare as module
from avff.trainer.data.entry import Prepared
from avff.trainer.data.folder import check_room
from avff.trainer.data.manifest import Clip
from avff.trainer.data.prepare import Preparation, from_slices, prepare
from avff.trainer.data.shard_index import ShardError
from tests.support.engine import face_models, make_face, make_slice
from tests.support.training import talking_clip

FIELDS = tuple(Prepared.__dataclass_fields__)
SMALL_MB = 0.2
"""Every clip fills a shard of its own."""
GOOD = ("one.mp4", "two.mp4", "three.mp4")
NAMES = ("one.mp4", "text.mp4", "copy.mp4", "two.mp4", "gone.mp4", "blink.mp4", "three.mp4")


def clip_named(name: str, sha256: str = "") -> Clip:
    """As most datasets list their clips: no hash, no container facts."""
    return Clip(name, name, "test", 0, sha256=sha256)


CLIPS = [clip_named(name) for name in NAMES]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with good clips, a copy, one that is no media, and one that is next to nothing."""
    made = tmp_path_factory.mktemp("data")
    for number, name in enumerate(GOOD):
        talking_clip(made / name, seconds=0.96, start_s=number)
    shutil.copy(made / "one.mp4", made / "copy.mp4")
    (made / "text.mp4").write_text("this is no film\n" * 100)
    talking_clip(made / "blink.mp4", seconds=0.08)
    return made


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prepared")


@pytest.fixture(scope="module")
def done(root: Path, out: Path) -> Preparation:
    """All clips of the root, prepared by one process."""
    return prepare(CLIPS, root, out, workers=1, shard_mb=SMALL_MB)


@pytest.fixture
def nothing_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """No clip may be decoded from here on."""

    def refuse(**_: object) -> None:
        raise AssertionError("nothing is to do")

    monkeypatch.setattr(module, "load_face_models", refuse)


def shards(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.glob("*.tar"))}


def bad_rows(folder: Path) -> dict[str, str]:
    lines = (folder / "bad_samples.jsonl").read_text().splitlines()
    return {row["uid"]: row["reason"] for row in map(json.loads, lines)}


def test_entry_holds_what_the_engine_makes_of_the_file(root: Path, done: Preparation) -> None:
    """Every array is the engine's own, slice after slice."""
    slices = slices_of_file(root / "two.mp4", face_models())
    assert done.store.facts("two.mp4").length == len(slices) * SPEC.slice_frames
    found = done.store.cut("two.mp4", 0, 1000)
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


def test_container_facts_and_hash_are_filled_in(root: Path, done: Preparation) -> None:
    """The rest of the row is as the dataset has it, and what it states itself is believed."""
    content = (root / "one.mp4").read_bytes()
    clip = done.clips["one.mp4"]
    assert clip.duration_s == pytest.approx(0.96, abs=0.1)
    assert clip == dataclasses.replace(
        CLIPS[0], sha256=hashlib.sha256(content).hexdigest(), width=240, height=240, fps=25.0,
        audio_rate=16_000, codec_video="h264", codec_audio="aac", duration_s=clip.duration_s,
    )  # fmt: skip


def test_clip_that_cannot_be_prepared_is_listed_with_its_reason(out: Path, done: Preparation) -> None:
    """By name and reason, in the answer and in a file; every other clip is prepared."""
    assert set(done.clips) == {*GOOD, "copy.mp4"}
    assert set(done.bad) == {"text.mp4", "gone.mp4", "blink.mp4"}
    assert "text.mp4: not readable as audio or video" in done.bad["text.mp4"]
    assert "gone.mp4: cannot be read (No such file or directory)" in done.bad["gone.mp4"]
    assert done.bad["blink.mp4"] == "shorter than half a slice"
    assert bad_rows(out) == done.bad


def test_clips_of_the_same_content_share_an_entry(out: Path, done: Preparation) -> None:
    """Three contents make three entries, whatever the names."""
    assert done.made == 3
    assert len(shards(out)) == 3
    one, copy = (done.store.cut(name, 0, 24) for name in ("one.mp4", "copy.mp4"))
    assert np.array_equal(one.faces, copy.faces)


@pytest.mark.usefixtures("nothing_to_do")
def test_second_run_does_nothing(
    root: Path, out: Path, done: Preparation, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is decoded, not even what failed before, nothing written again, and it says so."""
    before = {p.name: (p.stat().st_mtime_ns, p.stat().st_size) for p in out.glob("shard-*")}
    again = prepare(CLIPS, root, out, workers=1, shard_mb=SMALL_MB)
    assert (again.made, again.clips, again.bad) == (0, done.clips, done.bad)
    assert {p.name: (p.stat().st_mtime_ns, p.stat().st_size) for p in out.glob("shard-*")} == before
    assert f"0 clips prepared, 4 were in {out} already, 3 bad" in capsys.readouterr().err


@pytest.mark.usefixtures("nothing_to_do")
def test_what_is_not_asked_for_stays_listed(root: Path, out: Path, done: Preparation) -> None:
    """A run with some of the clips replaces what was found of these, and forgets no other's reason."""
    prepare([c for c in CLIPS if c.uid in ("one.mp4", "text.mp4")], root, out, workers=1)
    assert bad_rows(out) == done.bad


@pytest.mark.usefixtures("nothing_to_do")
def test_file_may_go_when_its_hash_is_stated(out: Path, done: Preparation, tmp_path: Path) -> None:
    """Footage may be removed after preparation; without a hash nobody knows which entry it was."""
    stated = clip_named("two.mp4", done.clips["two.mp4"].sha256)
    found = prepare([stated, clip_named("three.mp4")], tmp_path, out, workers=1)
    assert list(found.clips) == ["two.mp4"]
    assert list(found.bad) == ["three.mp4"]
    assert found.store.facts("two.mp4").length == done.store.facts("two.mp4").length


@pytest.mark.usefixtures("nothing_to_do")
def test_file_that_is_not_the_listed_one_is_bad(root: Path, out: Path, done: Preparation) -> None:
    """A hash that the dataset states is checked against the file."""
    other = done.clips["two.mp4"].sha256
    found = prepare([clip_named("one.mp4", other)], root, out, workers=1)
    assert "one.mp4: is not the file the dataset lists" in found.bad["one.mp4"]


@pytest.mark.usefixtures("nothing_to_do")
def test_wrong_root_is_refused_before_anything_is_decoded(root: Path, out: Path, tmp_path: Path) -> None:
    """Too many clips that cannot even be read end the run at once, all of them listed."""
    folder = tmp_path / "out"
    with pytest.raises(
        ShardError, match=r"^6 of 7 clips cannot be prepared, more than 50\.00%; .*bad_samples"
    ):
        prepare([*(clip_named(f"{k}.mp4") for k in range(6)), CLIPS[0]], root, folder, workers=1, max_bad=0.5)
    assert len(bad_rows(folder)) == 6


def test_changed_file_is_prepared_again_whoever_works(root: Path, done: Preparation, tmp_path: Path) -> None:
    """Its old entry stays beside the new one; two processes write the same shards as one."""
    here = tmp_path / "data"
    here.mkdir()
    for name in GOOD:
        shutil.copy(root / name, here)
    folder, clips = tmp_path / "out", [clip_named(name) for name in GOOD]
    assert prepare(clips, here, folder, workers=2, shard_mb=SMALL_MB).made == 3
    one, two, three = shards(folder).values()
    shutil.copy(root / "blink.mp4", here / "three.mp4")
    shutil.copy(root / "one.mp4", here / "two.mp4")
    talking_clip(here / "one.mp4", seconds=0.64, start_s=5)
    again = prepare(clips, here, folder, workers=2, shard_mb=SMALL_MB)
    assert again.made == 1
    assert list(again.bad) == ["three.mp4"]
    assert list(shards(folder).values())[:3] == [one, two, three]
    assert again.store.facts("one.mp4").length == 16
    assert np.array_equal(again.store.cut("two.mp4", 0, 8).faces, done.store.cut("one.mp4", 0, 8).faces)


def test_killed_run_is_gone_on_with(root: Path, out: Path, done: Preparation, tmp_path: Path) -> None:
    """After SIGKILL no process stays behind, and a new run makes the very same shards."""
    program = (
        "from pathlib import Path\n"
        "from avff.trainer.data.manifest import Clip\n"
        "from avff.trainer.data.prepare import prepare\n"
        f"clips = [Clip(name, name, 'test', 0) for name in {NAMES}]\n"
        f"prepare(clips, Path({str(root)!r}), Path({str(tmp_path)!r}), workers=1, shard_mb={SMALL_MB})\n"
    )
    paths = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.Popen([sys.executable, "-c", program], env=paths)
    deadline = time.monotonic() + 120
    while not (tmp_path / "shard-000000.tar").exists():
        assert run.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    helpers = psutil.Process(run.pid).children(recursive=True)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert helpers
    assert not psutil.wait_procs(helpers, timeout=60)[1]
    assert len(shards(tmp_path)) < 3
    again = prepare(CLIPS, root, tmp_path, workers=1, shard_mb=SMALL_MB)
    assert shards(tmp_path) == shards(out)
    assert bad_rows(tmp_path) == again.bad == done.bad


def test_disk_budget_counts_clips_of_unknown_length(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By their size, at the rate of the others; PNG takes about twice as much as JPEG."""
    check_room(tmp_path, [(1800.0, 10**8), (0.0, 10**8)], "png")
    check_room(tmp_path, [(0.0, 180 * 10**6)], "jpeg")
    png, jpeg = capsys.readouterr().err.splitlines()
    assert png.startswith(f"prepare: 2 clips, 1.00 h of footage: about 2.99 GB in {tmp_path}, which has ")
    assert jpeg.startswith("prepare: 1 clips, 0.50 h of footage: about 0.73 GB in ")


def test_too_small_a_disk_is_refused(tmp_path: Path) -> None:
    """Thirty years of footage fit on no disk; the line says what to do."""
    with pytest.raises(ShardError, match="too little room; make some, choose another folder, or store jpeg"):
        check_room(tmp_path, [(1e9, 1)], "png")


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
