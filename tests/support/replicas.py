"""Small replicas of published datasets: their exact layout on disk, with empty files for media.

Scanning reads lists and opens no clip, so nothing has to play; ``tools/make_replica.py`` makes
replicas that do.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

Writer = Callable[[Path], Path]


def write_tree(root: Path, lists: Mapping[str, Any], media: Iterable[str]) -> Path:
    """Write text files, JSON for what is no text, and empty media files; return the root."""
    for name, content in lists.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    for name in media:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def lines(*rows: str) -> str:
    """Join rows to the text of a file."""
    return "".join(row + "\n" for row in rows)


def dfdc(root: Path) -> Path:
    """Two parts: in the first a genuine clip with two fakes, in the second a fake of absent footage."""
    one, two = "dfdc_train_part_0", "dfdc_train_part_1"
    fake = {"label": "FAKE", "split": "train", "original": "real.mp4"}
    lists: dict[str, dict[str, Any]] = {
        f"{one}/metadata.json": {
            "real.mp4": {"label": "REAL", "split": "train", "original": None},
            "fake1.mp4": fake,
            "fake2.mp4": fake,
        },
        f"{two}/metadata.json": {
            "real.mp4": {"label": "REAL", "split": "train"},
            "other.mp4": {**fake, "original": "gone.mp4"},
        },
    }
    media = [f"{part.split('/')[0]}/{name}" for part, rows in lists.items() for name in rows]
    return write_tree(root, lists, media)


def dfdc_preview(root: Path) -> Path:
    """One genuine clip and one of each method."""
    rows = {
        "original_videos/643049/643049_A_001.mp4": {
            "label": "real", "set": "train", "target_id": 643049, "swapped_id": None, "augmentations": [],
        },
        "method_A/1/A.mp4": {
            "label": "fake", "set": "train", "target_id": 643049, "swapped_id": 1260311,
            "source_video": "original_videos/643049/643049_A_001.mp4",
        },
        "method_B/1/B.mp4": {"label": "fake", "set": "test", "target_id": 1260311, "swapped_id": 22},
    }  # fmt: skip
    base = "dfdc_preview_set"
    return write_tree(root, {f"{base}/dataset.json": rows}, [f"{base}/{name}" for name in rows])


FAKEAVCELEB_HEADER = "source,target1,target2,method,category,type,race,gender,path,"


def fakeavceleb(root: Path) -> Path:
    """One clip of each category, with the shifted header."""
    place = "African/men/id00076"
    rows = [
        ("id00076,-,-,real,A", "RealVideo-RealAudio", "00109.mp4"),
        ("id00076,-,-,rtvc,B", "RealVideo-FakeAudio", "00109_fake.mp4"),
        ("id00076,id00166,-,faceswap,C", "FakeVideo-RealAudio", "00109_id00166.mp4"),
        ("id00076,id00476,10,wav2lip,D", "FakeVideo-FakeAudio", "00109_10_id00476_wavtolip.mp4"),
        ("id00076,id00476,2,fsgan-wav2lip,D", "FakeVideo-FakeAudio", "00109_2_id00476_wavtolip.mp4"),
    ]
    text = [f"{a},{kind},African,men,{name},FakeAVCeleb/{kind}/{place}" for a, kind, name in rows]
    media = [f"FakeAVCeleb/{kind}/{place}/{name}" for _, kind, name in rows]
    return write_tree(root, {"FakeAVCeleb/meta_data.csv": lines(FAKEAVCELEB_HEADER, *text)}, media)


def lav_df(root: Path) -> Path:
    """One genuine clip, and one for each way to change it."""
    facts = {"duration": 6.4, "video_frames": 160, "audio_channels": 1, "audio_frames": 102400}

    def row(name: str, video: bool, audio: bool, periods: list[list[float]]) -> dict[str, Any]:
        return {
            "file": name, "n_fakes": len(periods), "fake_periods": periods,
            "original": "train/000000.mp4" if periods else None, "modify_video": video,
            "modify_audio": audio, "split": name.split("/")[0], **facts,
        }  # fmt: skip

    rows = [
        row("train/000000.mp4", False, False, []),
        row("train/000001.mp4", True, True, [[1.25, 2.0], [4.0, 4.5]]),
        row("dev/000002.mp4", True, False, [[0.5, 1.0]]),
        row("test/000003.mp4", False, True, [[5.0, 6.4]]),
    ]
    return write_tree(root, {"metadata.min.json": rows}, [r["file"] for r in rows])


def _deepfake1m_row(name: str, kind: str, split: str) -> dict[str, Any]:
    folder = name.rpartition("/")[0]
    video, audio = kind in ("visual_modified", "both_modified"), kind in ("audio_modified", "both_modified")
    segments = [[1.0, 1.5]] if kind != "real" else []
    return {
        "file": name, "original": f"{folder}/real.mp4" if segments else None, "split": split,
        "modify_type": kind, "audio_model": "vits" if audio else None, "fake_segments": segments,
        "audio_fake_segments": segments if audio else [], "visual_fake_segments": segments if video else [],
        "video_frames": 200, "audio_frames": 128000,
    }  # fmt: skip


def av_deepfake1m(root: Path) -> Path:
    """One clip of each kind in training, a genuine one in validation, two without labels."""
    folder = "id00012/21Uxsk56VDQ/00001"
    train = [
        _deepfake1m_row(f"{folder}/real.mp4", "real", "train"),
        _deepfake1m_row(f"{folder}/fake_video_real_audio.mp4", "visual_modified", "train"),
        _deepfake1m_row(f"{folder}/real_video_fake_audio.mp4", "audio_modified", "train"),
        _deepfake1m_row(f"{folder}/fake_video_fake_audio.mp4", "both_modified", "train"),
    ]
    val = [_deepfake1m_row("id00099/abc/00001/real.mp4", "real", "val")]
    lists = {
        "train_metadata.json": train, "val_metadata.json": val,
        "test_files.txt": lines("000000.mp4", "000001.mp4"),
    }  # fmt: skip
    media = [f"{r['split']}/{r['file']}" for r in (*train, *val)] + ["test/000000.mp4", "test/000001.mp4"]
    return write_tree(root, lists, media)


def av_deepfake1m_pp(root: Path) -> Path:
    """A pair in training, a genuine clip of an unknown person in validation, one without label."""
    rows = [
        _deepfake1m_row("id00012/abc/00001/real.mp4", "real", "train"),
        _deepfake1m_row("id00012/abc/00001/fake_video_fake_audio.mp4", "both_modified", "train"),
        _deepfake1m_row("lrs3/xyz/00001/real.mp4", "real", "val"),
    ]
    lists: dict[str, Any] = {f"{r['split']}/{r['file'][:-4]}.json": r for r in rows}
    media = [f"{r['split']}/{r['file']}" for r in rows] + ["test/0.mp4"]
    return write_tree(root, {**lists, "test_files.txt": "test/0.mp4\n"}, media)


def faceforensics(root: Path, compressions: tuple[str, ...] = ("c23",)) -> Path:
    """Two genuine clips, a swap and a reenactment between them, and an actor's pair."""
    clips = {
        "original_sequences/youtube": ["000", "003"],
        "manipulated_sequences/Deepfakes": ["000_003"],
        "manipulated_sequences/NeuralTextures": ["003_000"],
        "original_sequences/actors": ["01__walking_outside"],
        "manipulated_sequences/DeepFakeDetection": ["01_02__walking_outside__YCSEBZO4"],
    }
    media = [f"{where}/{c}/videos/{n}.mp4" for c in compressions for where, ns in clips.items() for n in ns]
    splits = {"train": [["000", "003"]], "val": [["720", "672"]], "test": [["953", "974"]]}
    return write_tree(root, {f"splits/{name}.json": pairs for name, pairs in splits.items()}, media)


def celeb_df(root: Path) -> Path:
    """A genuine clip, a fake of it and a clip of an unknown person, one more of each outside the list."""
    listed = ["1 YouTube-real/00170.mp4", "1 Celeb-real/id0_0001.mp4", "0 Celeb-synthesis/id0_id16_0001.mp4"]
    media = [row.split()[1] for row in listed] + [
        "Celeb-real/id2_0003.mp4",
        "Celeb-synthesis/id2_id3_0003.mp4",
    ]
    return write_tree(root, {"List_of_testing_videos.txt": lines(*listed)}, media)


def df_timit(root: Path) -> Path:
    """One fake in both qualities, with its sound beside it, and a genuine clip of either person."""
    fake = "fadg0/sa1-video-fram1"
    media = [f"DeepfakeTIMIT/{q}_quality/{fake}.{end}" for q in ("lower", "higher") for end in ("avi", "wav")]
    return write_tree(root, {}, [*media, "VidTIMIT/fadg0/sa1.avi", "VidTIMIT/fram1/video/sa1.avi"])


def kodf(root: Path) -> Path:
    """A genuine clip of training and two fakes of it; a table of validation with byte order mark."""
    tables = "1.Training/라벨링데이터/train_meta_data"
    real = ["영상ID,UUID,인물성별,촬영장소,촬영시작,스크립트파일,시나리오번호", "u1_001.mp4,u1,여,실내,t,s,1"]
    fake = [
        "영상ID,타겟영상,타겟UUID,소스UUID,변조모델,촬영시작,인물성별",
        "f1.mp4,u1_001.mp4,u1,u2,dfl,t,여",
        "f2.mp4,u1_001.mp4,u1,u3,audio-driven,t,여",
    ]
    lists = {
        f"{tables}/원본영상_training_메타데이터.csv": lines(*real),
        f"{tables}/변조영상_training_메타데이터.csv": lines(*fake),
        "2.Validation/라벨링데이터/원본영상_validation_메타데이터.csv": "\ufeff"
        + lines(real[0], "u9_001.mp4,u9,,,,,"),
    }
    sources = "1.Training/원천데이터"
    media = [
        f"{sources}/train_원본/원본1/u1/u1_001.mp4",
        f"{sources}/train_변조/dfl1/u1/f1.mp4",
        f"{sources}/train_변조/audio_driven1/u1/f2.mp4",
        "2.Validation/원천데이터/원본1/u9/u9_001.mp4",
    ]
    return write_tree(root, lists, media)


def asvspoof2019(root: Path) -> Path:
    """A genuine and a spoofed utterance in training, one in each other part."""
    rows = {
        "train.trn": ["LA_0079 LA_T_1138215 - - bonafide", "LA_0079 LA_T_1272637 - A01 spoof"],
        "dev.trl": ["LA_0069 LA_D_1047731 - - bonafide"],
        "eval.trl": ["LA_0039 LA_E_2834763 - A11 spoof"],
    }
    lists = {f"ASVspoof2019_LA_cm_protocols/ASVspoof2019.LA.cm.{n}.txt": lines(*r) for n, r in rows.items()}
    media = [f"ASVspoof2019_LA_{n[:-4]}/flac/{row.split()[1]}.flac" for n, r in rows.items() for row in r]
    return write_tree(root, lists, media)


def asvspoof2021(root: Path) -> Path:
    """Two utterances of LA and one of DF, whose rows are longer."""
    rows = {
        "LA": [
            "LA_0009 LA_E_9332881 alaw ita_tx A07 spoof notrim eval",
            "LA_0020 LA_E_6866159 none - bonafide bonafide notrim progress",
        ],
        "DF": ["LA_0023 DF_E_2000011 nocodec asvspoof A14 spoof notrim progress traditional_vocoder - - - -"],
    }
    lists = {f"keys/{task}/CM/trial_metadata.txt": lines(*r) for task, r in rows.items()}
    media = ["ASVspoof2021_LA_eval/flac/LA_E_9332881.flac", "ASVspoof2021_LA_eval/flac/LA_E_6866159.flac"]
    return write_tree(root, lists, [*media, "ASVspoof2021_DF_eval_part00/flac/DF_E_2000011.flac"])


def asvspoof5(root: Path) -> Path:
    """A genuine utterance, a spoofed one, and a coded copy of the first in another part."""
    lists = {
        "ASVspoof5.train.tsv": lines(
            "T_4850 T_0000000000 F - - - AC3 A05 spoof -", "T_4850 T_0000000001 M - - - - bonafide bonafide -"
        ),
        "ASVspoof5.eval.track_1.tsv": lines(
            "E_1607 E_0000000001 F C05 2 E_0000000009 - bonafide bonafide -",
        ),
    }
    media = ["flac_T/T_0000000000.flac", "flac_T/T_0000000001.flac", "flac_E_eval/E_0000000001.flac"]
    return write_tree(root, lists, media)


def in_the_wild(root: Path) -> Path:
    """Two utterances of one person, one of a person whose name holds a comma."""
    rows = [
        "file,speaker,label",
        "0.wav,Alan Watts,spoof",
        "1.wav,Alan Watts,bona-fide",
        '2.wav,"King, Jr.",spoof',
    ]
    base = "release_in_the_wild"
    return write_tree(root, {f"{base}/meta.csv": lines(*rows)}, [f"{base}/{k}.wav" for k in range(3)])


def folder(root: Path) -> Path:
    """Genuine clips, a fake of a named generator deeper down, and one of none."""
    return write_tree(root, {}, ["real/a.mp4", "real/deep/b.mov", "fake/Sora/x/c.mp4", "fake/d.wav"])


REPLICAS: dict[str, Writer] = {
    "dfdc": dfdc, "dfdc-preview": dfdc_preview, "fakeavceleb": fakeavceleb, "lav-df": lav_df,
    "av-deepfake1m": av_deepfake1m, "av-deepfake1m++": av_deepfake1m_pp, "faceforensics": faceforensics,
    "celeb-df-v2": celeb_df, "df-timit": df_timit, "kodf": kodf, "asvspoof2019": asvspoof2019,
    "asvspoof2021": asvspoof2021, "asvspoof5": asvspoof5, "in-the-wild": in_the_wild, "folder": folder,
}  # fmt: skip
