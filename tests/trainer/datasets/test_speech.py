"""The speech datasets: three orders of columns, two spellings of genuine, no picture to label."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from avff.trainer.data.manifest import Clip
from avff.trainer.data.splits import group_of
from avff.trainer.datasets import asvspoof5, asvspoof2019, asvspoof2021, in_the_wild
from avff.trainer.datasets.files import DatasetError
from tests.support import replicas

SETS = {
    "2019": (asvspoof2019.scan, replicas.asvspoof2019),
    "2021": (asvspoof2021.scan, replicas.asvspoof2021),
    "5": (asvspoof5.scan, replicas.asvspoof5),
    "wild": (in_the_wild.scan, replicas.in_the_wild),
}
Scan = Callable[[Path], list[Clip]]


@pytest.mark.parametrize(("scan", "write"), SETS.values(), ids=SETS)
def test_only_the_sound_has_a_label(tmp_path: Path, scan: Scan, write: replicas.Writer) -> None:
    """A picture that is not there is unknown, not genuine."""
    clips = scan(write(tmp_path))
    assert all(c.label_video is None and c.label_audio == c.label for c in clips)
    assert {c.label for c in clips} == {0, 1}


def test_2019_reads_speaker_file_system_key(tmp_path: Path) -> None:
    """The third column is unused; a genuine utterance has no system."""
    clips = asvspoof2019.scan(replicas.asvspoof2019(tmp_path))
    assert [(c.path.split("/")[-1], c.split, c.label, c.generator, c.identities) for c in clips] == [
        ("LA_T_1138215.flac", "train", 0, "", ("asvspoof:LA_0079",)),
        ("LA_T_1272637.flac", "train", 1, "A01", ("asvspoof:LA_0079",)),
        ("LA_D_1047731.flac", "dev", 0, "", ("asvspoof:LA_0069",)),
        ("LA_E_2834763.flac", "eval", 1, "A11", ("asvspoof:LA_0039",)),
    ]


def test_2021_has_the_columns_in_another_order(tmp_path: Path) -> None:
    """Codec third, system fifth, key sixth; DF's longer rows begin alike and lie in parts."""
    clips = asvspoof2021.scan(replicas.asvspoof2021(tmp_path))
    assert [(c.uid, c.label, c.generator, c.split, c.collection) for c in clips] == [
        ("asvspoof2021/LA_E_9332881", 1, "A07", "eval", "ASVspoof 2021 LA alaw"),
        ("asvspoof2021/LA_E_6866159", 0, "", "progress", "ASVspoof 2021 LA none"),
        ("asvspoof2021/DF_E_2000011", 1, "A14", "progress", "ASVspoof 2021 DF nocodec"),
    ]
    assert clips[2].path == "ASVspoof2021_DF_eval_part00/flac/DF_E_2000011.flac"


def test_5_is_parted_by_blanks_in_spite_of_its_suffix(tmp_path: Path) -> None:
    """Ten columns, key in the ninth."""
    clips = asvspoof5.scan(replicas.asvspoof5(tmp_path))
    assert [(c.uid, c.label, c.generator, c.split) for c in clips] == [
        ("asvspoof5/T_0000000000", 1, "ASVspoof5 A05", "train"),
        ("asvspoof5/T_0000000001", 0, "", "train"),
        ("asvspoof5/E_0000000001", 0, "", "eval"),
    ]


def test_5_links_a_coded_copy_to_its_utterance(tmp_path: Path) -> None:
    """Two coded copies of one utterance stay together although their speaker is not the same name."""
    table = replicas.asvspoof5(tmp_path) / "ASVspoof5.eval.track_1.tsv"
    table.write_text(table.read_text() + "E_9 E_2 F C01 1 E_0000000009 - A26 spoof -\n")
    clips = asvspoof5.scan(tmp_path)
    groups = group_of(clips)
    assert groups["asvspoof5/E_0000000001"] == groups["asvspoof5/E_2"]


def test_in_the_wild_spells_genuine_with_a_hyphen(tmp_path: Path) -> None:
    """And its speakers by name, with commas."""
    clips = in_the_wild.scan(replicas.in_the_wild(tmp_path))
    assert [(c.label, c.identities[0], c.split) for c in clips] == [
        (1, "in-the-wild:Alan Watts", "test"),
        (0, "in-the-wild:Alan Watts", "test"),
        (1, "in-the-wild:King, Jr.", "test"),
    ]


@pytest.mark.parametrize(
    ("name", "file", "row", "words"),
    [
        ("2019", "ASVspoof2019.LA.cm.dev.trl.txt", "LA_1 LA_D_9 - - genuine", "line 2: key is 'genuine'"),
        ("2019", "ASVspoof2019.LA.cm.dev.trl.txt", "LA_1 LA_D_9 bonafide", "line 2: has 3 values, not 5"),
        ("2021", "trial_metadata.txt", "LA_1 LA_E_9 - - bonafide", "has 5 values, not at least 8"),
        ("5", "ASVspoof5.train.tsv", "T_1 T_2 F - - - - - real -", "line 3: key is 'real'"),
        ("wild", "meta.csv", "9.wav,Nobody,fake", "line 5: key is 'fake'"),
    ],
    ids=["key 2019", "short 2019", "short 2021", "key 5", "key wild"],
)
def test_wrong_row_names_file_and_line(tmp_path: Path, name: str, file: str, row: str, words: str) -> None:
    """A key that is neither, or a row of another protocol."""
    scan, write = SETS[name]
    path = sorted(write(tmp_path).rglob(file))[-1]
    path.write_text(path.read_text() + row + "\n")
    with pytest.raises(DatasetError, match=words) as caught:
        scan(tmp_path)
    assert str(caught.value).startswith(f"{path}: line ")
