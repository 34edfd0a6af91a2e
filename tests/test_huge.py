"""Memory for weights: in huge pages where there are any, one weight behind the other."""

import errno
import mmap

import pytest

from wirecut.machine import huge


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huge, "_chunk", None)


class Small(mmap.mmap):
    """Memory of a kernel that was built without transparent huge pages."""

    def madvise(self, *_: object) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")


def test_without_huge_pages_small_ones_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huge.mmap, "mmap", Small)
    taken = huge.take(100)
    taken.fill_(7)
    assert taken.sum() == 700


@pytest.mark.parametrize("more", [0, 1, 63, 64])
def test_what_is_longer_than_a_chunk_has_its_own(more: int) -> None:
    taken = huge.take(huge.CHUNK + more)
    assert len(taken) == huge.CHUNK + more
    assert taken.data_ptr() % huge.ALIGN == 0


def test_one_lies_behind_the_other() -> None:
    first, second = huge.take(100), huge.take(100)
    assert second.data_ptr() - first.data_ptr() == 128
