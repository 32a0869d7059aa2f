"""Downloads from a server on the loopback that does everything wrong that a server can."""

import errno
import hashlib
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import gdm_lib
from gdm_lib.data import DataError, _download
from gdm_lib.data._download import RemoteFile, cache_dir, fetch

CONTENT = bytes(range(256)) * 4000  # several chunks


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.hits.append(self.path)
        fault = self.path.split("/")[1]
        if fault == "missing":
            self.send_error(404, "Not Found")
            return
        self.send_response(200)
        if fault == "short":  # whole as far as HTTP can tell
            self.send_header("Content-Length", str(len(CONTENT) // 2))
        elif fault != "endless":
            self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        body = CONTENT
        if fault in ("short", "cut"):
            body = CONTENT[: len(CONTENT) // 2]
        elif fault == "altered":
            body = CONTENT[:-1] + b"\0"
        elif fault == "endless":
            body = CONTENT * 20
        try:
            if fault == "slow":
                self.wfile.write(body[: len(body) // 2])
                self.wfile.flush()
                self.server.half_sent.set()
                self.server.go_on.wait(20)
                return
            self.wfile.write(body)
        except OSError:
            pass  # the client hung up, as it should on an endless body

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.hits = []
    server.half_sent, server.go_on = threading.Event(), threading.Event()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.go_on.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GDM_DATA_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("GDM_MIRROR", raising=False)
    return tmp_path / "cache"


def remote(server, *faults):
    base = f"http://127.0.0.1:{server.server_port}"
    return RemoteFile(
        "set/file.gz",
        tuple(f"{base}/{fault}/file.gz" for fault in faults),
        hashlib.sha256(CONTENT).hexdigest(),
        len(CONTENT),
    )


def files_in(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_download_is_kept_and_not_asked_for_again(server, cache):
    file = remote(server, "ok")
    path = fetch(file)
    assert path == cache / "set" / "file.gz"
    assert path.read_bytes() == CONTENT
    assert files_in(cache) == [path]
    asked = len(server.hits)
    assert fetch(file) == path
    assert len(server.hits) == asked


def test_the_bar_shows_the_file_and_its_size(server, capsys):
    fetch(remote(server, "ok"))
    assert "file.gz" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("missing", "the server answered 404"),
        ("short", f"{len(CONTENT) // 2} bytes came, expected {len(CONTENT)}"),
        ("cut", f"{len(CONTENT) // 2} bytes came, expected {len(CONTENT)}"),
        ("altered", "what came has SHA-256"),
        ("endless", f"expected {len(CONTENT)}"),
    ],
)
def test_a_faulty_source_is_named_and_leaves_nothing(server, cache, fault, message):
    with pytest.raises(DataError, match=message) as caught:
        fetch(remote(server, fault))
    assert files_in(cache) == []
    text = str(caught.value)
    assert f"/{fault}/file.gz" in text
    assert "Check the connection" in text
    assert str(cache / "set" / "file.gz") in text
    assert "GDM_MIRROR" in text


def test_no_network(cache, server):
    file = RemoteFile("set/file.gz", ("http://127.0.0.1:9/file.gz",), "0" * 64, 1)
    with pytest.raises(DataError, match="refused"):
        fetch(file)
    assert files_in(cache) == []


def test_the_second_address_helps_out(server):
    assert fetch(remote(server, "missing", "altered", "ok")).read_bytes() == CONTENT


def test_a_damaged_cached_file_is_downloaded_again(server, cache):
    path = fetch(remote(server, "ok"))
    path.write_bytes(CONTENT[:100])
    assert fetch(remote(server, "ok")).read_bytes() == CONTENT


def test_a_damaged_cached_file_that_cannot_be_replaced_is_reported(server, cache):
    path = fetch(remote(server, "ok"))
    path.write_bytes(CONTENT[:100])
    with pytest.raises(DataError, match="is damaged"):
        fetch(remote(server, "missing"))


class FullDisk:
    """A file on a disk with room for one chunk more."""

    def __init__(self, handle, mode):
        self.file = open(handle, mode)  # noqa: SIM115
        self.writes = 0

    def __enter__(self):
        return self

    def __exit__(self, *details):
        self.file.close()

    def write(self, chunk):
        self.writes += 1
        if self.writes > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(chunk)


def test_a_full_disk_says_how_much_room_is_needed(server, cache, monkeypatch):
    monkeypatch.setattr(_download.os, "fdopen", FullDisk)
    with pytest.raises(DataError, match=r"No space left.*1\.0 MB are needed.*GDM_DATA_DIR"):
        fetch(remote(server, "ok"))
    assert files_in(cache) == []


def test_a_disk_that_fills_up_at_the_last_moment(server, cache, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(_download.os, "fsync", full)
    with pytest.raises(DataError, match="No space left"):
        fetch(remote(server, "ok"))
    assert files_in(cache) == []


def test_a_cache_below_a_file_is_reported(server, cache, monkeypatch):
    cache.mkdir()
    (cache / "set").write_text("in the way")
    with pytest.raises(DataError, match=r"could not be stored.*GDM_DATA_DIR"):
        fetch(remote(server, "ok"))


def test_a_read_only_cache_is_reported_before_anything_is_asked_for(server, monkeypatch):
    def read_only(**kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(_download.tempfile, "mkstemp", read_only)
    asked = len(server.hits)
    with pytest.raises(DataError, match=r"Read-only file system.*can't be written"):
        fetch(remote(server, "ok"))
    assert len(server.hits) == asked


def test_a_read_only_cache_that_has_the_file_is_enough(server, monkeypatch):
    path = fetch(remote(server, "ok"))

    def read_only(**kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(_download.tempfile, "mkstemp", read_only)
    assert fetch(remote(server, "ok")) == path


def test_an_interrupt_leaves_nothing(server, cache, monkeypatch):
    def interrupt(self, n):
        raise KeyboardInterrupt

    monkeypatch.setattr(_download.tqdm, "update", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch(remote(server, "ok"))
    assert files_in(cache) == []


FETCH = """
import sys
from gdm_lib.data._download import RemoteFile, fetch
print(fetch(RemoteFile("set/file.gz", (sys.argv[1],), sys.argv[2], int(sys.argv[3]))))
"""


def fetch_elsewhere(file):
    root = str(Path(gdm_lib.__file__).parents[1])
    return subprocess.Popen(
        [sys.executable, "-c", FETCH, file.urls[0], file.sha256, str(file.size)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": root},
    )


def test_a_killed_process_leaves_no_file_under_the_name(server, cache):
    process = fetch_elsewhere(remote(server, "slow"))
    assert server.half_sent.wait(20)
    deadline = time.monotonic() + 10
    while not any(path.stat().st_size for path in files_in(cache)):
        assert time.monotonic() < deadline, "nothing was written"
        time.sleep(0.01)
    process.kill()
    process.communicate()
    server.go_on.set()
    assert not (cache / "set" / "file.gz").exists()
    assert fetch(remote(server, "ok")).read_bytes() == CONTENT


def test_processes_at_once_all_get_the_whole_file(server, cache):
    processes = [fetch_elsewhere(remote(server, "ok")) for _ in range(4)]
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert out.strip() == str(cache / "set" / "file.gz")
    assert [path.read_bytes() for path in files_in(cache)] == [CONTENT]


def test_a_mirror_replaces_the_addresses(server, tmp_path, monkeypatch):
    (tmp_path / "mirror" / "set").mkdir(parents=True)
    (tmp_path / "mirror" / "set" / "file.gz").write_bytes(CONTENT)
    asked = len(server.hits)
    monkeypatch.setenv("GDM_MIRROR", (tmp_path / "mirror").as_uri() + "/")
    assert fetch(remote(server, "ok")).read_bytes() == CONTENT
    assert len(server.hits) == asked


def test_a_mirror_over_http(server, monkeypatch):
    monkeypatch.setenv("GDM_MIRROR", f"http://127.0.0.1:{server.server_port}/ok")
    assert fetch(remote(server, "missing")).read_bytes() == CONTENT
    assert server.hits[-1] == "/ok/set/file.gz"


def test_a_mirror_without_the_file_is_named(server, tmp_path, monkeypatch):
    monkeypatch.setenv("GDM_MIRROR", tmp_path.as_uri())
    with pytest.raises(DataError, match=r"file://.*set/file.gz: .*No such file"):
        fetch(remote(server, "ok"))


def test_a_mirror_must_be_an_address(server, monkeypatch):
    monkeypatch.setenv("GDM_MIRROR", "/srv/data")
    with pytest.raises(DataError, match="GDM_MIRROR must be a base address"):
        fetch(remote(server, "ok"))


def test_the_cache_lies_where_it_should(monkeypatch, tmp_path):
    assert cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("GDM_DATA_DIR")
    root = Path(gdm_lib.__file__).parents[1]
    assert cache_dir() == root / "data" / "cache"
    # As if installed: no checkout around the package.
    monkeypatch.setattr(_download, "__file__", str(tmp_path / "site" / "gdm_lib" / "data" / "x.py"))
    monkeypatch.setattr(_download.sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "gdm_lib"
    monkeypatch.setattr(_download.sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert cache_dir() == tmp_path / "local" / "gdm_lib"


# -- archives, of which what they hold is kept


def packed(server, *faults, unpack=lambda sent: sent[::-1] + sent):
    base = remote(server, *faults)
    content = CONTENT[::-1] + CONTENT
    digest = hashlib.sha256(content).hexdigest()
    return RemoteFile(base.path, base.urls, digest, len(content), unpack, "set/archive.tar")


def test_what_an_archive_holds_is_kept_and_verified(server, cache):
    path = fetch(packed(server, "ok"))
    assert path == cache / "set" / "file.gz"
    assert path.read_bytes() == CONTENT[::-1] + CONTENT
    assert files_in(cache) == [path]
    asked = len(server.hits)
    assert fetch(packed(server, "ok")) == path
    assert len(server.hits) == asked
    path.write_bytes(CONTENT)
    assert fetch(packed(server, "ok")).read_bytes() == CONTENT[::-1] + CONTENT
    assert len(server.hits) == asked + 1


def refuse(sent):
    raise ValueError("it is no archive")


@pytest.mark.parametrize(
    ("fault", "unpack", "message"),
    [
        ("altered", lambda sent: sent[::-1] + sent, "what came has SHA-256"),
        ("cut", lambda sent: sent[::-1] + sent, f"{len(CONTENT)} bytes came, expected"),
        ("missing", lambda sent: sent[::-1] + sent, "the server answered 404"),
        ("ok", refuse, r"/ok/file.gz: what came can't be unpacked \(it is no archive\)"),
        ("endless", refuse, f"more bytes came than the {2 * len(CONTENT)}"),
    ],
)
def test_a_faulty_archive_is_named_and_leaves_nothing(server, cache, fault, unpack, message):
    with pytest.raises(DataError, match=message):
        fetch(packed(server, fault, unpack=unpack))
    assert files_in(cache) == []


def test_the_second_address_of_an_archive_helps_out(server):
    def unpack(sent):
        return sent[::-1] + sent if sent == CONTENT else refuse(sent)

    path = fetch(packed(server, "altered", "ok", unpack=unpack))
    assert path.read_bytes() == CONTENT[::-1] + CONTENT


def test_a_mirror_has_the_archive_under_its_own_name(server, tmp_path, monkeypatch):
    (tmp_path / "mirror" / "set").mkdir(parents=True)
    (tmp_path / "mirror" / "set" / "archive.tar").write_bytes(CONTENT)
    monkeypatch.setenv("GDM_MIRROR", (tmp_path / "mirror").as_uri())
    assert fetch(packed(server, "missing")).read_bytes() == CONTENT[::-1] + CONTENT
