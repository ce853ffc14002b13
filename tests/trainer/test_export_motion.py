"""A network with a motion head, served: its tokens carry what the head looks at, and nothing else changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from avff.engine.calibration import joined
from avff.engine.contract import CLIP_OUTPUTS, ENCODERS, GRAPHS, Affine
from avff.engine.features import audio_tensor, landmark_tensor, video_tensor
from avff.engine.model import load_model
from avff.engine.predictor import Predictor, StreamState
from avff.engine.rolling import probability
from avff.engine.spec import SPEC
from avff.trainer.export import export_model, graphs_of, random_inputs
from avff.trainer.model.avff import Avff
from avff.trainer.model.motion import raw_sound
from tests.support.engine import make_face, make_slice
from tests.support.training import CALIBRATION, SMALL, WITH_MOTION, random_windows, seeded_net
from tests.trainer.test_export import assert_same_numbers

T, S, WIDTH = SPEC.window_frames, SPEC.window_slices, SMALL.width
WIDTHS = {"video": WIDTH, "audio": WIDTH + 320, "landmarks": WIDTH + 184}
MOVING = replace(
    CALIBRATION,
    any={"av": Affine(2.0, -0.25, video=0.25, audio=0.25, motion=0.25, gain=0.75, shift=0.5)},
    parts={**CALIBRATION.parts, "motion": Affine(0.5, -0.25)},
    limits={},
)


@pytest.fixture(scope="module")
def net() -> Avff:
    return seeded_net(config=WITH_MOTION)


@pytest.fixture(scope="module")
def directory(net: Avff, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("motion")
    export_model(net, made, name="moving", calibration=MOVING, provenance={})
    return made


def session(directory: Path, graph: str) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(directory / f"{graph}.onnx"), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("graph", GRAPHS)
def test_onnx_equals_torch(net: Avff, directory: Path, graph: str, batch: int) -> None:
    """Every graph gives the network's numbers to 1e-4, alone or in a batch."""
    for name, spread in assert_same_numbers(net, directory, graph, batch).items():
        assert spread > 0.01, name


def test_every_column_of_the_answer_is_compared(net: Avff, directory: Path) -> None:
    """Windows differ in each of the heads' logits by far more than runtimes do."""
    inputs = random_inputs("fusion", net.token_widths(), 6)
    inputs |= {name: np.ones_like(inputs[name]) for name in ("video_ok", "audio_ok")}
    (clip,) = session(directory, "fusion").run(["clip"], inputs)
    assert clip.shape == (6, len(CLIP_OUTPUTS))
    assert (np.ptp(clip, axis=0) > 1e-3).all()


def test_widths_are_those_of_the_tokens(net: Avff, directory: Path) -> None:
    """Pictures carry nothing; the contract knows each encoder's width."""
    model = load_model(directory, threads=1)
    assert net.token_widths() == WIDTHS
    for name in ENCODERS:
        assert model.contract.token_shape(name) == (SPEC.slice_frames, WIDTHS[name])
        made = model.infer(name, random_inputs(name, WIDTHS, 3))["tokens"]
        assert made.shape == (3, SPEC.slice_frames, WIDTHS[name])
    model.close()
    assert seeded_net(config=SMALL).token_widths() == dict.fromkeys(ENCODERS, WIDTH)


@pytest.mark.parametrize("name", ["audio", "landmarks"])
def test_tokens_carry_the_input_as_it_came(directory: Path, name: str) -> None:
    """After the encoder's own width, to the bit: the mel bands by picture, the points and the pose."""
    inputs = random_inputs(name, WIDTHS, 2)
    (tokens,) = session(directory, name).run(["tokens"], inputs)
    given = torch.from_numpy(inputs[name])
    wanted = raw_sound(given) if name == "audio" else given
    np.testing.assert_array_equal(tokens[..., WIDTH:], wanted.numpy())


@torch.no_grad()
def streamed(net: Avff, windows: list[Tensor]) -> tuple[Tensor, ...]:
    """Encode slice by slice, lay the tokens side by side, fuse: clip, frames, sync and novelty."""
    graphs = graphs_of(net)
    tokens = [
        torch.cat([graphs[name](x[:, k]) for k in range(S)], dim=1)
        for name, x in zip(ENCODERS, windows, strict=False)
    ]
    made: tuple[Tensor, ...] = graphs["fusion"](*tokens, *windows[3:])
    return made


def test_served_graphs_equal_the_network(net: Avff) -> None:
    """Encoders on slices and the served fusion give what the network gives for whole windows."""
    windows = random_windows(3)
    windows[3][0, 10:30], windows[4][1, 5:25] = 0.0, 0.0
    windows[3][2] = 0.0
    with torch.no_grad():
        whole = net(*windows)
    clip, frames, sync, _ = streamed(net, windows)
    torch.testing.assert_close(clip, whole.all_heads(), rtol=0, atol=1e-4)
    torch.testing.assert_close(frames, whole.frames, rtol=0, atol=1e-5)
    torch.testing.assert_close(sync, whole.sync, rtol=0, atol=1e-5)
    assert float(clip[:, 4].std()) > 0.01


def test_motion_head_decides_on_motion_and_synchrony_alone(net: Avff) -> None:
    """Beside it the network is what it is without: any, picture and sound are the fusion graph's."""
    windows = random_windows(2)
    bare = seeded_net(config=SMALL)
    bare.load_state_dict({n: x for n, x in net.state_dict().items() if not n.startswith("motion.")})
    with torch.no_grad():
        one, other = net(*windows), bare(*windows)
    assert other.motion is None
    assert torch.equal(one.clip[:, :3], other.clip[:, :3])
    assert torch.equal(one.frames, other.frames)
    assert torch.equal(other.all_heads(), torch.cat([other.clip, torch.zeros(2, 1)], dim=1))
    assert (one.clip[:, 3] - other.clip[:, 3]).abs().min() > 1e-4
    assert torch.equal(one.all_heads()[:, 4:], one.motion)


def test_carried_values_are_not_novel(net: Avff) -> None:
    """How far a window is from the training data is read off the encoders' own tokens."""
    windows = random_windows(2)
    *_, before = streamed(net, windows)
    tokens = [torch.randn(2, T, WIDTHS[name]) for name in ENCODERS]
    others = [torch.cat([x[..., :WIDTH], 50 * torch.randn_like(x[..., WIDTH:])], dim=2) for x in tokens]
    fusion = graphs_of(net)["fusion"]
    with torch.no_grad():
        found = [fusion(*x, *windows[3:])[3] for x in (tokens, others)]
    assert torch.equal(found[0], found[1])
    assert (before > 0).all()


def test_stream_scores_what_the_network_says(net: Avff, directory: Path) -> None:
    """Through the engine's predictor, window by window, with the share of the motion head."""
    slices = [make_slice(k, face=make_face(seed=k)) for k in range(S + 2)]
    model = load_model(directory, threads=1)
    state = StreamState()
    made = [p for _, p in Predictor(model).predict([(state, piece) for piece in slices])][S - 1 :]
    model.close()
    there = torch.ones(1, T)
    for first, prediction in enumerate(made):
        window = slices[first : first + S]
        faces = [piece.face for piece in window if piece.face is not None]
        inputs = (
            np.stack([video_tensor(f.faces) for f in faces]),
            np.stack([audio_tensor(piece.audio) for piece in window]),
            np.stack([landmark_tensor(f.landmarks, f.motion) for f in faces]),
        )
        with torch.no_grad():
            heads = net(*(torch.from_numpy(x)[None] for x in inputs), there, there).all_heads()[0].numpy()
        expected = joined(MOVING.any["av"], MOVING.parts, heads.astype(np.float64))
        assert (prediction.modality, prediction.reason) == ("av", None)
        assert prediction.logit == pytest.approx(expected, abs=1e-3)
        motion = probability(0.5 * float(heads[4]) - 0.25)
        assert prediction.parts["motion"] == pytest.approx(motion, abs=1e-4)


@pytest.mark.parametrize("graph", GRAPHS)
def test_graph_suits_every_runtime(directory: Path, graph: str) -> None:
    """Only the batch is dynamic; none of the operators that other graphs do without either."""
    model = onnx.load(str(directory / f"{graph}.onnx"))
    onnx.checker.check_model(model, full_check=True)
    for value in (*model.graph.input, *model.graph.output):
        batch, *others = value.type.tensor_type.shape.dim
        assert batch.dim_param
        assert all(d.dim_value > 0 and not d.dim_param for d in others), value.name
    operators = [node.op_type for node in model.graph.node]
    assert not set(operators) & {"Loop", "If", "Scan", "NonZero", "TopK", "GridSample", "LSTM", "GRU", "Tanh"}
    # The norms of face and sound stand before any convolution that they could be folded into.
    assert operators.count("BatchNormalization") == (2 if graph == "fusion" else 0)
