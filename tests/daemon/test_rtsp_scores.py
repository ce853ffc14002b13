"""A clip through a real RTSP server, scored by the real program, against the same clip as a file."""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
from pathlib import Path
from typing import Any

import pytest

from avff import engine
from tests.support.avffd import avffd, command, environment
from tests.support.rtsp import RtspServer, missing

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(missing() is not None, reason=missing() or ""),
]

CLIP = Path(engine.__file__).parent / "demo" / "talking_photo.mp4"
PIPELINE = (
    f"filesrc location={CLIP} ! qtdemux name=demux  demux.video_0 ! queue ! rtph264pay name=pay0 pt=96 "
    "config-interval=1  demux.audio_0 ! queue ! rtpmp4apay name=pay1 pt=97"
)


def _streamed(url: str, model_args: list[str], scored: int) -> list[dict[str, Any]]:
    """Score a stream until so many windows have a score; return these."""
    process = subprocess.Popen(
        command("--source", url, "--format", "jsonl", *model_args),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment(),
    )
    events: list[dict[str, Any]] = []
    try:
        assert process.stdout is not None
        while len(events) < scored:
            event = json.loads(process.stdout.readline())
            if event.get("score") is not None:
                events.append(event)
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(timeout=15) == 0
    finally:
        process.kill()
        process.communicate()
    return events


def test_stream_is_scored_like_its_file(model_args: list[str], scored: frozenset[str]) -> None:
    """Picture and sound keep their distance on the way; windows lie elsewhere, so medians are compared."""
    if "av" not in scored:
        pytest.skip("needs a model that scores picture and sound together")
    of_file = avffd("--source", CLIP, "--format", "jsonl", *model_args).scores
    with RtspServer(PIPELINE) as server:
        streamed = _streamed(server.url(), model_args, 20)
    assert {event["modality"] for event in streamed} == {"av"}
    assert statistics.median(event["coverage"]["face"] for event in streamed) > 0.9
    expected = statistics.median(event["score"] for event in of_file if event["score"] is not None)
    assert statistics.median(event["score"] for event in streamed) == pytest.approx(expected, abs=0.1)
