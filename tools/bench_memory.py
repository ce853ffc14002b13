"""How much GPU memory a training step takes: measured on a GPU, computed where there is none.

The computation runs the trainer's own step on tensors that have shapes and no numbers
(``FakeTensorMode``), and counts every storage from its first use until it is freed, in the
CUDA allocator's blocks of 512 bytes.  Two things that a GPU does otherwise than the CPU whose
operators are traced are put in their places: dropout keeps a mask of one byte, and in mixed
precision softmax and its like compute in 32 bits.

What the allocator does not see is not in the figure: the CUDA context, the workspaces of cuDNN
and cuBLAS inside a call, and what fragmentation loses.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

from avff.engine.spec import SPEC
from avff.trainer.config import TrainSettings
from avff.trainer.data.windows import Batch
from avff.trainer.model.avff import AvffConfig
from avff.trainer.model.registry import build
from avff.trainer.module import AvffModule

_BLOCK = 512
_IN_32_BITS = frozenset(
    ("softmax", "log_softmax", "layer_norm", "pow", "sum", "exp", "log", "norm", "cosine_similarity")
)
"""Of what PyTorch's mixed precision computes in 32 bits on CUDA only, all that the networks use."""
_aten = torch.ops.aten


class AllocatorTrace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all storages that operators return while it is active.

    What depends on numbers is answered for the largest case: every window is taken to be genuine, and so to
    have a part in each loss.

    Attributes:
        live: bytes in use now.
        peak: most bytes in use at once.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is _aten._local_scalar_dense.default:
            return 1.0
        if func is _aten.index.Tensor and args[1][0] is not None and args[1][0].dtype == torch.bool:
            args = args[0], [torch.arange(len(args[0]), device=args[0].device)]
        result = func(*args, **(kwargs or {}))
        for leaf in tree_iter(result):
            if isinstance(leaf, Tensor):
                self._note(leaf.untyped_storage())
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._sizes:
            return
        self._sizes[key] = in_blocks(storage.nbytes())
        self.live += self._sizes[key]
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._freed, key)

    def _freed(self, key: int) -> None:
        self.live -= self._sizes.pop(key)


class AsOnGpu(TorchFunctionMode):
    """Makes the CPU's operators keep for the way back what CUDA's keep."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is functional.dropout:
            return _fused_dropout(*args, **kwargs)
        if torch.is_autocast_enabled("cpu") and getattr(func, "__name__", "") in _IN_32_BITS:
            args, kwargs = tree_map(_in_32_bits, (args, kwargs))
        return func(*args, **kwargs)


def in_blocks(size: int) -> int:
    """Round a size in bytes up to what the CUDA allocator hands out."""
    return -(-size // _BLOCK) * _BLOCK


def computed_peak(config: AvffConfig, batch: int, train: TrainSettings, *, mixed: bool) -> int:
    """Return the most bytes in use during updates that accumulate several batches; nothing is computed.

    Args:
        config: the network, all of which is trained.
        batch: windows in a step.
        train: optimiser and losses.
        mixed: bfloat16 mixed precision, or 32 bits.
    """
    trace = AllocatorTrace()
    with FakeTensorMode(allow_non_fake_inputs=True), trace, AsOnGpu():
        train_twice(build(config), blank_windows(batch), train, mixed=mixed)
    return trace.peak


def measured_peak(config: AvffConfig, batch: int, train: TrainSettings, *, mixed: bool) -> int:
    """Return the same from the allocator of the GPU that is there; arguments as for :func:`computed_peak`."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    with torch.device("cuda"):
        train_twice(build(config), blank_windows(batch), train, mixed=mixed)
    return int(torch.cuda.max_memory_allocated())


def train_twice(net: nn.Module, batch: Batch, train: TrainSettings, *, mixed: bool) -> None:
    """Make one update and carry one more batch forward and back, as accumulation does it.

    By then all is there at once: the optimiser's state, the gradients kept from the batch before, and
    the activations of the second.
    """
    kind = batch.video.device.type
    module = bare_module(net, train, kind)
    optimiser = module.configure_optimizers()["optimizer"]
    for group in optimiser.param_groups:
        group["foreach"] = True  # the default on a GPU: faster, and a copy of the weights larger
    for updates in (True, False):
        with quiet(), torch.autocast(kind, torch.bfloat16, enabled=mixed):
            loss = module.training_step(batch, 0)
        _backward(loss)
        if updates:
            nn.utils.clip_grad_norm_(module.parameters(), train.gradient_clip)
            optimiser.step()
        del loss


def bare_module(net: nn.Module, train: TrainSettings, device: str) -> AvffModule:
    """Return the supervised stage around a network that is on the device already, with nothing frozen."""
    whole = train.model_copy(update={"frozen_encoders": False})
    # Moved while it is empty: it must know its device, and tensors without numbers cannot be moved.
    module = AvffModule(nn.Identity(), whole, ["real"], 2).to(device)
    module.net = net.train()
    return module


def blank_windows(count: int) -> Batch:
    """Return windows of a batch, genuine and with all evidence, on the default device."""
    s, f, t, side = SPEC.window_slices, SPEC.slice_frames, SPEC.window_frames, SPEC.input_px
    return Batch(
        video=torch.zeros(count, s, f, 3, side, side),
        audio=torch.zeros(count, s, 2, SPEC.bands, SPEC.slice_spectra),
        landmarks=torch.zeros(count, s, f, SPEC.landmark_values),
        video_ok=torch.ones(count, t),
        audio_ok=torch.ones(count, t),
        labels=torch.zeros(count, 4),
        frame_labels=torch.zeros(count, t, 3),
        group=torch.zeros(count, dtype=torch.int64),
        sound=torch.zeros(count, SPEC.context_samples + s * SPEC.slice_samples),
    )


def largest_batch(peak: Callable[[int], int], limit: int) -> int:
    """Return the largest batch whose peak is within the limit; 0 if not even one window is.

    Activations grow by the same for every window, so two peaks foretell the third; the answer itself is
    traced, and corrected while it is wrong.

    Args:
        peak: bytes by batch.
        limit: in bytes.
    """
    known = {batch: peak(batch) for batch in (1, 2)}
    batch = max(0, (limit - known[1]) // (known[2] - known[1]) + 1)

    def fits(size: int) -> bool:
        if size not in known:
            known[size] = peak(size)
        return known[size] <= limit

    while batch > 0 and not fits(batch):
        batch -= 1
    while fits(batch + 1):
        batch += 1
    return batch


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning from saying that there is no trainer to log to."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _backward(loss: Tensor) -> None:
    """Go back without ``Tensor.backward``, which suspends :class:`AsOnGpu`: what is recomputed needs it."""
    engine: Any = torch.autograd.Variable._execution_engine
    engine.run_backward((loss,), (torch.ones_like(loss),), False, False, (), True, True)


def _fused_dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    del inplace
    return torch.native_dropout(x, p, True)[0] if training and p else x


def _in_32_bits(leaf: Any) -> Any:
    return leaf.float() if isinstance(leaf, Tensor) and leaf.dtype == torch.bfloat16 else leaf
