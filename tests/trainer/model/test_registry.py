"""Every architecture by its name: same questions, same answers, nothing built and left out."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import Tensor

from avff.engine.errors import SettingsError
from avff.engine.settings import load_settings
from avff.engine.spec import SPEC
from avff.trainer.config import RunSettings
from avff.trainer.data.windows import to_batch
from avff.trainer.losses import LossWeights, total_loss
from avff.trainer.model.avff import Architecture, Avff, AvffConfig
from avff.trainer.model.fusion import FusionOut
from avff.trainer.model.registry import answer, build, export_obstacle
from tests.support.samples import make_sample
from tests.trainer.model.networks import ALL, items, random_batch, small_config, small_net, unlike

T = SPEC.window_frames
TOKENS = {"avff-b": (8 * 196, 8 * 40)}
"""Tokens of picture and sound in a window; 64 each unless here."""


def tensors(out: FusionOut) -> dict[str, Tensor]:
    """Everything a network yields, by name."""
    (from_a, v), (from_v, a) = out.predicted
    named = {n: x for n, x in vars(out).items() if isinstance(x, Tensor)}
    return {**named, "from_a": from_a, "v": v, "from_v": from_v, "a": a}


@pytest.mark.parametrize("architecture", ALL)
def test_answers_have_the_documented_shapes(architecture: Architecture) -> None:
    """Losses, calibration and validation take every architecture's answer for the streaming network's."""
    with torch.no_grad():
        out = answer(small_net(architecture), random_batch(2))
    pictures, sounds = TOKENS.get(architecture, (T, T))
    assert {name: tuple(x.shape) for name, x in tensors(out).items()} == {
        "clip": (2, 4),
        "frames": (2, T, 3),
        "sync": (2, 31),
        "sync_video": (2, T, 64),
        "sync_audio": (2, T, 64),
        "from_a": (2, pictures, 16),
        "v": (2, pictures, 16),
        "from_v": (2, sounds, 16),
        "a": (2, sounds, 16),
    }
    assert out.all_heads().shape == (2, 5)


@pytest.mark.parametrize("architecture", [a for a in ALL if a != "avff-s"])
def test_one_window_alone_equals_the_same_window_in_a_batch(architecture: Architecture) -> None:
    """A batch of 1 equals a batch of N, whatever the batch mates lack."""
    net, batch = small_net(architecture), random_batch(3)
    batch.video_ok[1], batch.audio_ok[2] = 0.0, 0.0
    with torch.no_grad():
        together = answer(net, batch)
        for i in range(3):
            alone = answer(net, items(batch, slice(i, i + 1)))
            for name in ("clip", "frames"):
                torch.testing.assert_close(
                    getattr(alone, name)[0], getattr(together, name)[i], rtol=0, atol=1e-5, msg=name
                )
    assert (together.clip[0] - together.clip[1]).abs().max() > 1e-3


@pytest.mark.parametrize("architecture", [a for a in ALL if a != "avff-s"])
def test_every_parameter_reaches_an_answer(architecture: Architecture) -> None:
    """No layer is built and then left out."""
    net, batch = small_net(architecture), random_batch(2)
    batch.video_ok[0, :8], batch.audio_ok[1, 8:16] = 0.0, 0.0
    out = answer(net, batch)
    torch.autograd.backward(out.clip.square().sum() + out.frames.square().sum())
    idle = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


@pytest.mark.parametrize("architecture", ALL)
def test_columns_mean_what_their_names_say(architecture: Architecture) -> None:
    """The video logit moves with the picture alone, the audio logit with the sound alone, any with both."""
    net, batch = small_net(architecture), random_batch(2)
    other = batch._replace(video=unlike(batch.video), landmarks=unlike(batch.landmarks))
    voice = batch._replace(audio=unlike(batch.audio), sound=unlike(batch.sound))
    with torch.no_grad():
        before, picture, sound = (answer(net, b) for b in (batch, other, voice))
    sees, hears = architecture != "audio-only", architecture != "video-only"
    for name in ("clip", "frames"):
        moved = [
            [bool((getattr(out, name) - getattr(before, name))[..., k].any()) for k in range(3)]
            for out in (picture, sound)
        ]
        assert moved == [[sees, sees, False], [hears, False, hears]], name


@pytest.mark.parametrize("architecture", ["avff-b", "late-fusion", "audio-only"])
def test_training_teaches_that_one_means_fake(architecture: Architecture) -> None:
    """A few steps of the real loss raise the answer for the fake window over that for the genuine one."""
    net, batch = build(small_config(architecture)).train(), random_batch(2)
    for part in (batch.video, batch.landmarks, batch.audio, batch.sound):
        part[1] *= 0.2
    batch.labels[1, :3], batch.frame_labels[1] = 1.0, 1.0
    optimiser = torch.optim.Adam(net.parameters(), 5e-3)
    losses = []
    for _ in range(4):
        out = answer(net, batch)
        loss = total_loss(
            out, batch.labels, batch.frame_labels, batch.video_ok, batch.audio_ok, LossWeights()
        )["loss"]
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert out.clip[1, 0] > out.clip[0, 0]


@pytest.mark.parametrize(("withheld", "hidden"), [("video_ok", ("video", "landmarks")), ("audio_ok", ())])
@pytest.mark.parametrize("architecture", ALL)
def test_withheld_media_does_not_reach_the_answers(
    architecture: Architecture, withheld: str, hidden: tuple[str, ...]
) -> None:
    """With a modality withheld, any pictures or sound give the same answer, and it differs from the whole."""
    net, whole = small_net(architecture), random_batch(2)
    batch = whole._replace(**{withheld: torch.zeros(2, T)})
    changed = batch._replace(**{n: unlike(getattr(batch, n)) for n in hidden or ("audio", "sound")})
    with torch.no_grad():
        everything, one, two = (answer(net, b) for b in (whole, batch, changed))
    assert torch.equal(one.clip, two.clip)
    assert torch.equal(one.frames[..., 0], two.frames[..., 0])
    blind_to_it = {"audio-only": "video_ok", "video-only": "audio_ok"}.get(architecture) == withheld
    assert torch.equal(everything.clip, one.clip) == blind_to_it


def test_batches_hold_the_waveform_of_their_window() -> None:
    """The sound of a batch is what its spectra were computed from, context first."""
    sample = make_sample(3)
    batch = to_batch(sample, group=0, drop="")
    assert batch.sound.dtype == torch.float32
    assert torch.equal(batch.sound, torch.from_numpy(sample.audio))
    assert batch.sound.shape == (352 + 40_960,)


def test_default_is_the_streaming_network() -> None:
    """A configuration that says nothing is avff-s, and the paper's size goes with its name."""
    assert isinstance(build(AvffConfig()), Avff)
    size = ("width", "heads", "depth")
    for architecture in ALL:
        found = asdict(AvffConfig(architecture=architecture))
        expected = (768, 12, 12) if architecture == "avff-b" else (128, 4, 2)
        assert tuple(found[name] for name in size) == expected
    assert AvffConfig(architecture="avff-b", depth=3).depth == 3


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("{architecture: avff-x}", "'avff-s'"),
        ("{width: 100, heads: 3}", "heads (3) must divide width (100)"),
        ("{recompute: true}", "recompute is for avff-b"),
        ("{pooling: max}", "'mean' or 'lse'"),
        ("{pooling: lse, pooling_temperature: 0}", "pooling_temperature must be above 0, not 0"),
        ("{pooling_temperature: 2}", "a mean has none"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(tmp_path: Path, setting: str, told: str) -> None:
    """An unknown architecture or an impossible size is named before anything is built."""
    file = tmp_path / "recipe.yaml"
    file.write_text(f"name: trial\nmix: {{generated: 1}}\nmodel: {setting}\n")
    with pytest.raises(SettingsError, match="model") as error:
        load_settings(file, RunSettings)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_only_the_papers_size_cannot_be_exported() -> None:
    """Every other architecture serves a stream."""
    told = {a: export_obstacle(AvffConfig(architecture=a)) for a in ALL}
    assert [a for a, reason in told.items() if reason] == ["avff-b"]
    assert "GFLOP" in str(told["avff-b"])
