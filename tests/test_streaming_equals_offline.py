"""One number for one window, whoever computes it: stream, file, batch, daemon, or the trainer's torch."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from avff.engine.calibration import joined
from avff.engine.contract import CLIP_OUTPUTS
from avff.engine.model import load_model
from avff.engine.offline import predictions_of_file, slices_of_file
from avff.engine.predictor import Predictor, StreamState
from avff.engine.slices import Prediction, Reason, Slice
from avff.engine.spec import SPEC
from avff.trainer.data.prepare import from_slices
from avff.trainer.data.windows import cut, to_batch
from tests.support.engine import DEMO, face_models
from tests.support.training import CALIBRATION, exported, make_clip, seeded_net, talking_clip

ROOT = Path(__file__).parents[1]
TOLERANCE = 1e-5
FULL = SPEC.window_slices - 1
"""Index of the first slice that completes a window."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.getbasetemp() / "untrained")


@pytest.fixture(scope="module")
def predictor(model: Path) -> Predictor:
    return Predictor(load_model(model, threads=1))


@pytest.fixture(scope="module")
def slices() -> list[Slice]:
    return slices_of_file(DEMO, face_models())


@pytest.fixture(scope="module")
def streamed(predictor: Predictor, slices: list[Slice]) -> list[Prediction]:
    """The stream's way: a slice at a time, tokens of the earlier ones kept."""
    state = StreamState()
    return [p for piece in slices for _, p in predictor.predict([(state, piece)])]


@pytest.fixture(scope="module")
def cut_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return talking_clip(tmp_path_factory.mktemp("media") / "cut.mp4", seconds=3.5)


@pytest.fixture(scope="module")
def fast(model: Path, cut_clip: Path) -> list[dict[str, Any]]:
    """The daemon's events for the cut at full speed."""
    return daemon_scores(cut_clip, model)


def assert_equal(found: Prediction, expected: Prediction) -> None:
    """Compare all that a prediction says."""
    assert (found.index, found.reason, found.modality) == (expected.index, expected.reason, expected.modality)
    assert (found.logit is None) == (expected.logit is None)
    if found.logit is None or expected.logit is None:
        return
    assert found.logit == pytest.approx(expected.logit, abs=TOLERANCE)
    assert found.parts == pytest.approx(dict(expected.parts), abs=TOLERANCE)
    for name in ("frames", "sync"):
        one, other = getattr(found, name), getattr(expected, name)
        np.testing.assert_allclose(one, other, rtol=0, atol=TOLERANCE, err_msg=name)


def assert_all_equal(found: Sequence[Prediction], expected: Sequence[Prediction]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert_equal(one, other)


def daemon_scores(clip: Path, model: Path, *options: str) -> list[dict[str, Any]]:
    """Score events of a real ``avffd`` process."""
    command = [sys.executable, "-m", "avff.daemon", "--source", clip, "--model", model, "--format", "jsonl"]
    done = subprocess.run(
        [*map(str, command), *options],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [e["type"] for e in events].count("summary") == 1
    return [e for e in events if e["type"] == "score"]


def probability(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def test_scores_differ_from_window_to_window(streamed: list[Prediction]) -> None:
    """The comparisons below would notice a mix-up: neighbouring windows are many tolerances apart."""
    assert [p.reason for p in streamed[:FULL]] == [Reason.TOO_SHORT] * FULL
    scores = [p.logit for p in streamed[FULL:] if p.logit is not None]
    assert len(scores) == len(streamed) - FULL > 30
    assert {p.modality for p in streamed[FULL:]} == {"av"}
    assert np.median(np.abs(np.diff(scores))) > 100 * TOLERANCE


@pytest.mark.parametrize("size", [3, 1000], ids=["in threes", "all at once"])
def test_batch_equals_slice_by_slice(
    predictor: Predictor, slices: list[Slice], streamed: list[Prediction], size: int
) -> None:
    """How many slices come at once makes no difference."""
    state = StreamState()
    parts = [slices[start : start + size] for start in range(0, len(slices), size)]
    batched = [p for part in parts for _, p in predictor.predict([(state, piece) for piece in part])]
    assert_all_equal(batched, streamed)


def test_kept_tokens_equal_recomputed_ones(
    predictor: Predictor, slices: list[Slice], streamed: list[Prediction]
) -> None:
    """Each window encoded from scratch, without a single token from before, gives the same prediction."""
    for last in range(FULL, len(slices)):
        state = StreamState()
        window = slices[last - FULL : last + 1]
        *_, (_, fresh) = predictor.predict([(state, piece) for piece in window])
        assert_equal(fresh, streamed[last])


def test_streams_in_one_batch_do_not_touch(
    predictor: Predictor, slices: list[Slice], streamed: list[Prediction]
) -> None:
    """A stream beside another one, half a clip behind, gets the scores it gets alone."""
    states, found = (StreamState(), StreamState()), (list[Prediction](), list[Prediction]())
    for k in range(12):
        pair = [(states[0], slices[k]), (states[1], slices[k + 20])]
        for state, made in predictor.predict(pair):
            found[states.index(state)].append(made)
    assert_all_equal(found[0], streamed[:12])
    assert_all_equal(found[1][FULL:], streamed[20 + FULL : 32])


def test_serving_equals_the_trainers_network(slices: list[Slice], streamed: list[Prediction]) -> None:
    """A window as training cuts it, through the torch network as a whole, scores what the stream scores.

    One path prepares, cuts and folds windows of a clip; the other encodes slices as they come.
    """
    prepared, clip = from_slices(slices), make_clip("demo.mp4")
    net = seeded_net()
    places = range(0, len(slices) - FULL, 5)
    windows = [cut(prepared, k * SPEC.slice_frames, SPEC.window_frames, clip) for k in places]
    batches = [to_batch(window, group=0, drop="") for window in windows]
    arguments = (torch.stack([getattr(b, name) for b in batches]) for name in batches[0]._fields[:5])
    with torch.no_grad():
        clips = net(*arguments).all_heads().double().numpy()
    by = CALIBRATION.any["av"]
    for k, logits in zip(places, clips, strict=True):
        head = dict(zip(CLIP_OUTPUTS, logits, strict=True))
        assert streamed[k + FULL].logit == pytest.approx(joined(by, CALIBRATION.parts, logits), abs=1e-4)
        for part, affine in CALIBRATION.parts.items():
            odds = affine.scale * head[part] + affine.offset
            assert streamed[k + FULL].parts[part] == pytest.approx(probability(odds), abs=1e-4)


def test_daemon_equals_offline(model: Path, predictor: Predictor) -> None:
    """Every event of the real daemon holds the number that the engine computes for the file."""
    offline = predictions_of_file(DEMO, face_models(), predictor)
    events = daemon_scores(DEMO, model)
    assert len(events) == len(offline)
    for event, expected in zip(events, offline, strict=True):
        assert event["t"] == pytest.approx(expected.end_ns / 1e9)
        assert event["reason"] == (None if expected.reason is None else str(expected.reason))
        if expected.logit is None:
            assert event["score"] is None
            continue
        assert event["score"] == pytest.approx(probability(expected.logit), abs=TOLERANCE)
        parts = {name: event["parts"][name] for name in expected.parts}
        assert parts == pytest.approx(dict(expected.parts), abs=TOLERANCE)


def test_realtime_equals_full_speed(model: Path, cut_clip: Path, fast: list[dict[str, Any]]) -> None:
    """Played at its own speed a file gets the same scores, and loses nothing.

    To the last digit but one: at full speed slices go through the encoders several at a time, which
    some processors round differently.
    """
    paced = daemon_scores(cut_clip, model, "--realtime")
    exact = ("t", "window", "reason", "modality", "coverage", "track", "dropped")
    assert [{k: e[k] for k in exact} for e in paced] == [{k: e[k] for k in exact} for e in fast]
    for one, other in zip(paced, fast, strict=True):
        near = [{"score": e["score"], "rolling": e["rolling"], **e["parts"]} for e in (one, other)]
        assert near[0] == pytest.approx(near[1], abs=2e-6)
    assert sum(e["score"] is not None for e in paced) >= 3
    assert {e["dropped"] for e in paced} == {0}
