"""Shards: what is written comes back bit for bit, at random, and a crash leaves nothing half there."""

from __future__ import annotations

import dataclasses
import gc
import io
import multiprocessing
import pickle
import tarfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import webdataset

from avff.engine.spec import SPEC
from avff.trainer.data.entry import Prepared, encode
from avff.trainer.data.manifest import Clip
from avff.trainer.data.prepare import from_slices
from avff.trainer.data.shard_index import ShardError
from avff.trainer.data.shards import ShardStore, ShardWriter, entry_key, mend
from tests.support.engine import make_face, make_slice
from tests.support.training import fill_cache, make_clip, make_prepared

CLIPS = [make_clip(f"{name}.mp4", identity=name) for name in "abc"]
FIELDS = tuple(Prepared.__dataclass_fields__)
T = 2 * SPEC.window_frames


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clips, each in a shard of its own."""
    out = tmp_path_factory.mktemp("shards")
    fill_cache(out, CLIPS, shard_mb=0.1)
    return out


def write(out: Path, clip: Clip, prepared: Prepared, *, picture: str = "bmp") -> ShardStore:
    with ShardWriter(out, shard_bytes=1) as writer:
        writer.add(entry_key(clip.sha256, picture), encode(prepared, picture, {}), picture)
    return ShardStore(out, [clip], picture=picture)


def contents(out: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(out.iterdir())}


def part(whole: Prepared, at: int, frames: int) -> Prepared:
    """What a cut has to hold, by slicing the arrays in memory."""
    until, per = min(at + frames, T), SPEC.rate_hz // SPEC.fps
    pictures = slice(at, until)
    return Prepared(
        whole.faces[pictures], whole.ok[pictures], whole.landmarks[pictures], whole.motion[pictures],
        whole.audio[at * per : until * per + SPEC.context_samples],
        whole.audio_ok[at // SPEC.slice_frames : -(-until // SPEC.slice_frames)],
    )  # fmt: skip


@pytest.mark.parametrize(("at", "frames"), [(0, 64), (37, 24), (T - 5, 64), (0, T)])
def test_cut_is_the_part_bit_for_bit(folder: Path, at: int, frames: int) -> None:
    """Pictures, numbers and sound, from any place on, and fewer where the clip ends."""
    store = ShardStore(folder, CLIPS)
    for number, clip in enumerate(CLIPS):
        found, expected = store.cut(clip.uid, at, frames), part(make_prepared(number), at, frames)
        for name in FIELDS:
            assert getattr(found, name).dtype == getattr(expected, name).dtype, name
            assert np.array_equal(getattr(found, name), getattr(expected, name)), name


@pytest.mark.parametrize("picture", ["bmp", "png"])
def test_exact_codecs_give_back_every_bit(tmp_path: Path, picture: str) -> None:
    """Red stays red too: both codecs store blue first."""
    prepared = make_prepared(0)
    found = write(tmp_path, CLIPS[0], prepared, picture=picture).cut(CLIPS[0].uid, 3, 20)
    assert np.array_equal(found.faces, prepared.faces[3:23])


def test_facts_and_sound_are_those_of_the_whole_clip(tmp_path: Path) -> None:
    """What draws are made from, for clips of different lengths in one shard."""
    longer, shorter = make_prepared(1), make_prepared(2, windows=1)
    longer.ok[5], longer.audio_ok[3], shorter.ok[-1], shorter.audio_ok[0] = False, 0.25, False, 0.5
    with ShardWriter(tmp_path, shard_bytes=10**9) as writer:
        for clip, prepared in zip(CLIPS, (longer, shorter), strict=False):
            writer.add(entry_key(clip.sha256, "bmp"), encode(prepared, "bmp", {}), "bmp")
    store = ShardStore(tmp_path, CLIPS[1::-1])
    for clip, prepared in zip(CLIPS, (longer, shorter), strict=False):
        facts = store.facts(clip.uid)
        assert facts.length == len(prepared.ok)
        assert np.array_equal(facts.ok, prepared.ok)
        assert np.array_equal(facts.audio_ok, prepared.audio_ok)
        assert np.array_equal(store.sound(clip.uid), prepared.audio)


def test_picture_without_a_face_takes_no_room(tmp_path: Path) -> None:
    """It comes back blank, as the front-end made it, and the pictures around it are where they were."""
    prepared = make_prepared(3)
    prepared.ok[10:50], prepared.faces[10:50] = False, 0
    found = write(tmp_path, CLIPS[0], prepared).cut(CLIPS[0].uid, 5, 60)
    assert np.array_equal(found.faces, prepared.faces[5:65])
    sizes = encode(prepared, "bmp", {})["sizes.npy"]
    assert (np.load(io.BytesIO(sizes)) > 0).tolist() == prepared.ok.tolist()


def test_only_the_pictures_asked_for_are_decoded(folder: Path, tmp_path: Path) -> None:
    """Rubbish in place of all other pictures goes unnoticed, until one of them is asked for."""
    clip, shard = CLIPS[0], tmp_path / "shard-000000.tar"
    for name in (shard.name, "shard-000000.index.npz"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with tarfile.open(shard) as tar:
        faces = next(i for i in tar if i.name.endswith(".faces.bmp"))
        sizes = np.load(io.BytesIO(encode(make_prepared(0), "bmp", {})["sizes.npy"])).astype(int)
    content = bytearray(shard.read_bytes())
    for start, end in ((0, sizes[:8].sum()), (sizes[:16].sum(), sizes.sum())):
        content[faces.offset_data + start : faces.offset_data + end] = b"?" * int(end - start)
    shard.write_bytes(content)
    store = ShardStore(tmp_path, [clip])
    assert np.array_equal(store.cut(clip.uid, 8, 8).faces, make_prepared(0).faces[8:16])
    with pytest.raises(
        ShardError, match=r"shard-000000\.tar: clip 'a\.mp4' has a damaged picture 16; delete"
    ):
        store.cut(clip.uid, 8, 9)


def test_jpeg_keeps_colours_and_takes_half_the_room(tmp_path: Path) -> None:
    """Lossy within a few grey levels, at full colour resolution, under a key of its own."""
    smooth = cv2.GaussianBlur(make_prepared(0).faces[0], (0, 0), 3)
    smooth[..., 0] //= 4  # swapped channels would be noticed
    face = np.repeat(smooth[None], SPEC.slice_frames, axis=0)
    prepared = dataclasses.replace(part(make_prepared(0), 0, SPEC.slice_frames), faces=face)
    store = write(tmp_path, CLIPS[0], prepared, picture="jpeg")
    found = store.cut(CLIPS[0].uid, 0, SPEC.slice_frames)
    difference = np.abs(found.faces.astype(int) - face)
    assert 0 < difference.max() < 30
    assert difference.mean() < 2
    assert np.array_equal(found.landmarks, prepared.landmarks)
    assert 2 * len(encode(prepared, "jpeg", {})["faces"]) < len(encode(prepared, "bmp", {})["faces"])
    with pytest.raises(ShardError, match=r"clip 'a\.mp4' is not prepared; run avff-prepare again"):
        ShardStore(tmp_path, CLIPS[:1])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_reads_a_shard(folder: Path) -> None:
    """Another program gets every file of a clip under one key, and finds the pictures by their sizes."""
    shards = sorted(str(p) for p in folder.glob("*.tar"))
    samples = list(webdataset.WebDataset(shards, shardshuffle=False).decode())
    gc.collect()  # webdataset leaves its open files to it, which warns; here rather than in some other test
    assert [s["json"]["clip"]["uid"] for s in samples] == [c.uid for c in CLIPS]
    for number, sample in enumerate(samples):
        expected = make_prepared(number)
        assert sample["__key__"] == entry_key(CLIPS[number].sha256, "bmp")
        for name in FIELDS[1:]:
            assert np.array_equal(sample[f"{name}.npy"], getattr(expected, name)), name
        ends = np.cumsum(sample["sizes.npy"])
        picture = np.frombuffer(sample["faces.bmp"][ends[6] : ends[7]], np.uint8)
        found = np.asarray(cv2.imdecode(picture, cv2.IMREAD_COLOR_RGB))
        assert np.array_equal(found, expected.faces[7])


def _motion(job: tuple[ShardStore, str, int]) -> Any:
    store, uid, at = job
    return store.cut(uid, at, 8).motion[:, :2]


def test_store_may_be_forked_and_pickled(folder: Path) -> None:
    """Worker processes read at once from their own copies, whichever way they were started."""
    store = ShardStore(folder, CLIPS)
    store.cut("a.mp4", 0, 8)  # in use before it is shared
    jobs = [(store, clip.uid, at) for at in range(0, 120, 8) for clip in CLIPS]
    with multiprocessing.get_context("fork").Pool(2) as pool:  # arguments are pickled, as for spawn
        found = pool.map(_motion, jobs)
    for (_, uid, at), motion in zip(jobs, found, strict=True):
        assert motion[:, 0].tolist() == ["abc".index(uid[0])] * 8
        assert motion[:, 1].tolist() == list(range(at, at + 8))
    assert np.array_equal(pickle.loads(pickle.dumps(store)).sound("b.mp4"), store.sound("b.mp4"))


def test_same_entries_make_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    """Neither dates nor owners nor the process leave a trace; a full shard is closed."""
    fill_cache(tmp_path, CLIPS, shard_mb=0.1)
    found, expected = contents(tmp_path), contents(folder)
    assert [name for name in found if name.endswith(".tar")] == [f"shard-00000{k}.tar" for k in range(3)]
    assert {k: v for k, v in found.items() if k.endswith(".tar")} == {
        k: v for k, v in expected.items() if k.endswith(".tar")
    }


def test_entry_is_written_once(folder: Path, tmp_path: Path) -> None:
    """What is there already is not appended again, by the same writer or a later one."""
    for _ in range(2):
        fill_cache(tmp_path, [*CLIPS[:1], *CLIPS[:1]])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["shard-000000.index.npz", "shard-000000.tar"]
    assert mend(tmp_path) == {entry_key(CLIPS[0].sha256, "bmp")}


def test_writer_left_by_an_error_keeps_whole_shards_only(tmp_path: Path) -> None:
    """The shard that was being written is gone, and the next writer takes its number."""
    fill_cache(tmp_path, CLIPS[:1])
    before = contents(tmp_path)

    def write_and_fail() -> None:
        with ShardWriter(tmp_path, shard_bytes=10**9) as writer:
            writer.add(entry_key(CLIPS[1].sha256, "bmp"), encode(make_prepared(1), "bmp", {}), "bmp")
            assert (tmp_path / "shard-000001.tar.tmp").is_file()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_fail()
    assert contents(tmp_path) == before


def test_what_a_crash_leaves_is_mended(folder: Path, tmp_path: Path) -> None:
    """Half-written files go, a shard without a good index gets one, a torn shard is given up."""
    for name, content in contents(folder).items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "shard-000003.tar.tmp").write_bytes(b"half")
    (tmp_path / "shard-000002.index.npz.tmp").write_bytes(b"half")
    torn = tmp_path / "shard-000001.tar"
    torn.write_bytes(torn.read_bytes()[:-50_000])
    with pytest.raises(ShardError, match=r"shard-000001\.tar: is not what its index says; run avff-prepare"):
        ShardStore(tmp_path, [CLIPS[2]])
    (tmp_path / "shard-000000.index.npz").unlink()
    (tmp_path / "shard-000002.index.npz").write_bytes(b"of another version, or damaged")
    assert mend(tmp_path) == {entry_key(CLIPS[k].sha256, "bmp") for k in (0, 2)}
    assert not list(tmp_path.glob("*.tmp")) + list(tmp_path.glob("shard-000001*"))
    store = ShardStore(tmp_path, [CLIPS[0], CLIPS[2]])
    assert np.array_equal(store.cut("a.mp4", 3, 9).faces, make_prepared(0).faces[3:12])


def test_key_names_file_preprocessing_and_codec() -> None:
    """Change one of them and it is another entry; the case of the digits does not matter."""
    key = entry_key("ab" * 32, "bmp")
    assert key == entry_key("AB" * 32, "bmp")
    assert len({key, entry_key("ab" * 32, "jpeg"), entry_key("cd" * 32, "bmp")}) == 3
    assert SPEC.fingerprint()[:8] in key


def test_slice_without_a_face_survives(tmp_path: Path) -> None:
    """A clip of which nothing is seen is stored all the same: its sound may be of use."""
    silent = from_slices([make_slice(0), make_slice(1, face=make_face(seed=1)), make_slice(2)])
    store = write(tmp_path, CLIPS[0], silent)
    found = store.cut(CLIPS[0].uid, 0, 24)
    assert all(np.array_equal(getattr(found, name), getattr(silent, name)) for name in FIELDS)
