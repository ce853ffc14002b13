"""Turns a configuration into the parts that ``app.py`` joins.

Every function that loads a library or a model does so in the thread it is called
in: the stages call them from their own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from avff.daemon.app import Daemon
from avff.daemon.config import DaemonConfig
from avff.daemon.errors import DaemonError, ExitCode
from avff.daemon.runner import EngineRunner, LoadedEngine, SlicesFromMedia
from avff.daemon.sinks import console_sinks
from avff.daemon.sources import SourceSettings, expand, free_name, open_source
from avff.daemon.sources.base import Source
from avff.daemon.stream import StreamSettings


def daemon_from_config(config: DaemonConfig) -> Daemon:
    """Return a daemon that is ready to run; nothing is opened or loaded yet.

    Raises:
        DaemonError: there is no source, its URI makes no sense, or TensorRT has nothing to run.
    """
    if config.engine.backend == "tensorrt" and config.engine.directory is None:
        raise DaemonError(
            "--engine tensorrt needs a folder of engines; give --engine-dir DIR", ExitCode.USAGE
        )
    settings = SourceSettings(
        realtime=config.realtime, queues=config.queues, camera=config.camera,
        microphone=config.microphone, network=config.network,
    )  # fmt: skip
    sources = _sources(config, settings)
    live = any(source.live for source in sources)

    def patient() -> bool:
        # A file waits for an engine that is started again, but not beside a live stream; and no more once a
        # signal has come: the end has a deadline.
        return not (live or daemon.stopping)

    daemon = Daemon(
        sources,
        make_frontend,
        EngineRunner(lambda: load_engine(config, patient=patient), batch=config.engine.batch),
        console_sinks(config.format),
        settings=StreamSettings(
            config.rolling,
            config.queues,
            config.engine.batch,
            config.alarm.rule(config.rolling),
            config.explain,
        ),
    )
    return daemon


def _sources(config: DaemonConfig, settings: SourceSettings) -> list[Source]:
    """Open every URI there is, under names that differ.

    Raises:
        DaemonError: there is none, it makes no sense, or one name is to serve several.
    """
    uris = [config.source] if isinstance(config.source, str) else list(config.source or ())
    named = [each for uri in uris for each in expand(uri, config.name)]
    if not named:
        raise DaemonError("no source; give --source PATH, --source webcam or --source demo", ExitCode.USAGE)
    if config.name is not None and len(named) > 1:
        raise DaemonError(f"one --name for {len(named)} sources; give --source NAME=URI", ExitCode.USAGE)
    sources: dict[str, Source] = {}
    for uri, name in named:
        source = open_source(uri, name, settings)
        if source.name in sources:
            source = open_source(uri, free_name(source.name, sources), settings)
        sources[source.name] = source
    return list(sources.values())


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


def load_engine(config: DaemonConfig, *, patient: Callable[[], bool]) -> LoadedEngine:
    """Load the configured model.

    Args:
        config: all settings.
        patient: is asked, by the engine's thread, whether an engine that broke down is waited for.

    Raises:
        ContractError, BackendError: the model does not fit this program, or the runtime refuses it.
    """
    from avff.daemon.backends import load_by_choice
    from avff.engine.predictor import Predictor, StreamState

    model, backend = load_by_choice(config, patient=patient)
    return LoadedEngine(
        Predictor(model, hop_slices=config.engine.hop_slices),
        model.name,
        model.contract.calibration.threshold,
        StreamState,
        backend,
        model.close,
    )
