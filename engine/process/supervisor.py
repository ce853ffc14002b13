"""The process that runs compiled engines, which may die, and its successors.

A process that crashes, hangs, or whose GPU runs out of memory or is lost, is ended and another one started,
after a pause that grows; when that has happened too often, it is an error for good.  Meanwhile calls raise
:class:`BackendDown`, which the predictor makes an abstention of; where nothing is lost by waiting, as
with files, they wait instead, and the call in which it happened is made again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from avff.engine.backend import Tensors
from avff.engine.backends.sidecar import Sidecar
from avff.engine.errors import BackendDown, BackendError, EngineError, EngineFileError
from avff.engine.process.child import REFUSALS
from avff.engine.process.handle import COMMAND
from avff.engine.process.restarts import RestartPolicy, Restarts
from avff.engine.process.serving import ServingProcess
from avff.engine.process.wire import Message, WireError

_POLL_S = 0.02
GRACE_S = 1.0
"""For a process that broke off: so that it can be told how it ended."""
_LEAVE_S = 0.5
"""For a process that is no longer needed; a thread that ends has a second."""
Say = Callable[[str], None]
Ask = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Limits:
    """How long to wait for the process.

    Attributes:
        start_s: until the engines are loaded; TensorRT-RTX compiles kernels the first time.
        answer_s: for one batch, which takes milliseconds.
        restarts: how often to start it again.
    """

    start_s: float = 180.0
    answer_s: float = 5.0
    restarts: RestartPolicy = field(default_factory=RestartPolicy)


class EngineProcess:
    """The process that serves, and its successors.  Used by one thread.

    Args:
        directory: folder of the engines.
        sidecar: what they must be, now and after every new start.
        patient: is asked whether calls wait while the process is started again; what it says may change.
        say: is told of breakdowns.
        command: that starts a process.
        limits: how long to wait for it.
    """

    def __init__(
        self,
        directory: Path,
        sidecar: Sidecar,
        *,
        patient: Ask,
        say: Say,
        command: Sequence[str] = COMMAND,
        limits: Limits | None = None,
    ) -> None:
        self._directory, self._sidecar = directory, sidecar
        self._patient, self._say, self._command = patient, say, command
        self._limits = limits or Limits()
        self._restarts = Restarts(self._limits.restarts)
        self._child: ServingProcess | None = None
        self._ready = False
        self._since_s = 0.0
        self._given_up: str | None = None

    def start(self) -> None:
        """Start the process and wait until it is ready.

        Raises:
            EngineFileError, ContractError, GpuUnavailable, BackendError: it does not get ready; it is not
                tried again.
        """
        try:
            self._child = self._spawn()
            message = self._first_of(self._child)
            if not message:
                ending = self._child.close(0.0 if message is None else GRACE_S)
                self._child = None
                raise BackendError(f"{self._directory}: the engine's process {ending} while it loaded them")
            self._welcome(message)
        except BaseException:  # an interruption too leaves no process behind
            self.close()
            raise

    def run(self, graph: str, inputs: Tensors, count: int) -> Tensors:
        """Run one graph on at most ``MAX_ITEMS`` items.

        Raises:
            BackendDown: the process broke down, now or before, and will be started again.
            BackendError: it broke down too often.
        """
        while True:
            try:
                return self._ask(self._running(), graph, inputs, count)
            except BackendDown:
                if not self._patient():
                    raise
                time.sleep(_POLL_S)

    def close(self) -> None:
        """End the process; twice is once."""
        if self._child is not None:
            self._child.close(_LEAVE_S)
            self._child = None
        self._given_up = self._given_up or "the engine was closed"

    def _running(self) -> ServingProcess:
        """Return the process if it is ready; take the next step towards that otherwise, without waiting."""
        if self._given_up is not None:
            raise BackendError(self._given_up)
        if self._child is None:
            if time.monotonic() < self._since_s:
                raise BackendDown("the engine's process is about to be started again")
            try:
                self._child = self._spawn()
            except BackendError as error:
                self._plan(str(error))
            self._since_s = time.monotonic()
        if not self._ready:
            self._await(self._child)
        return self._child

    def _await(self, child: ServingProcess) -> None:
        """Take note of a process that has got ready."""
        try:
            message = child.receive(0.0)
        except WireError:
            self._broke("the engine's process broke off while it loaded the engines", GRACE_S)
        if message is None:
            if time.monotonic() - self._since_s > self._limits.start_s:
                self._broke(f"the engine's process was not ready within {self._limits.start_s:g} s")
            raise BackendDown("the engine's process is starting")
        try:
            self._welcome(message)
        except (BackendError, EngineFileError) as error:  # a disk too may fail for a while
            self._end(GRACE_S)
            self._plan(str(error))
        except EngineError as error:  # other engines than before: starting again would not help
            self._give_up(str(error))
        self._say("the engine runs again")

    def _first_of(self, child: ServingProcess) -> Message | None:
        """Return the first message of a process: empty if it broke off, None if it takes too long."""
        try:
            return child.receive(self._limits.start_s)
        except WireError:
            return {}

    def _welcome(self, message: Message) -> None:
        """Take what a process says once it has loaded the engines, or has not."""
        refuse(message)
        self._ready = True
        self._restarts.started(time.monotonic())

    def _ask(self, child: ServingProcess, graph: str, inputs: Tensors, count: int) -> Tensors:
        try:
            reply = child.ask(graph, inputs, count, self._limits.answer_s)
        except WireError:
            self._broke("the engine's process broke off", GRACE_S)
        except BaseException:  # an interruption: this answer must not be there when the next one is awaited
            self._end(0.0)
            raise
        if reply is None:
            self._broke(f"the engine gave no answer within {self._limits.answer_s:g} s")
        if reply.get("done") != child.asked:
            self._end(GRACE_S)
            self._plan(f"the engine failed: {reply.get('failed', 'an answer to something else')}")
        self._restarts.worked(time.monotonic())
        return child.outputs(graph, count)

    def _broke(self, why: str, grace_s: float = 0.0) -> NoReturn:
        """End the process, and start another one later, or give up."""
        self._plan(f"{why}; it {self._end(grace_s)}")

    def _end(self, grace_s: float) -> str:
        """End the process and return in words how it ended."""
        assert self._child is not None, "there is one to end"
        child, self._child, self._ready = self._child, None, False
        return child.close(grace_s)

    def _plan(self, why: str) -> NoReturn:
        now_s = time.monotonic()
        again_s = self._restarts.failed(now_s)
        if again_s is None:
            self._give_up(f"{why}; that was breakdown {self._restarts.count}, it is not started again")
        self._since_s = again_s
        self._say(
            f"{why}; it is started again in {again_s - now_s:g} s "
            f"({self._restarts.count} of {self._limits.restarts.most})"
        )
        raise BackendDown(why)

    def _give_up(self, why: str) -> NoReturn:
        self._given_up = why
        raise BackendError(why)

    def _spawn(self) -> ServingProcess:
        return ServingProcess(self._directory, self._sidecar, command=self._command)


def refuse(message: Message) -> None:
    """Raise what a process says of engines that it did not load."""
    if "refused" in message:
        raise REFUSALS.get(str(message["refused"]), BackendError)(str(message.get("error")))
