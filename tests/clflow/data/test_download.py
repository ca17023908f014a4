"""Downloads over a real connection that is cut, refused or falsified."""

import hashlib
import os
import threading
from pathlib import Path

import pytest

from clflow.data import download as module
from clflow.data.download import download
from clflow.errors import DataError
from tests.loopback import Mirror, free_port, serve

CHUNK = 1 << 16
CONTENT = os.urandom(8 * CHUNK)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
FLIPPED = bytes([CONTENT[0] ^ 1]) + CONTENT[1:]
HALF = len(CONTENT) // 2


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSES_S", (0.0, 0.0))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "downloads" / "archive.zip"


def leftovers(path: Path) -> set[str]:
    return {file.name for file in path.parent.iterdir()} - {path.name + ".lock"}


def closed_port() -> str:
    return f"http://127.0.0.1:{free_port()}/archive"


def test_download_arrives_and_reports_progress(path: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []
    with serve(Mirror(CONTENT)) as mirror:
        download([mirror.url], SHA256, path, lambda *step: seen.append(step))
    assert path.read_bytes() == CONTENT
    assert seen[-1] == ("downloading archive.zip", len(CONTENT), len(CONTENT))
    assert leftovers(path) == {path.name}


def test_cut_connection_is_resumed_with_only_the_rest(path: Path) -> None:
    with serve(Mirror(CONTENT, cuts=[HALF])) as mirror:
        download([mirror.url], SHA256, path)
    assert path.read_bytes() == CONTENT
    assert mirror.requests[0]["Range"] is None
    assert mirror.requests[1] == {"Range": f"bytes={HALF}-", "If-Range": '"v1"'}
    assert mirror.sent == [HALF, len(CONTENT) - HALF]


def test_part_of_an_earlier_run_is_resumed(path: Path) -> None:
    path.parent.mkdir()
    path.with_name("archive.zip.part").write_bytes(CONTENT[:1000])
    with serve(Mirror(CONTENT)) as mirror:
        download([mirror.url], SHA256, path)
    assert path.read_bytes() == CONTENT
    assert mirror.sent == [len(CONTENT) - 1000]


def test_complete_part_of_an_earlier_run_is_taken(path: Path) -> None:
    path.parent.mkdir()
    path.with_name("archive.zip.part").write_bytes(CONTENT)
    with serve(Mirror(CONTENT)) as mirror:
        download([mirror.url], SHA256, path)
    assert path.read_bytes() == CONTENT
    assert mirror.sent == []


def test_spoilt_part_of_an_earlier_run_is_replaced(path: Path) -> None:
    path.parent.mkdir()
    path.with_name("archive.zip.part").write_bytes(FLIPPED[:1000])
    with serve(Mirror(CONTENT)) as mirror:
        download([mirror.url], SHA256, path)
    assert path.read_bytes() == CONTENT
    assert mirror.sent == [len(CONTENT) - 1000, len(CONTENT)]


def test_more_cuts_than_pauses_are_fine_while_each_brings_something(path: Path) -> None:
    with serve(Mirror(CONTENT, cuts=[CHUNK] * 6)) as mirror:
        download([mirror.url], SHA256, path)
    assert path.read_bytes() == CONTENT
    assert mirror.sent == [CHUNK] * 6 + [2 * CHUNK]


def test_server_that_brings_nothing_is_given_up_but_the_part_stays(path: Path) -> None:
    with (
        serve(Mirror(CONTENT, cuts=[CHUNK] + [0] * 9)) as mirror,
        pytest.raises(DataError, match="could not"),
    ):
        download([mirror.url], SHA256, path)
    assert len(mirror.requests) == 1 + 3
    assert path.with_name("archive.zip.part").read_bytes() == CONTENT[:CHUNK]


def test_server_without_ranges_starts_over(path: Path) -> None:
    with serve(Mirror(CONTENT, ranges=False, cuts=[HALF])) as mirror:
        download([mirror.url], SHA256, path)
    assert path.read_bytes() == CONTENT
    assert mirror.sent == [HALF, len(CONTENT)]


def test_file_replaced_between_two_requests_is_not_spliced(path: Path) -> None:
    with serve(Mirror(CONTENT, cuts=[HALF], etags=['"old"', '"new"'])) as mirror:
        download([mirror.url], SHA256, path)
    assert path.read_bytes() == CONTENT
    assert mirror.requests[1]["If-Range"] == '"old"'
    assert mirror.sent == [HALF, len(CONTENT)]


def test_flipped_bit_is_refused_and_nothing_stays(path: Path) -> None:
    with serve(Mirror(FLIPPED)) as mirror, pytest.raises(DataError) as caught:
        download([mirror.url], SHA256, path)
    assert hashlib.sha256(FLIPPED).hexdigest() in str(caught.value)
    assert SHA256 in str(caught.value)
    assert leftovers(path) == set()


@pytest.mark.parametrize("first", ["dead", "missing", "falsified"])
def test_second_mirror_helps_out(path: Path, first: str) -> None:
    bad = Mirror(FLIPPED) if first == "falsified" else Mirror(CONTENT, status=404)
    with serve(bad), serve(Mirror(CONTENT)) as good:
        url = closed_port() if first == "dead" else bad.url
        download([url, good.url], SHA256, path)
    assert path.read_bytes() == CONTENT
    assert first == "dead" or len(bad.requests) == 1


def test_all_mirrors_failing_are_listed_in_one_sentence(path: Path) -> None:
    dead = closed_port()
    with (
        serve(Mirror(b"", status=404)) as gone,
        serve(Mirror(b"", status=503)) as busy,
        pytest.raises(DataError) as caught,
    ):
        download([dead, gone.url, busy.url], SHA256, path)
    message = str(caught.value)
    assert all(url in message for url in (dead, gone.url, busy.url))
    assert "404" in message and "503" in message
    assert "\n" not in message
    assert (len(gone.requests), len(busy.requests)) == (1, 3)


def test_finished_file_is_verified_and_not_asked_for_again(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    with serve(Mirror(CONTENT)) as mirror:
        download([mirror.url], SHA256, path)
        assert mirror.requests == []
        path.write_bytes(FLIPPED)
        download([mirror.url], SHA256, path)
    assert path.read_bytes() == CONTENT
    assert len(mirror.requests) == 1


def test_parallel_downloads_of_one_file_share_it(path: Path) -> None:
    with serve(Mirror(CONTENT)) as mirror:
        threads = [threading.Thread(target=download, args=([mirror.url], SHA256, path)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert path.read_bytes() == CONTENT
    assert mirror.sent == [len(CONTENT)]
