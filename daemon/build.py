"""Turns a configuration into the parts that ``app.py`` joins.

Every function that loads a library or a model does so in the thread it is called
in: the stages call them from their own.
"""

from __future__ import annotations

import sys

from avff.daemon.app import Daemon
from avff.daemon.config import DaemonConfig, EngineSettings
from avff.daemon.errors import DaemonError, ExitCode
from avff.daemon.runner import EngineRunner, LoadedEngine, SlicesFromMedia
from avff.daemon.sinks import console_sinks
from avff.daemon.sources import SourceSettings, open_source
from avff.daemon.sources.base import Source
from avff.daemon.stream import StreamSettings


def daemon_from_config(config: DaemonConfig) -> Daemon:
    """Return a daemon that is ready to run; nothing is opened or loaded yet.

    Raises:
        DaemonError: there is no source, or its URI makes no sense.
    """
    if config.source is None:
        raise DaemonError("no source; give --source PATH, --source webcam or --source demo", ExitCode.USAGE)
    settings = SourceSettings(
        realtime=config.realtime,
        queues=config.queues,
        camera=config.camera,
        microphone=config.microphone,
    )
    return Daemon(
        [open_source(config.source, config.name, settings)],
        make_frontend,
        EngineRunner(lambda: load_engine(config), batch=config.engine.batch),
        console_sinks(config.format),
        settings=StreamSettings(
            config.rolling,
            config.queues,
            config.engine.batch,
            config.alarm.rule(config.rolling),
            config.explain,
        ),
    )


def make_frontend(source: Source) -> SlicesFromMedia:
    """Return the engine's front-end for an open source, with face models of its own.

    Raises:
        AssetError: the face models can neither be read nor fetched.
    """
    from avff.engine.faces.models import load_face_models
    from avff.engine.frontend import MAX_SKEW_NS, Frontend
    from avff.engine.threads import stay_in_caller

    stay_in_caller()
    return Frontend(
        load_face_models(progress=sys.stderr.isatty()) if source.has_video else None,
        has_video=source.has_video,
        has_audio=source.has_audio,
        max_skew_ns=MAX_SKEW_NS if source.max_skew_ns is None else source.max_skew_ns,
    )


def load_engine(config: DaemonConfig) -> LoadedEngine:
    """Load the configured model.

    Raises:
        ContractError, BackendError: the model does not fit this program, or the runtime refuses it.
    """
    from avff.engine.model import load_model
    from avff.engine.predictor import Predictor, StreamState

    settings: EngineSettings = config.engine
    model = load_model(config.model, threads=settings.threads)
    predictor = Predictor(model, hop_slices=settings.hop_slices)
    return LoadedEngine(predictor, model.name, model.contract.calibration.threshold, StreamState)
