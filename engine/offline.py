"""A whole file through the engine, without threads: for training data, evaluation and tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from avff.engine.decode import open_media
from avff.engine.errors import MediaError
from avff.engine.faces.models import FaceModels
from avff.engine.frontend import Frontend
from avff.engine.predictor import Predictor, StreamState
from avff.engine.slices import Prediction, Slice


def iterate_slices(path: Path, models: FaceModels) -> Iterator[Slice]:
    """Decode a file and cut it into slices, exactly as the daemon does, one after the other.

    A file whose time stamps leap is cut to that point.

    Raises:
        MediaError: the file cannot be read.
    """
    with open_media(path) as reader:
        frontend = Frontend(models, has_video=reader.has_video, has_audio=reader.has_audio)
        for item in reader:
            try:
                made = frontend.push(item)
            except MediaError:
                break
            yield from made
    yield from frontend.flush()


def slices_of_file(path: Path, models: FaceModels) -> list[Slice]:
    """Return all of :func:`iterate_slices`: some 1.4 MB a second of media.

    Raises:
        MediaError: the file cannot be read.
    """
    return list(iterate_slices(path, models))


def predictions_of_file(path: Path, models: FaceModels, predictor: Predictor) -> list[Prediction]:
    """Score a file window by window; the daemon's events for it hold the same numbers.

    Raises:
        MediaError: the file cannot be read.
        BackendError, ContractError: the model failed.
    """
    state = StreamState()
    return [p for s in slices_of_file(path, models) for _, p in predictor.predict([(state, s)])]
