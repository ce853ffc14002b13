"""``make gpu-check`` on scripted machines: every way a check can end, and none at all without a GPU."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from onnx import ModelProto

from avff.engine.errors import BackendError
from avff.engine.model import Model, load_model
from avff.trainer.engines import parity, windows
from avff.trainer.engines.agreement import Limits
from avff.trainer.engines.chain import of_onnx
from avff.trainer.engines.source import read_model
from tests.support.engines import altered, demo_clips, scale, small_model
from tools import engine_parity, gpu_check, gpu_kit
from tools.bench_page import OPEN_GPU
from tools.gpu_kit import Kit, Ran

AGREED = "on 100 windows logits differ by 0.005 at most, AUC by 0"
GOALS = [
    {"what": "hop, ONNX FP32", "value": 50.0, "unit": "ms", "limit": 10.0, "at_most": True},
    {"what": "hop, TensorRT FP16, p99", "value": 1.5, "unit": "ms", "limit": 2.0, "at_most": True},
    {"what": "TensorRT against torch", "value": 2.5, "unit": "x", "limit": 3.0, "at_most": False},
]
HELD = "build_engine: FP16 holds: on 100 windows logits differ by 0.004 at most, AUC by 0"


class ScriptedKit(Kit):
    """A machine whose commands have their answers written down.

    Args:
        answers: by a word of the command; the first that is in it counts.
        goals: that the benchmark gives.
    """

    def __init__(self, answers: dict[str, Ran], goals: Sequence[dict[str, object]] = ()) -> None:
        super().__init__(Path("/nowhere"))
        self.commands: list[list[str]] = []
        self._answers, self._goals = answers, goals

    def run(self, command: Sequence[str], timeout_s: float = 0.0) -> Ran:
        self.commands.append(list(command))
        if "--json" in command and self._goals:
            Path(command[-1]).write_text(json.dumps({"goals": self._goals}), encoding="utf-8")
        whole = " ".join(command)
        return next(answer for word, answer in self._answers.items() if word in whole)


ALL_WELL = {
    "nvidia-smi": Ran(0, ("Some Card, 8.9, 580.1",), ()),
    "build_engine.py": Ran(0, (), (HELD, "build_engine: engines in x")),
    "engine_parity": Ran(0, (AGREED,), ()),
    "pytest": Ran(0, ("=== 12 passed, 3 deselected in 4.2s ===",), ()),
    "bench.py": Ran(1, (), ()),
}


@pytest.fixture(autouse=True)
def packages(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Both builders are installed."""
    installed = {"tensorrt": "10.16.1", "tensorrt-rtx": "1.7.1", "torch": "2.14.1"}
    monkeypatch.setattr(gpu_kit, "_version", lambda name: installed.get(name, "not installed"))
    return installed


def _checked(kit: Kit, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    code = gpu_check.main(["--data", "demo"], kit)
    return code, capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    "answer", [Ran(127, (), ("nvidia-smi: not found",)), Ran(9, (), ("no driver",)), Ran(0, (), ())]
)
def test_without_a_gpu_every_row_is_open(answer: Ran, capsys: pytest.CaptureFixture[str]) -> None:
    """No driver's tool, no driver, no card: nothing is run, and the exit code says so."""
    kit = ScriptedKit({"nvidia-smi": answer})
    code, lines = _checked(kit, capsys)
    assert (code, len(kit.commands)) == (77, 1)
    assert f": {OPEN_GPU}. tensorrt 10.16.1, tensorrt-rtx 1.7.1, pycuda not installed" in lines[0]
    rows = lines[4:]
    assert len(rows) == 6
    assert all(row.endswith(f"| {OPEN_GPU} | open |") for row in rows)


def test_this_machine_is_asked_for_its_gpu() -> None:
    """A command that is not there is an answer, too."""
    kit = Kit(gpu_check.ROOT)
    assert kit.run(["avff-no-such-command"]).code == 127
    assert kit.run(["sh", "-c", "echo one; echo two >&2; exit 3"]) == Ran(3, ("one",), ("two",))


def test_a_gpu_on_which_all_holds_but_one_goal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Figures, card and driver are in the table; the CPU's goals are none of its business."""
    kit = ScriptedKit(ALL_WELL, GOALS)
    page = tmp_path / "gpu.md"
    assert gpu_check.main(["--data", "demo", "--page", str(page)], kit) == 1
    lines = page.read_text(encoding="utf-8").splitlines()
    assert capsys.readouterr().out.splitlines() == lines
    assert ": Some Card, compute capability 8.9, driver 580.1. " in lines[0]
    assert lines[4:] == [
        f"| tensorrt: engines built | {HELD.removeprefix('build_engine: ')} | holds |",
        f"| tensorrt: engines on the GPU against FP32 | {AGREED} | holds |",
        f"| rtx: engines built | {HELD.removeprefix('build_engine: ')} | holds |",
        f"| rtx: engines on the GPU against FP32 | {AGREED} | holds |",
        "| tests marked gpu | 12 passed, 3 deselected in 4.2s | holds |",
        "| hop, TensorRT FP16, p99 | 1.5 ms (≤ 2 ms) | holds |",
        "| TensorRT against torch | 2.5 x (≥ 3 x) | FAILED |",
    ]
    (timed,) = (command for command in kit.commands if "tools/bench.py" in command)
    assert timed[timed.index("--engines") + 1].endswith("tensorrt")


def test_all_of_it_holds(capsys: pytest.CaptureFixture[str]) -> None:
    assert _checked(ScriptedKit(ALL_WELL, GOALS[:2]), capsys)[0] == 0


@pytest.mark.parametrize(
    ("word", "answer", "row"),
    [
        ("build_engine.py", Ran(1, (), ("build_engine: FP16 does not",)), "FP16 does not | FAILED |"),
        ("engine_parity", Ran(1, (), ("engine_parity: NaN",)), "engine_parity: NaN | FAILED |"),
        ("engine_parity", Ran(-9, (), ()), "exit code -9 | FAILED |"),
        ("pytest", Ran(1, ("= 1 failed, 2 passed =",), ()), "1 failed, 2 passed | FAILED |"),
        ("pytest", Ran(0, ("= 9 skipped =",), ()), "9 skipped | FAILED |"),
        ("bench.py", Ran(1, (), ("out of memory",)), "out of memory | FAILED |"),
    ],
)  # fmt: skip
def test_what_does_not_hold_fails(
    word: str, answer: Ran, row: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One by one; the rest is checked all the same."""
    kit = ScriptedKit({**ALL_WELL, word: answer}, () if word == "bench.py" else GOALS[:2])
    code, lines = _checked(kit, capsys)
    assert code == 1
    assert any(line.endswith(row) for line in lines)
    assert any("pytest" in command for command in kit.commands)


def test_what_cannot_be_had_here_is_open(
    packages: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A builder that is not installed, a card the other does not build for, no tests, nothing to time."""
    packages["tensorrt"] = "not installed"
    refusal = "build_engine: tensorrt_rtx 1.7 cannot build for compute capability 9.0; it offers 7.5"
    answers = {
        **ALL_WELL, "nvidia-smi": Ran(0, ("Data Card, 9.0, 580.1",), ()),
        "build_engine.py": Ran(70, (), (refusal,)), "pytest": Ran(5, ("no tests ran",), ()),
    }  # fmt: skip
    kit = ScriptedKit(answers)
    code, lines = _checked(kit, capsys)
    assert code == 77
    assert all(line.endswith("| open |") for line in lines[4:])
    (build,) = (command for command in kit.commands if "tools/build_engine.py" in command)
    assert build[build.index("--compute-capability") + 1] == "9.0"


def test_a_row_that_is_open_is_not_one_that_holds(
    packages: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """3 where the rest holds; 1 all the same where something fails."""
    packages["tensorrt"] = "not installed"
    assert _checked(ScriptedKit(ALL_WELL, GOALS[:2]), capsys)[0] == 3
    failing = {**ALL_WELL, "pytest": Ran(1, ("= 1 failed =",), ())}
    assert _checked(ScriptedKit(failing, GOALS[:2]), capsys)[0] == 1


def test_a_command_without_end_is_ended(tmp_path: Path) -> None:
    """With what it has started; its row says so, and is no open one."""
    pid = tmp_path / "pid"
    made = Kit(gpu_check.ROOT).run(["sh", "-c", f"sleep 600 & echo $! > {pid}; wait"], timeout_s=1.0)
    assert made == Ran(124, (), ("no end after 1 s",))
    state = Path(f"/proc/{pid.read_text().strip()}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"
    hung = ScriptedKit({"pytest": made, "engine_parity": made, "build_engine": made, "bench.py": made})
    gpu = gpu_kit.Gpu("Some Card", "8.9", "580.1")
    rows = [
        hung.run_tests(), hung.compare("rtx", tmp_path, "demo"), hung.build("rtx", gpu, tmp_path, "demo"),
        *hung.time(tmp_path),
    ]  # fmt: skip
    assert {(row.state, row.said) for row in rows} == {(gpu_kit.State.FAILED, "no end after 1 s")}


@pytest.mark.parametrize(
    ("capability", "asked"), [("8.6", False), ("12.1", False), ("7.5", True), ("10.0", True)]
)
def test_rtx_is_asked_for_cards_that_it_leaves_out(
    capability: str, asked: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    kit = ScriptedKit({**ALL_WELL, "nvidia-smi": Ran(0, (f"Card, {capability}, 580",), ())}, GOALS[:2])
    _checked(kit, capsys)
    (build,) = (command for command in kit.commands if "rtx" in command)
    assert ("--compute-capability" in build) == asked


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six windows of the demo clip."""
    monkeypatch.setattr(windows, "read_clips", lambda *_, **__: demo_clips())
    monkeypatch.setattr(parity, "Limits", functools.partial(Limits, windows=6))


def test_engines_are_held_to_the_gate(few: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Here ONNX Runtime stands in for them; what the runtime says when it fails is the line."""
    arguments = [str(tmp_path), "--data", str(tmp_path)]
    assert engine_parity.main(arguments, lambda directory: load_model(threads=1)) == 0
    assert capsys.readouterr().out.startswith(
        "on 6 windows logits differ by 0 at most, AUC by 0, batch sizes by "
    )

    def lost(directory: Path) -> Model:
        raise BackendError("device lost")

    assert engine_parity.main(arguments, lost) == 70
    assert capsys.readouterr().err == "engine_parity: device lost\n"


def test_engines_that_answer_otherwise_are_code_1(
    few: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One graph of the four is altered, under the contract of the model it is of."""

    def doubled(model: ModelProto) -> None:
        constants = {tensor.name for tensor in model.graph.initializer}
        products = [n for n in model.graph.node if n.op_type == "MatMul" and n.input[1] in constants]
        scale(model, products[0].input[1], 2.0)

    def load(directory: Path) -> Model:
        contract, graphs = read_model(None)
        other = {**graphs, "audio": altered(graphs["audio"], doubled)}
        return Model(contract, of_onnx(contract, other))

    assert engine_parity.main([str(tmp_path), "--data", str(tmp_path)], load) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "the engines do not give the model's answers: largest difference of a logit" in said.err


def test_engines_of_another_model_are_refused(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    """They would be compared with the wrong graphs; no clip is looked at."""
    other = small_model(tmp_path_factory.getbasetemp() / "small")
    arguments = [str(tmp_path), "--data", str(tmp_path)]
    assert engine_parity.main(arguments, lambda directory: load_model(other, threads=1)) == 78
    assert "are of another model than the embedded one" in capsys.readouterr().err
    assert (
        engine_parity.main([*arguments, "--model", str(other)], lambda directory: load_model(threads=1)) == 78
    )
    assert f"are of another model than {other}" in capsys.readouterr().err


def test_engines_of_a_model_of_ones_own_are_compared_with_it(
    few: None, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    own = small_model(tmp_path_factory.getbasetemp() / "small")
    arguments = [str(tmp_path), "--data", str(tmp_path), "--model", str(own)]
    assert engine_parity.main(arguments, lambda directory: load_model(own, threads=1)) == 0
    assert capsys.readouterr().out.startswith("on 6 windows logits differ by 0 at most")
