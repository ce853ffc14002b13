"""What can go wrong in the engine, as one tree.

    EngineError
    ├── AssetError       a face model is missing, or is not the file it should be
    ├── MediaError       a file cannot be read as audio or video
    │   └── LiveError    a live input cannot be opened, or broke
    ├── SettingsError    a YAML file or option is wrong
    ├── ContractError    a model does not fit this program, or an input does not fit the model
    │   └── EngineFileError   a compiled engine is damaged, or was built for something else
    ├── BackendError     the inference runtime refused to load or run a graph
    │   ├── GpuUnavailable   there is no GPU, or no package to use it with
    │   └── BackendDown      the runtime broke down and is being started again; later calls may succeed
    ├── ExplainError     there is no score to explain
    └── SyncError        claps do not say how late the sound is

Every message names the thing and the way out, in one line.  None of these is
ever turned into a score.
"""


class EngineError(Exception):
    """Base of every error the engine raises on purpose."""


class AssetError(EngineError):
    """A face model is missing or its SHA-256 is wrong."""


class MediaError(EngineError):
    """A file cannot be opened or decoded as audio or video."""


class LiveError(MediaError):
    """A live input cannot be opened or broke.

    Attributes:
        reason: one word for programs, as ``docs/events.md`` lists them.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class SettingsError(EngineError):
    """A settings file or option holds an unknown key, a wrong type or a value out of bounds."""


class ContractError(EngineError):
    """A model's contract does not match this program, or a tensor does not match the contract."""


class EngineFileError(ContractError):
    """A TensorRT engine, or what is written beside it, is not what was built, or not for this runtime."""


class BackendError(EngineError):
    """The inference runtime could not load or run a graph."""


class GpuUnavailable(BackendError):
    """Compiled engines cannot be run here: no GPU, or no package to use it with."""


class BackendDown(BackendError):
    """The runtime's process broke down; it is started again, and this call has no answer."""


class ExplainError(EngineError):
    """No window, or not the wanted one, has a score that could be explained."""


class SyncError(EngineError):
    """What was seen and heard does not say how much later the sound is."""
