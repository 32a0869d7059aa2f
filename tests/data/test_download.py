"""Downloads from a server on the loopback that does everything wrong that a server can."""

import dataclasses
import errno
import hashlib
import io
import itertools
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest

import gdm_lib
from gdm_lib import _files
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
        if fault in ("raw", "drip", "steady"):
            self.dishonest(fault)
            return
        if fault == "again":
            self.send_response(302)
            self.send_header("Location", self.server.location)
            self.end_headers()
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

    def dishonest(self, fault):
        """Bytes of its own choice, in its own time."""
        try:
            if fault == "raw":
                once, again = self.server.raw
                self.wfile.write(once)
                while again:
                    self.wfile.write(again)
            elif fault == "drip":
                for byte in self.server.drip or itertools.repeat(0, 1):
                    self.wfile.write(bytes([byte]))
                    self.wfile.flush()
                    if self.server.never.wait(0.05):
                        return
                self.server.never.wait(1)
            else:
                self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
                for start in range(0, len(CONTENT), 50_000):
                    self.wfile.write(CONTENT[start : start + 50_000])
                    self.server.never.wait(self.server.pause)
        except OSError:
            pass  # the client hung up, as it should

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.hits = []
    server.half_sent, server.go_on, server.never = (threading.Event() for _ in range(3))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.go_on.set()
    server.never.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GDM_DATA_DIR", str(tmp_path / "cache"))
    # A proxy would be asked for the hosts that don't exist, and `make test` names a closed one.
    monkeypatch.setenv("no_proxy", "*")
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


class FullDisk(io.FileIO):
    """A file on a disk with room for one chunk."""

    def write(self, chunk):
        if self.tell():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(chunk)


def test_a_full_disk_says_how_much_room_is_needed(server, cache, monkeypatch):
    monkeypatch.setattr(Path, "open", lambda path, mode: FullDisk(path, mode))
    with pytest.raises(DataError, match=r"No space left.*1\.0 MB are needed.*GDM_DATA_DIR"):
        fetch(remote(server, "ok"))
    assert not cache.exists()


def test_a_disk_that_fills_up_at_the_last_moment(server, cache, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(_files.os, "fsync", full)
    with pytest.raises(DataError, match="No space left"):
        fetch(remote(server, "ok"))
    assert not cache.exists()


def test_a_cache_below_a_file_is_reported(server, cache, monkeypatch):
    cache.mkdir()
    (cache / "set").write_text("in the way")
    with pytest.raises(DataError, match=r"could not be stored.*GDM_DATA_DIR"):
        fetch(remote(server, "ok"))


@pytest.fixture
def read_only(monkeypatch):
    """From now on no file can be made."""

    def make():
        def mkstemp(**kwargs):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

        monkeypatch.setattr(_files.tempfile, "mkstemp", mkstemp)

    return make


def test_a_read_only_cache_is_reported_before_anything_is_asked_for(server, read_only):
    read_only()
    asked = len(server.hits)
    with pytest.raises(DataError, match=r"Read-only file system.*can't be written"):
        fetch(remote(server, "ok"))
    assert len(server.hits) == asked


def test_a_read_only_cache_that_has_the_file_is_enough(server, read_only):
    path = fetch(remote(server, "ok"))
    read_only()
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
    path = fetch(remote(server, "ok"))
    assert path.read_bytes() == CONTENT
    assert files_in(cache) == [path]  # what the killed one left is gone


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


# -- what no honest server does, and what lies in the cache instead of a file


LEADS = {
    "http://[::1/x": "malformed",
    "http://a..b/x": "malformed",
    f"http://{'a' * 70}.b/x": "malformed",
    "http://127.0.0.1:99999/x": ".",
    "http://127.0.0.1:port/x": "nonnumeric port",
    "http://127.0.0.1:-1/x": ".",
    "http://": "infinite loop",  # which is the address that it leads from
    "http://\u00fc\u00fc..\u00fc/x": ".",
    "//[/x": "malformed",
    "ftp://127.0.0.1/x": "unknown url type: ftp",
    "file:///etc/passwd": "is not allowed",
    "data:,x": "is not allowed",
    "javascript:x": "is not allowed",
    "\x1b[2J": ".",
    "/again/file.gz": "redirect",
}
RAW = {
    "no answer": b"",
    "no HTTP": b"<html>\r\n\r\n",
    "control characters": b"HTTP/1.1 500 \x1b[2J\x07\xff\r\n\r\n",
    "long reason": b"HTTP/1.1 500 " + b"x" * 60_000 + b"\r\n\r\n",
    "long line": b"HTTP/1.1 200 OK\r\nA: " + b"x" * 70_000 + b"\r\n\r\n",
    "many headers": b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n",
    "no status": b"HTTP/1.1 abc OK\r\n\r\n",
    "negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nabc",
    "huge length": b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 30 + b"\r\n\r\nabc",
    "huge length of a redirection": b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: "
    + b"9" * 30 + b"\r\n\r\nabc",
    "bad chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    "negative chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nabc\r\n",
    "huge chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 30 + b"\r\na",
    "no location": b"HTTP/1.1 302 Found\r\n\r\n",
}  # fmt: skip
ENDLESS = {
    "100 Continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n", "headers and redir|too slow"),
    "headers of 100 Continue": (
        b"", b"HTTP/1.1 100 Continue\r\n" + b"A: b\r\n" * 50 + b"\r\n",
        "headers and redir|too slow",
    ),
    "a redirection's body": (
        b"HTTP/1.1 302 Found\r\nLocation: /ok/file.gz\r\n\r\n", b"x" * 5000,
        "headers and redirections|too slow",
    ),
    "chunks": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"300\r\n" + b"x" * 0x300 + b"\r\n",
        f"bytes came, expected {len(CONTENT)}|too slow",
    ),
}  # fmt: skip


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(_download, "TIMEOUT", 0.3)


def assert_refused(server, cache, fault, message):
    """The error is one printable line that names the address, and the cache stays as it is."""
    before = {path: path.read_bytes() for path in files_in(cache)}
    with pytest.raises(DataError, match=message) as caught:
        fetch(remote(server, fault))
    told = str(caught.value)
    assert f"/{fault}/file.gz: " in told
    assert told.isprintable()
    assert len(told) < 2000
    assert {path: path.read_bytes() for path in files_in(cache)} == before


@pytest.mark.parametrize("to", LEADS)
def test_a_redirection_to_nowhere_is_named(server, cache, to, monkeypatch):
    monkeypatch.setattr(server, "location", to, raising=False)
    assert_refused(server, cache, "again", LEADS[to])
    assert not cache.exists()


def test_a_redirection_to_the_file_is_followed(server, monkeypatch):
    monkeypatch.setattr(server, "location", "/ok/file.gz?a=\u00fc", raising=False)
    assert fetch(remote(server, "again")).read_bytes() == CONTENT


@pytest.mark.parametrize("name", RAW)
def test_an_answer_that_is_none_is_named(server, cache, name, monkeypatch):
    monkeypatch.setattr(server, "raw", (RAW[name], b""), raising=False)
    assert_refused(server, cache, "raw", ".")
    assert not cache.exists()


def test_a_server_without_encryption_is_named(server, cache):
    file = remote(server, "ok")
    secure = dataclasses.replace(file, urls=(file.urls[0].replace("http:", "https:"),))
    with pytest.raises(DataError, match=r"https://127.0.0.1:\d+/ok/file.gz: .*SSL"):
        fetch(secure)
    assert not cache.exists()


@pytest.mark.parametrize("name", ENDLESS)
def test_what_is_sent_without_end_is_cut_off(server, cache, name, monkeypatch, impatient):
    head, again, message = ENDLESS[name]
    monkeypatch.setattr(server, "raw", (head, again), raising=False)
    assert_refused(server, cache, "raw", message)


def test_what_precedes_the_file_is_cut_off_before_the_time_is_over(server, cache, monkeypatch):
    monkeypatch.setattr(_download, "MAX_HEAD", 10_000)
    head, again, _ = ENDLESS["a redirection's body"]
    monkeypatch.setattr(server, "raw", (head, again), raising=False)
    assert_refused(server, cache, "raw", "more than 10,000 bytes of headers and redirections came")


OK = b"HTTP/1.1 200 OK\r\n\r\n"


@pytest.mark.parametrize("whole", [b"HTTP/1.1 100 Continue\r\n\r\n", OK, OK + CONTENT, b""])
def test_a_source_that_drips_is_given_up(server, cache, whole, monkeypatch, impatient):
    """A few bytes at a time, each well before a socket would time out."""
    monkeypatch.setattr(server, "drip", whole, raising=False)
    start = time.monotonic()
    assert_refused(server, cache, "drip", "too slow: .* bytes came in 0")
    assert time.monotonic() - start < 10


def test_a_source_may_take_its_time_as_long_as_it_sends_enough(server, monkeypatch):
    monkeypatch.setattr(_download, "TIMEOUT", 1)
    monkeypatch.setattr(_download, "MIN_RATE", 100_000)
    monkeypatch.setattr(server, "pause", 0.06, raising=False)
    start = time.monotonic()
    assert fetch(remote(server, "steady")).read_bytes() == CONTENT
    assert time.monotonic() - start > 1.2


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "loop"])
def test_what_is_no_plain_file_in_the_cache_is_named_and_left(server, cache, kind):
    path = cache / "set" / "file.gz"
    path.parent.mkdir(parents=True)
    make = {"pipe": os.mkfifo, "device": lambda p: p.symlink_to("/dev/zero"), "folder": Path.mkdir,
            "loop": lambda p: p.symlink_to(p)}  # fmt: skip
    make[kind](path)
    before = path.lstat()
    with pytest.raises(DataError, match=r"set/file\.gz can't be read .* or delete it"):
        fetch(remote(server, "ok"))
    assert path.lstat() == before


@pytest.mark.parametrize("kind", [os.mkfifo, lambda p: p.symlink_to("/dev/zero"), Path.mkdir])
def test_what_is_no_plain_file_in_a_mirror_is_named(server, cache, tmp_path, monkeypatch, kind):
    (tmp_path / "mirror/set").mkdir(parents=True)
    kind(tmp_path / "mirror/set/file.gz")
    monkeypatch.setenv("GDM_MIRROR", (tmp_path / "mirror").as_uri())
    with pytest.raises(DataError, match=r"mirror/set/file.gz: .*is not a plain file"):
        fetch(remote(server, "ok"))
    assert not cache.exists()


def test_a_huge_file_in_the_cache_is_not_read(server, cache):
    path = cache / "set" / "file.gz"
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        file.truncate(1 << 42)  # it takes no room, but hours to read
    assert fetch(remote(server, "ok")).read_bytes() == CONTENT


def test_a_cache_that_cannot_be_entered_is_named(server, cache, monkeypatch):
    """As a folder without any permission is to all but the superuser, who may run these tests."""
    real = os.open

    def denied(path, *args, **kwargs):
        if str(path).startswith(str(cache)):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(
        DataError, match=r"file\.gz can't be read .*Permission denied.*GDM_DATA_DIR"
    ):
        fetch(remote(server, "ok"))


def test_a_home_that_nobody_has_is_named(server, monkeypatch):
    monkeypatch.setenv("GDM_DATA_DIR", "~nosuchuser/data")
    for call in (cache_dir, lambda: fetch(remote(server, "ok"))):
        with pytest.raises(DataError, match=r"GDM_DATA_DIR is '~nosuchuser/data'; set it to"):
            call()


@pytest.mark.parametrize(
    ("mirror", "message"),
    [
        ("http://[bad", "GDM_MIRROR must be a base address"),
        ("http://", "no host given"),
        ("http://a..b", "malformed"),
        ("http://127.0.0.1:99999999999", "malformed"),
        ("file://elsewhere/srv", "a file's address has no host"),
        ("file:///srv/\udcff\n", "No such file"),
        ("ftp://127.0.0.1", "GDM_MIRROR must be a base address"),
    ],
)
def test_a_malformed_mirror_is_named(server, cache, monkeypatch, mirror, message):
    monkeypatch.setenv("GDM_MIRROR", mirror)
    with pytest.raises(DataError, match=message):
        fetch(remote(server, "ok"))
    assert not cache.exists()


@pytest.mark.parametrize("folder", ["\u00fc \u4e2d", "100%25", "a?b=\u00fc c"])
def test_a_mirrors_path_may_have_any_characters(server, tmp_path, monkeypatch, folder):
    monkeypatch.setenv("GDM_MIRROR", f"http://127.0.0.1:{server.server_port}/ok/{folder}")
    assert fetch(remote(server, "ok")).read_bytes() == CONTENT
    assert unquote(server.hits[-1]) == f"/ok/{unquote(folder)}/set/file.gz"


def test_a_mirrors_folder_may_have_any_characters(server, tmp_path, monkeypatch):
    (tmp_path / "\u00fc \u4e2d/set").mkdir(parents=True)
    (tmp_path / "\u00fc \u4e2d/set/file.gz").write_bytes(CONTENT)
    monkeypatch.setenv("GDM_MIRROR", f"file://{tmp_path}/\u00fc \u4e2d")
    assert fetch(remote(server, "ok")).read_bytes() == CONTENT


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
