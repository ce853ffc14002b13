"""Compiled kernels on disk: kept whole, thrown away when damaged, and never a reason to fail."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from avff.engine.backends.kernel_cache import KEPT, KernelCache
from avff.engine.faces.assets import CACHE_VARIABLE

KEY = "ab" * 32


def test_what_is_kept_is_read(tmp_path: Path) -> None:
    cache = KernelCache(tmp_path / "deep" / "kernels")
    assert cache.read(KEY) is None
    for kernels in (b"first", b"", b"second" * 1000):
        cache.keep(KEY, kernels)
        assert cache.read(KEY) == kernels
    assert [path.name for path in (tmp_path / "deep" / "kernels").iterdir()] == [f"{KEY}.kernels"]


def test_any_damage_is_thrown_away(tmp_path: Path) -> None:
    """Every byte flipped, every length but the whole: never given to a runtime, and gone."""
    cache = KernelCache(tmp_path)
    cache.keep(KEY, b"kernels")
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    damaged = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(len(whole))]
    for content in (*damaged, *(whole[:size] for size in range(len(whole))), whole + b"x"):
        path.write_bytes(content)
        assert cache.read(KEY) is None
        assert not path.exists()
    cache.keep(KEY, b"kernels")
    assert cache.read(KEY) == b"kernels"


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = KernelCache(tmp_path / "file" / "kernels")
    cache.keep(KEY, b"kernels")
    assert cache.read(KEY) is None


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk, say: the old file, no scratch file, no error."""

    def refuse(*paths: object) -> None:
        raise OSError("no space")

    cache = KernelCache(tmp_path)
    cache.keep(KEY, b"old")
    monkeypatch.setattr(os, "replace", refuse)
    cache.keep(KEY, b"new")
    assert cache.read(KEY) == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_the_oldest_go(tmp_path: Path) -> None:
    """So that each rebuilt engine does not leave its kernels for ever."""
    cache = KernelCache(tmp_path)
    for number in range(KEPT + 3):
        cache.keep(f"{number:064x}", b"kernels")
        os.utime(tmp_path / f"{number:064x}.kernels", ns=(number, number))
    cache.keep(KEY, b"kernels")
    assert len(list(tmp_path.iterdir())) == KEPT
    assert cache.read(f"{0:064x}") is None
    assert cache.read(KEY) == b"kernels"


def test_they_lie_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    KernelCache().keep(KEY, b"kernels")
    assert (tmp_path / "kernels" / f"{KEY}.kernels").is_file()
