"""``avff-train``: what goes wrong is said in one line, with the exit code that ``--help`` lists."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from avff.engine.settings import load_settings
from avff.trainer import pipeline
from avff.trainer.cli import main
from avff.trainer.config import RunSettings
from avff.trainer.run import check_settings
from tests.support.training import make_clip, write_manifest

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "train" / "selfmade.yaml"


def outcome(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Exit code and stderr of a command."""
    try:
        code = main([str(a) for a in arguments])
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    assert captured.out == ""
    return code, captured.err


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and no data from the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AVFF_DATA", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ([], 78, ["no data", "data.root", "AVFF_DATA"]),
        (["--data.root", "nowhere"], 65, ["nowhere/manifest.csv", "No such file", "AVFF_DATA"]),
        (["--train.epocs", "3"], 78, ["--train.epocs", "unknown key", "'epochs'"]),
        (["--train.optm.learning_rate=1"], 78, ["--train.optm.learning_rate: ", "'train.optm'", "'optim'"]),
        (["--train.loss.clp=1"], 78, ["unknown key 'train.loss.clp'", "did you mean 'clip'"]),
        (["--train.stopping.patince=1"], 78, ["did you mean 'patience'"]),
        (["--pretrain.loss.contrst=1"], 78, ["did you mean 'contrast'"]),
        (["--model.widht=16"], 78, ["did you mean 'width'"]),
        (["--encoders.optim.lerning_rate=1"], 78, ["did you mean 'learning_rate'"]),
        (["--nme=x"], 78, ["--nme", "unknown key", "'name'"]),
        (["--data.worker=2"], 78, ["'workers'"]),
        (["--train.epochs", "many"], 78, ["--train.epochs", "valid integer", "'many'"]),
        (["--train.epochs", "0"], 78, ["--train.epochs", "greater than 0"]),
        (["--train.precision", "fp8"], 78, ["--train.precision", "'32-true'"]),
        (["--data.validation_share", "1.5"], 78, ["--data.validation_share", "less than or equal to 1"]),
        (["--train.loss.focal_gamma", "-1"], 78, ["--train.loss.focal_gamma", "greater than or equal to 0"]),
        (["--mix.lip_swop", "0.1"], 78, ["mix: unknown kind 'lip_swop'", "lip_swap"]),
        (["--mix", "{"], 78, ["--mix"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and value and value[0][:1] == "-" else "",
)
def test_wrong_settings_give_one_line_and_their_code(
    elsewhere: Path, capsys: pytest.CaptureFixture[str], options: list[str], code: int, words: list[str]
) -> None:
    """The key and the way out are named, nothing is written and there is no traceback."""
    found, stderr = outcome(capsys, "--config", CONFIG, *options)
    assert found == code
    assert stderr.startswith("avff-train: ")
    assert stderr.count("\n") == 1
    assert all(word in stderr for word in words), stderr
    assert list(elsewhere.iterdir()) == []


def test_print_config_shows_what_a_run_would_use(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file, the overrides and every default, as YAML that is itself a configuration."""
    assert main(["--config", str(CONFIG), "--print-config", "--train.epochs", "3"]) == 0
    printed = capsys.readouterr().out
    shown = elsewhere / "shown.yaml"
    shown.write_text(printed)
    settings = load_settings(shown, RunSettings)
    assert settings == load_settings(CONFIG, RunSettings, [("train.epochs", "3")])
    assert "restart_epochs: 10" in printed
    assert list(elsewhere.iterdir()) == [shown]


@pytest.mark.parametrize("name", sorted(p.name for p in CONFIG.parent.glob("*.yaml")))
def test_every_recipe_is_valid(name: str) -> None:
    """Each of ``configs/train`` passes the checks that come before the data."""
    check_settings(load_settings(CONFIG.parent / name, RunSettings))


def test_dfdc_recipe_is_the_reports() -> None:
    """Adam at 1e-3, restarts after 10 epochs and then twice as many, batch 32, patience 5 and 0.001."""
    settings = load_settings(CONFIG.parent / "dfdc.yaml", RunSettings)
    optim, stopping = settings.train.optim, settings.train.stopping
    assert (optim.optimiser, optim.learning_rate, settings.train.batch) == ("adam", 1e-3, 32)
    assert (optim.schedule, optim.restart_epochs, optim.restart_factor) == ("cosine_restarts", 10, 2)
    assert stopping is not None
    assert (stopping.metric, stopping.patience, stopping.min_delta) == ("val/loss", 5, 0.001)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--config"),
        (["--config", "x.yaml", "--seed"], "--seed needs a value"),
        (["--config", "x.yaml", "loose"], "unexpected 'loose'; settings are given as --key value"),
    ],
    ids=["no-config", "no-value", "no-key"],
)
def test_wrong_usage_ends_with_2(
    elsewhere: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    """As every command line tool has it."""
    code, stderr = outcome(capsys, *arguments)
    assert code == 2
    assert words in stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, ["No such file"]),
        ("name: [\n", ["line "]),
        ("- name\n", ["line 1", "keys and values"]),
        ("name: x\nmix: {}\nlearning_rate: 1\n", ["line 3", "unknown key 'learning_rate'"]),
    ],
    ids=["missing", "no-yaml", "a-list", "misplaced"],
)
def test_wrong_file_is_named_with_its_line(
    elsewhere: Path, capsys: pytest.CaptureFixture[str], text: str | None, words: list[str]
) -> None:
    """A configuration that cannot be read ends with 78."""
    path = elsewhere / "mine.yaml"
    if text is not None:
        path.write_text(text)
    code, stderr = outcome(capsys, "--config", path)
    assert code == 78
    assert stderr.startswith(f"avff-train: {path}: ")
    assert stderr.count("\n") == 1
    assert all(word in stderr for word in words), stderr


def test_data_that_cannot_be_split_ends_with_65(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Here a generator is held out that no clip is from."""
    judges = [make_clip(f"{k}.mp4", label=k, generator="A" * k, split="dev") for k in range(2)]
    write_manifest(elsewhere, [make_clip("a.mp4"), *judges])
    options = ["--data.root", elsewhere, "--data.held_out_generators", "[Nobody]"]
    code, stderr = outcome(capsys, "--config", CONFIG, *options)
    assert (code, stderr) == (65, "avff-train: no clip of generator 'Nobody' to hold out\n")


def test_values_may_follow_an_equals_sign_or_a_space(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both spellings reach the run as they stand, values with an equals sign included."""
    given: list[object] = []

    def note(*arguments: object, dry: bool) -> int:
        given.extend([*arguments, dry])
        return 0

    monkeypatch.setattr(pipeline, "run", note)
    assert main(["--config", "x.yaml", "--name", "a=b", "--train.epochs=3", "--data.root=/a=b"]) == 0
    assert given == [Path("x.yaml"), [("name", "a=b"), ("train.epochs", "3"), ("data.root", "/a=b")], False]


def test_interruption_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C ends with 130 and no traceback."""

    def interrupt(*_: object, dry: bool) -> int:
        del dry
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "run", interrupt)
    code, stderr = outcome(capsys, "--config", "x.yaml")
    assert (code, stderr) == (130, "avff-train: interrupted; run the same command to go on\n")


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("import torch; torch.empty(1 << 55, dtype=torch.uint8)", "DefaultCPUAllocator"),
        ("import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 30,) * 2); bytearray(1 << 31)", ""),
    ],
    ids=["torch", "python"],
)
def test_memory_that_runs_out_anywhere_is_one_line(program: str, words: str) -> None:
    """Outside a training stage as well: exit code 70 and no traceback."""
    whole = (
        "import sys\nfrom avff.trainer.commands import run_command\n"
        f"def work():\n    {program}\n"
        "sys.exit(run_command('avff-train', work))"
    )
    done = subprocess.run(
        [sys.executable, "-c", whole], capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip
    assert done.returncode == 70, done.stderr
    assert done.stderr.startswith("avff-train: out of memory (")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_missing_torch_names_the_extra() -> None:
    """An installation without the trainer's libraries is told how to get them."""
    program = (
        "import sys; sys.modules['torch'] = None\n"
        f"from avff.trainer.cli import main; sys.exit(main(['--config', {str(CONFIG)!r}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        check=False,
    )
    assert done.returncode == 69
    assert done.stderr == "avff-train: torch is not installed; pip install 'avff[train]'\n"


def test_help_lists_the_exit_codes_without_torch() -> None:
    """``--help`` waits for no heavy library."""
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from avff.trainer.cli import main; sys.exit(main(['--help']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        check=True,
    )
    assert all(str(code) in done.stdout for code in (0, 2, 65, 69, 78, 130))
