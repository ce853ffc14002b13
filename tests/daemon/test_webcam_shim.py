"""``avffd --source webcam`` with OpenCV and V4L2 as they are; only the kernel's camera is ours."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.avffd import Done, assert_refused, avffd, command, environment
from tests.support.portrait import talking
from tests.support.v4l2 import DEVICE, SIZE, build_shim, camera_environment, compiler, write_pictures

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(compiler() is None, reason="needs Linux, and gcc to build the camera"),
]

Camera = Callable[..., dict[str, str]]
SOURCE = ["--source", f"webcam:{DEVICE}", "--mic", "none", "--format", "jsonl"]


@pytest.fixture(scope="session")
def camera(tmp_path_factory: pytest.TempPathFactory) -> Camera:
    """Makes the environment of a process that has a camera before a talking face."""
    folder = tmp_path_factory.mktemp("camera")
    library = build_shim(folder)
    pictures = write_pictures(folder / "pictures.yuyv", talking(SIZE), 50)
    return lambda **how: camera_environment(library, pictures, **how)


def _stopped_after(events: int, model_args: list[str], extra: dict[str, str]) -> Done:
    """Run until so many scores are out, then send SIGINT."""
    process = subprocess.Popen(
        command(*SOURCE, *model_args),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(extra),
    )
    try:
        assert process.stdout is not None
        head: list[str] = []
        while sum('"type":"score"' in line for line in head) < events:
            head.append(process.stdout.readline())
            assert head[-1], "it ended by itself"
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=10)
    finally:
        process.kill()
        process.wait()
    return Done(process.returncode, "".join(head) + stdout, stderr, 0.0)


def test_camera_is_scored_by_the_picture_until_sigint(
    camera: Camera, model_args: list[str], scored: frozenset[str]
) -> None:
    """Too short at first, then video alone; the first signal ends it with a summary and 0."""
    done = _stopped_after(12, model_args, camera())
    assert (done.code, done.complaints) == (0, [])
    early, full = done.scores[:7], done.scores[7:]
    assert {(event["score"], event["reason"]) for event in early} == {(None, "too_short")}
    assert len(full) >= 5
    for event in full[1:]:  # the first may miss pictures while the network warms up
        _assert_judged_by_video(event, scored)
    assert done.summary["ended"] == "stopped"
    assert done.summary["stream"] == f"webcam:{DEVICE}"
    assert "stopped early" in done.stderr
    latencies = sorted(event["latency_ms"] for event in full)
    assert latencies[len(latencies) // 2] < 320  # below a hop: nothing waits in a buffer


def _assert_judged_by_video(event: dict[str, Any], scored: frozenset[str]) -> None:
    assert event["modality"] == "video"
    assert event["coverage"]["face"] > 0.7
    assert event["coverage"]["audio"] == 0
    assert (event["parts"]["audio"], event["parts"]["desync"]) == (None, None)
    if "video" in scored:
        assert 0 <= event["score"] <= 1
    else:
        assert (event["score"], event["reason"]) == (None, "unsupported_modality")


def test_media_time_follows_the_clock(camera: Camera, model_args: list[str]) -> None:
    """A hop is 320 ms of pictures that came 40 ms apart, whatever the camera was asked for."""
    done = _stopped_after(6, model_args, camera())
    assert [event["t"] for event in done.scores[:6]] == [0.32, 0.64, 0.96, 1.28, 1.6, 1.92]
    assert 0.5 < done.scores[5]["coverage"]["video"] <= 6 / 8  # of a window of 8 hops


def test_busy_camera_is_named(camera: Camera, model_args: list[str]) -> None:
    """A camera that streams to another program opens, but refuses to be set up."""
    done = avffd(*SOURCE, *model_args, extra=camera(mode="busy"))
    assert_refused(done, 69, f"camera {DEVICE} cannot be opened", "busy in another program")
    assert done.seconds < 5


def test_camera_without_a_picture_is_named(camera: Camera, model_args: list[str]) -> None:
    """Streaming that never gives a picture ends after a few seconds, though the driver still waits."""
    done = avffd(*SOURCE, *model_args, extra=camera(mode="stall"))
    assert_refused(done, 69, f"camera {DEVICE} gives no picture", "is another program using it?")
    assert done.seconds < 12


@pytest.mark.parametrize("mode", ["unplug", "stall"])
def test_lost_camera_is_named_after_its_scores(camera: Camera, model_args: list[str], mode: str) -> None:
    """What it showed is scored and summed up; then one line and the code for a lost camera."""
    done = avffd(*SOURCE, *model_args, extra=camera(mode=mode, after=50))
    assert done.code == 69
    assert done.complaints == [f"avffd: camera {DEVICE}: no picture for 2 s; was it unplugged?"]
    assert done.scores
    assert done.summary["ended"] == "lost"
    assert "broke off" in done.stderr
