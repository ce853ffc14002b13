"""Compiled kernels on disk: kept whole, thrown away when damaged, and never a reason to fail."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from avff.engine.backends import kernel_cache
from avff.engine.backends.kernel_cache import KEPT, KernelCache
from avff.engine.faces.assets import CACHE_VARIABLE

KEY = "ab" * 32


def test_what_is_kept_is_read(tmp_path: Path) -> None:
    cache = KernelCache(tmp_path / "deep" / "kernels")
    assert cache.take(KEY) is None
    for kernels in (b"first", b"", b"second" * 1000):
        cache.keep(KEY, kernels)
        cache.keep("cd" * 32, b"another engine's")
        assert cache.take(KEY) == kernels
    cache.keep(KEY, kernels)
    names = sorted(path.name for path in (tmp_path / "deep" / "kernels").iterdir())
    assert names == [f"{KEY}.kernels", f"{'cd' * 32}.kernels"]
    assert (tmp_path / "deep" / "kernels").stat().st_mode & 0o777 == 0o700


def test_what_is_taken_is_kept_no_longer(tmp_path: Path) -> None:
    """Until whoever took it has found that it does no harm."""
    cache = KernelCache(tmp_path)
    cache.keep(KEY, b"kernels")
    assert cache.take(KEY) == b"kernels"
    assert cache.take(KEY) is None
    assert list(tmp_path.iterdir()) == []


def test_any_damage_is_thrown_away(tmp_path: Path) -> None:
    """Every byte flipped, every length but the whole: never given to a runtime, and gone."""
    cache = KernelCache(tmp_path)
    cache.keep(KEY, b"kernels")
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    damaged = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(len(whole))]
    for content in (*damaged, *(whole[:size] for size in range(len(whole))), whole + b"x"):
        path.write_bytes(content)
        assert cache.take(KEY) is None
        assert not path.exists()
    cache.keep(KEY, b"kernels")
    assert cache.take(KEY) == b"kernels"


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_folder_that_others_can_write_is_not_used(mode: int, tmp_path: Path) -> None:
    """Kernels are code."""
    cache = KernelCache(tmp_path)
    cache.keep(KEY, b"kernels")
    tmp_path.chmod(mode)
    assert cache.take(KEY) is None
    cache.keep("cd" * 32, b"kernels")
    tmp_path.chmod(0o755)
    assert [path.name for path in tmp_path.iterdir()] == [f"{KEY}.kernels"]
    assert cache.take(KEY) == b"kernels"


def test_a_folder_of_somebody_elses_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = KernelCache(tmp_path)
    cache.keep(KEY, b"kernels")
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    assert cache.take(KEY) is None


@pytest.mark.parametrize("home", ["none", "unknown"])
def test_without_a_home_nothing_is_kept(home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor in a folder called ``~`` wherever the program happens to be."""

    def none() -> Path:
        if home == "none":
            raise RuntimeError("Could not determine home directory.")
        return Path("~/.cache/avff")

    monkeypatch.setattr(kernel_cache, "cache_directory", none)
    monkeypatch.chdir(tmp_path)
    cache = KernelCache()
    cache.keep(KEY, b"kernels")
    assert cache.take(KEY) is None
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = KernelCache(tmp_path / "file" / "kernels")
    cache.keep(KEY, b"kernels")
    assert cache.take(KEY) is None


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk, say: the old file, no scratch file, no error."""

    def refuse(*paths: object) -> None:
        raise OSError("no space")

    cache = KernelCache(tmp_path)
    cache.keep(KEY, b"old")
    monkeypatch.setattr(os, "replace", refuse)
    cache.keep(KEY, b"new")
    assert len(list(tmp_path.iterdir())) == 1
    assert cache.take(KEY) == b"old"


def test_the_oldest_go(tmp_path: Path) -> None:
    """So that each rebuilt engine does not leave its kernels for ever, nor each writer that was killed."""
    cache = KernelCache(tmp_path)
    left = tmp_path / f"{KEY}.kernelsabc.tmp"
    left.write_bytes(b"half")
    os.utime(left, ns=(0, 0))
    for number in range(KEPT + 3):
        cache.keep(f"{number:064x}", b"kernels")
        os.utime(tmp_path / f"{number:064x}.kernels", ns=(number, number))
    cache.keep(KEY, b"kernels")
    assert len(list(tmp_path.iterdir())) == KEPT
    assert not left.exists()
    assert cache.take(f"{0:064x}") is None
    assert cache.take(KEY) == b"kernels"


def test_they_lie_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    KernelCache().keep(KEY, b"kernels")
    assert (tmp_path / "kernels" / f"{KEY}.kernels").is_file()
