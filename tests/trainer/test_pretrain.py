"""Stage 1: what is hidden stays hidden, time stays time, and what is learnt is the second stage's network."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter

import lightning
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, default_collate

from avff.engine.features import audio_tensor, video_tensor
from avff.engine.spec import SPEC
from avff.trainer.data.genuine import GenuineWindows, Masked, whole_starts
from avff.trainer.data.shards import Facts, ShardStore
from avff.trainer.data.splits import SplitError
from avff.trainer.data.windows import Batch
from avff.trainer.masking import draw_masks
from avff.trainer.model.avff import Avff
from avff.trainer.model.decoders import face_targets, sound_targets
from avff.trainer.model.fusion import MAX_SHIFT
from avff.trainer.optim import OptimSettings
from avff.trainer.pretrain import PretrainSettings, PretrainStage, Rebuilt, peak_shift
from tests.support.training import SMALL, fill_cache, make_clip, random_windows, seeded_net

NAN = float("nan")
S, F, T = SPEC.window_slices, SPEC.slice_frames, SPEC.window_frames
LATER = ("tokens", "join", "cross", "frame_any", "heads")
"""Beginnings of the names of what only the second stage trains."""
SETTINGS = PretrainSettings(epochs=1, optim=OptimSettings(learning_rate=3e-3))
CLIPS = [
    *(make_clip(f"a{k}.mp4", identity="a") for k in range(2)),
    make_clip("b0.mp4", identity="b"),
    make_clip("f0.mp4", label=1, generator="F", identity="b"),
    dataclasses.replace(make_clip("u0.mp4"), label=None, label_video=None, label_audio=None),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ShardStore:
    return fill_cache(tmp_path_factory.mktemp("cache"), CLIPS)


def windows(store: ShardStore, *, size: int = 12, seed: int = 0, strength: float = 0.0) -> GenuineWindows:
    return GenuineWindows(CLIPS, store, size=size, seed=seed, strength=strength)


@functools.cache
def items(store: ShardStore) -> list[Masked]:
    """The first epoch's undegraded windows."""
    return [windows(store)[k] for k in range(12)]


def make_stage(seed: int = 0) -> PretrainStage:
    torch.manual_seed(seed)
    return PretrainStage(seeded_net(seed, SMALL), SETTINGS, 100)


def make_batch(count: int = 2, seed: int = 0) -> Masked:
    """Random genuine windows, each with its own mask and shift."""
    video, audio, landmarks, seen, heard = random_windows(count, seed)
    labels, frames = torch.zeros(count, 4), torch.zeros(count, T, 3)
    batch = Batch(video, audio, landmarks, seen, heard, labels, frames, torch.zeros(count))
    masks = [draw_masks(np.random.default_rng([seed, k])) for k in range(count)]
    see, hear = (torch.stack(mask) for mask in zip(*masks, strict=True))
    return Masked(batch, see, hear, audio.roll(1, dims=1), torch.arange(count) - 1)


def hidden_slices(visible: Tensor) -> Tensor:
    """Bool ``[N, 8]`` from a mask ``[N, 64]``."""
    return visible.reshape(-1, S, F)[:, :, 0] == 0


# --- windows ---------------------------------------------------------------------------------


def test_only_genuine_clips_are_drawn_each_person_equally_often(store: ShardStore) -> None:
    """Neither generated clips nor such as nobody labelled; two clips of one person count as one."""
    drawn = Counter(place_in(store, item)[0] for item in items(store))
    assert drawn["b0.mp4"] == 6
    assert drawn["a0.mp4"] + drawn["a1.mp4"] == 6


def test_a_window_is_64_pictures_in_a_row_with_their_own_sound(store: ShardStore) -> None:
    """Time is not stretched: what is heard is the sound of what is seen, or as late as stated."""
    starts, shifts = set(), set()
    for item in items(store):
        uid, at = place_in(store, item)
        assert torch.equal(item.windows.video.flatten(0, 1), clip_pictures(store, uid)[at : at + T])
        late = int(item.late)
        assert torch.equal(item.windows.audio, clip_spectra(store, uid, at))
        assert torch.equal(item.late_audio, clip_spectra(store, uid, at - late))
        starts.add(at)
        shifts.add(late)
    assert len(starts) > 6
    assert len(shifts) > 6
    assert -MAX_SHIFT <= min(shifts) < 0 < max(shifts) <= MAX_SHIFT


def clip_spectra(store: ShardStore, uid: str, at: int) -> Tensor:
    """The spectra of the 64 pictures from ``at`` on, cut by time out of the whole clip's sound."""
    sound, rate = store.sound(uid), SPEC.rate_hz // SPEC.fps
    firsts = [(at + k * F) * rate for k in range(S)]
    return torch.from_numpy(
        np.stack([audio_tensor(sound[n : n + SPEC.context_samples + SPEC.slice_samples]) for n in firsts])
    )


@functools.cache
def clip_pictures(store: ShardStore, uid: str) -> Tensor:
    return torch.from_numpy(video_tensor(store.cut(uid, 0, 2 * T).faces))


def place_in(store: ShardStore, item: Masked) -> tuple[str, int]:
    """Clip and first picture of an undegraded window, found by its pixels."""
    for clip in CLIPS:
        same = (clip_pictures(store, clip.uid) == item.windows.video[0, 0]).flatten(1).all(1).nonzero()
        if len(same):
            return clip.uid, int(same[0, 0])
    raise AssertionError("the window is of no clip")


def test_degradation_keeps_picture_and_sound_in_step(store: ShardStore) -> None:
    """At full strength the loudness of each picture's sound is still nearest to its own, unshifted."""
    for k, clean in enumerate(items(store)[:5]):
        degraded = windows(store, strength=1.0)[k]
        one, other = (x.windows.audio[:, 0].mean(1).flatten() for x in (clean, degraded))
        likeness = {lag: correlation(one, other.roll(-lag)) for lag in range(-16, 17)}
        assert max(likeness.values()) == max(likeness[lag] for lag in (-1, 0, 1))
        assert torch.equal(clean.see, degraded.see)


def correlation(one: Tensor, other: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([one, other]))[0, 1])


def test_items_depend_on_seed_epoch_and_place_alone(store: ShardStore) -> None:
    """The same item again after a restart, other windows and masks in the next epoch."""
    one, other = windows(store, strength=0.5), windows(store, strength=0.5)
    other.epoch = 1
    changed = other[3]
    other.epoch = 0
    for found, wanted, differs in zip(flat(one[3]), flat(other[3]), flat(changed), strict=True):
        assert torch.equal(found, wanted)
        assert differs.shape == wanted.shape
    assert not torch.equal(changed.windows.video, one[3].windows.video)
    assert len({tuple(one[k].see.tolist()) for k in range(6)}) > 3


def flat(item: Masked) -> list[Tensor]:
    return [*item.windows, *item[1:]]


def test_windows_start_where_face_and_sound_last() -> None:
    """A gap in the sound, or too many pictures without a face, rules out every window it lies in."""
    ok, sound = np.ones(160, np.bool_), np.ones(20, np.float32)
    assert whole_starts(Facts(ok, sound)).tolist() == list(range(160 - T + 1))
    sound[9] = 0  # pictures 72…79
    assert whole_starts(Facts(ok, sound)).tolist() == [*range(9), *range(80, 97)]
    ok[84:91] = False  # 7 of 64 pictures is more than a tenth
    assert whole_starts(Facts(ok, sound)).tolist() == [*range(9), *range(85, 97)]
    assert len(whole_starts(Facts(ok[:56], sound[:7]))) == 0


def test_no_genuine_clip_is_an_error(store: ShardStore) -> None:
    """One line says what is missing."""
    with pytest.raises(SplitError, match="none of 2 clips is genuine"):
        GenuineWindows(CLIPS[3:], store, size=4, seed=0, strength=0.0)


# --- targets ---------------------------------------------------------------------------------


def test_sound_targets_are_stretches_of_time() -> None:
    """Token 8 s + f is to rebuild all bands of its own 40 ms: a slice is time, not a band of mel."""
    audio = random_windows(2)[1]
    targets = sound_targets(audio)
    for s, f in ((0, 0), (3, 5), (7, 7)):
        assert torch.equal(
            targets[:, 8 * s + f], audio[:, s, 0, :, 4 * f : 4 * f + 4].transpose(1, 2).flatten(1)
        )


def test_a_burst_of_sound_is_in_the_tokens_of_its_moment() -> None:
    """From the waveform on: what sounds in the fifth slice alone is in tokens 32…39 alone."""
    sound = np.zeros(SPEC.context_samples + S * SPEC.slice_samples, np.float32)
    burst = SPEC.context_samples + 4 * SPEC.slice_samples
    sound[burst : burst + SPEC.slice_samples] = np.random.default_rng(0).normal(0, 0.1, SPEC.slice_samples)
    length = SPEC.context_samples + SPEC.slice_samples
    slices = [audio_tensor(sound[k * SPEC.slice_samples :][:length]) for k in range(S)]
    loud = sound_targets(torch.from_numpy(np.stack(slices))[None])[0].mean(1)
    quiet = loud[0]
    # The analysis window reaches 22 ms back, so the burst rings on into the token after it.
    assert (loud > quiet + 0.5).nonzero().flatten().tolist() in ([*range(32, 40)], [*range(32, 41)])


def test_face_targets_are_the_pictures_without_their_light() -> None:
    """Token 8 s + f is picture f of slice s in grey, whatever the exposure."""
    video = random_windows(1)[0]
    targets = face_targets(video)
    torch.testing.assert_close(face_targets(video * 0.4 + 0.3), targets, rtol=0, atol=0.2)
    grey = (video[0, 2, 5] * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0)
    small = functional.avg_pool2d(grey[None], 4).flatten()
    assert correlation(targets[0, 8 * 2 + 5], small) > 0.9999
    assert float(targets.mean()) == pytest.approx(0, abs=1e-4)
    assert not face_targets(torch.zeros_like(video)).any()


# --- the stage -------------------------------------------------------------------------------


def test_a_window_is_rebuilt_the_same_in_any_company() -> None:
    """No layer looks across the batch: alone or among others, the same comes out."""
    stage, batch = make_stage().eval(), make_batch(3)
    together = stage(batch)
    for k in range(3):
        windows_alone = Batch(*(x[k : k + 1] for x in batch.windows))
        alone = stage(Masked(windows_alone, *(x[k : k + 1] for x in batch[1:])))
        for field in dataclasses.fields(together):
            found, wanted = getattr(alone, field.name)[0], getattr(together, field.name)[k]
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_hidden_slices_are_not_looked_at() -> None:
    """What is rebuilt depends on visible slices only, and the hidden ones' answer on the other modality."""
    stage, batch = make_stage().eval(), make_batch(2)
    before = stage(batch)
    unseen, unheard = hidden_slices(batch.see), hidden_slices(batch.hear)
    for name, chosen, changes in (
        ("video", unseen, False), ("landmarks", unseen, False), ("audio", unheard, False),
        ("video", ~unseen, True), ("landmarks", ~unseen, True), ("audio", ~unheard, True),
    ):  # fmt: skip
        inputs = getattr(batch.windows, name).clone()
        inputs[chosen] = 1 - inputs[chosen]
        after = stage(batch._replace(windows=batch.windows._replace(**{name: inputs})))
        for part, hidden in ((0, unseen), (1, unheard)):
            one, other = ((x.faces, x.sound)[part].reshape(2, S, F, -1)[hidden] for x in (before, after))
            if changes:
                assert (one - other).abs().amax(dim=(1, 2)).min() > 1e-5, (name, part)
            else:
                torch.testing.assert_close(one, other)


def test_only_what_is_hidden_and_known_is_asked_for() -> None:
    """Reconstruction has no gradient on visible tokens, nor where there is no face or sound to know."""
    stage, batch = make_stage(), make_batch(2)
    seen, heard = batch.windows.video_ok.clone(), batch.windows.audio_ok.clone()
    seen[:, ::3], heard[:, ::5] = 0, 0
    batch = batch._replace(windows=batch.windows._replace(video_ok=seen, audio_ok=heard))
    rebuilt = stage(batch)
    rebuilt.faces.retain_grad()
    rebuilt.sound.retain_grad()
    terms = stage.terms(rebuilt, batch)
    torch.autograd.backward(terms["faces"] + terms["sound"])
    for values, visible, known in ((rebuilt.faces, batch.see, seen), (rebuilt.sound, batch.hear, heard)):
        asked = (values.grad != 0).any(dim=2)
        assert torch.equal(asked, (visible == 0) & (known == 1))


@pytest.mark.parametrize(
    "labels",
    [[1, 1, 0, 0], [NAN, NAN, NAN, NAN], [0, 0, 0, 1], [0, 0, 0, NAN], [0, 0, 1, 0]],
    ids=["generated", "unlabelled", "desync", "sync-unknown", "part-generated"],
)
def test_other_than_genuine_windows_are_refused(labels: list[float]) -> None:
    """One such window in a batch is one too many, and the message counts them."""
    stage, batch = make_stage(), make_batch(2)
    batch.windows.labels[1] = torch.tensor(labels)
    with pytest.raises(ValueError, match="genuine windows in sync: 1 of the 2"):
        stage.training_step(batch, 0)


def test_a_genuine_window_may_leave_its_parts_unlabelled() -> None:
    """If nothing in it is generated, its picture and sound are not either."""
    stage, batch = make_stage(), make_batch(2)
    batch.windows.labels[:, 1:3] = NAN
    assert torch.isfinite(stage.terms(stage(batch), batch)["loss"])


def test_everything_but_the_second_stages_layers_learns() -> None:
    """Encoders, prediction and synchrony get gradients, and the optimiser holds nothing else."""
    stage, batch = make_stage(), make_batch(2)
    stage.setup("fit")
    torch.autograd.backward(stage.terms(stage(batch), batch)["loss"])
    names = [name for name, _ in stage.net.named_parameters()]
    later = {name for name in names if name.removeprefix("fusion.").startswith(LATER)}
    assert {n for n, p in stage.net.named_parameters() if p.grad is None} == later
    held = {
        id(p) for group in stage.configure_optimizers()["optimizer"].param_groups for p in group["params"]
    }
    assert held == {id(p) for n, p in stage.named_parameters() if n.removeprefix("net.") not in later}
    stage.teardown("fit")
    assert all(p.requires_grad for p in stage.parameters())


def test_weights_scale_their_losses() -> None:
    """The loss is the weighted sum of its terms."""
    stage, batch = make_stage().eval(), make_batch(2)
    terms = stage.terms(stage(batch), batch)
    wanted = terms["faces"] + terms["sound"] + 0.5 * terms["sync"] + 0.01 * terms["contrast"]
    torch.testing.assert_close(terms["loss"], wanted)


def test_late_sound_peaks_at_a_positive_shift() -> None:
    """Sound that comes three pictures late peaks at 3, early sound below zero."""
    make = torch.Generator().manual_seed(0)
    video = functional.normalize(torch.randn(1, T, 64, generator=make), dim=-1)
    band = make_stage().net.fusion.band
    for shift in (-9, 0, 3):
        curve = (video @ video.roll(shift, dims=1).transpose(1, 2)).reshape(-1, T * T) @ band
        assert peak_shift(curve).tolist() == [shift]


def test_a_few_steps_lower_every_loss(store: ShardStore) -> None:
    """Hidden faces and sound, synchrony and contrast are learnt together on three windows."""
    batch: Masked = default_collate(items(store)[:3])
    stage = make_stage().train()
    optimiser = torch.optim.AdamW(stage.parameters(), lr=1e-2)
    first = stage.terms(stage(batch), batch)
    for _ in range(10):
        terms = stage.terms(stage(batch), batch)
        optimiser.zero_grad()
        torch.autograd.backward(terms["loss"])
        optimiser.step()
    for name, loss in terms.items():
        assert float(loss.detach()) < 0.95 * float(first[name].detach()), name


def test_synchrony_is_judged_by_the_true_shift(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peak counts where the sound really is: at shift 0 it is wrong for sound that comes late."""
    stage, batch = make_stage().eval(), make_batch(4)._replace(late=torch.tensor([0, 1, 2, -9]))
    rebuilt = stage(batch)
    rebuilt.sync = functional.one_hot(torch.full((4,), MAX_SHIFT), 2 * MAX_SHIFT + 1).float()
    logged: dict[str, Tensor] = {}
    monkeypatch.setattr(stage, "forward", lambda _: rebuilt)
    monkeypatch.setattr(stage, "log_dict", lambda figures, **_: logged.update(figures))
    stage.validation_step(batch, 0)
    assert float(logged["val/in_step"]) == 0.5


@pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")
def test_the_second_stage_goes_on_from_the_network(
    store: ShardStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning's run leaves a network that the second stage loads by its names, its heads untouched.

    Its figures are those of a whole epoch, under the names that the report knows.
    """
    stage = make_stage().train()
    before = {name: value.clone() for name, value in stage.net.state_dict().items()}
    losses: list[float] = []
    terms_of = stage.terms

    def recorded(rebuilt: Rebuilt, batch: Masked) -> dict[str, Tensor]:
        terms = terms_of(rebuilt, batch)
        if stage.training:
            losses.append(float(terms["loss"].detach()))
        return terms

    monkeypatch.setattr(stage, "terms", recorded)
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    loader = DataLoader(windows(store, size=4), batch_size=2)
    trainer.fit(stage, loader, DataLoader(windows(store, size=2, seed=1), batch_size=2))
    figures = {
        k.removeprefix("val/"): float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")
    }
    assert set(figures) == {"faces", "sound", "sync", "contrast", "loss", "in_step"}
    assert all(np.isfinite(v) for v in figures.values())
    assert len(losses) == 2
    assert losses[0] != losses[1]
    assert float(trainer.callback_metrics["train/loss"]) == pytest.approx(np.mean(losses), rel=1e-5)
    second = Avff(SMALL)
    second.load_state_dict(stage.net.state_dict())
    moved = {n for n, value in second.state_dict().items() if not torch.equal(value, before[n])}
    # What is familiar is measured when the model is exported, and not learnt.
    learnt = {n for n in before if not n.removeprefix("fusion.").startswith((*LATER, "novelty."))}
    assert moved == learnt
