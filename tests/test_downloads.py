"A data set from a local server: whole, cut off, altered; and archives that are not to be trusted."

import hashlib
import http.server
import io
import json
import stat
import threading
import zipfile

import numpy as np
import pytest
from PIL import Image

from sdfdiff.files import Exists, Refused
from sdfdiff.images.downloads import NOTE, SOURCES, Source, fetch, unpack


def archive(files, compression=zipfile.ZIP_STORED):
    with io.BytesIO() as memory:
        with zipfile.ZipFile(memory, "w", compression) as file:
            for name, content in files.items():  # without the time of day: all workers collect the same tests
                name = name if isinstance(name, zipfile.ZipInfo) else zipfile.ZipInfo(name)
                file.writestr(name, content, compression)
        return memory.getvalue()


CONTENT = archive({"set/images/a.bin": bytes(range(256)) * 2000, "set/masks/a.bin": b"b" * 300_000})
SUM = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


class Server:
    "Sends one file; `stops` says after how many bytes an answer breaks off, `ranges` whether it knows Range."

    def __init__(self):
        self.content, self.stops, self.ranges, self.status, self.begins = CONTENT, [], True, 200, []
        outer = self

        class Answer(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                asked = self.headers.get("Range") if outer.ranges else None
                begin = int(asked[6:].split("-")[0]) if asked else 0
                outer.begins.append(begin)
                rest = outer.content[begin:]
                self.send_response(416 if asked and not rest else 206 if asked else outer.status)
                self.send_header("Content-Length", str(len(rest)))
                self.end_headers()
                self.wfile.write(rest[: outer.stops.pop(0) if outer.stops else None])

            def log_message(self, *words):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def source(self, checksum=SUM):
        return Source("free", "a page", ("set.zip",), f"http://127.0.0.1:{self.server.server_port}/set.zip", checksum)


@pytest.fixture
def server():
    one = Server()
    yield one
    one.server.shutdown()
    one.server.server_close()


def get(source, folder):
    return fetch(source, folder, accept=True, progress=False)


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("checksum", [SUM, "md5:" + hashlib.md5(CONTENT).hexdigest(), ""])
def test_a_whole_archive(server, tmp_path, checksum):
    assert get(server.source(checksum), tmp_path / "here") == {"set.zip": SUM}
    assert names(tmp_path / "here") == [NOTE, "set/images/a.bin", "set/masks/a.bin"]
    note = json.loads((tmp_path / "here" / NOTE).read_text())
    assert note["archives"] == {"set.zip": SUM}
    assert note["checksum"] == ("as expected" if checksum else "recorded at this download, compared with nothing")
    with pytest.raises(Exists, match="not empty"):
        get(server.source(), tmp_path / "here")
    assert server.begins == [0], "nothing is asked for if the folder is in the way"


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_is_cut_off_goes_on(server, tmp_path, ranges):
    server.stops, server.ranges = [400_000, 200_000] if ranges else [400_000], ranges
    for _ in server.stops.copy():
        with pytest.raises(OSError, match="not downloaded whole.*the same command goes on"):
            get(server.source(), tmp_path / "here")
        assert not (tmp_path / "here").exists() and (tmp_path / "set.zip.part").exists()
    assert get(server.source(), tmp_path / "here") == {"set.zip": SUM}
    assert not (tmp_path / "set.zip.part").exists()
    if ranges:
        assert 0 == server.begins[0] < server.begins[1] <= 400_000 < server.begins[2] <= 600_000
    else:
        assert server.begins == [0, 0]


def test_an_altered_archive_is_noticed_and_nothing_stays(server, tmp_path):
    server.content = CONTENT[:1000] + b"?" + CONTENT[1001:]
    with pytest.raises(ValueError, match="its checksum is another; nothing was kept"):
        get(server.source(), tmp_path / "here")
    assert names(tmp_path) == [] and not (tmp_path / "here").exists()


def test_an_answer_that_is_no_archive(server, tmp_path):
    server.status = 404
    with pytest.raises(OSError, match="the server says 404"):
        get(server.source(), tmp_path / "here")
    server.status, server.content = 200, b"<html>please log in</html>"
    with pytest.raises(ValueError, match="not unpacked: File is not a zip file"):
        get(server.source(""), tmp_path / "here")
    assert not (tmp_path / "here").exists()


def test_a_changed_file_on_the_server_does_not_join_the_old_half(server, tmp_path):
    server.stops = [400_000]
    with pytest.raises(OSError, match="goes on"):
        get(server.source(), tmp_path / "here")
    server.content = archive({"other.bin": b"c" * 900_000})
    with pytest.raises(ValueError, match="checksum"):
        get(server.source(), tmp_path / "here")
    server.content = CONTENT
    assert get(server.source(), tmp_path / "here") == {"set.zip": SUM}, "and the next attempt begins anew"


def test_licence_login_and_unknown_names(tmp_path):
    for name, source in SOURCES.items():
        with pytest.raises(Refused, match="pass accept=True to accept it") as said:
            fetch(name, tmp_path / "here")
        assert source.licence in str(said.value)
        if not source.address:
            with pytest.raises(ValueError, match="without a login: log in at https://") as said:
                fetch(name, tmp_path / "here", accept=True)
            assert all(archive in str(said.value) for archive in source.archives)
    with pytest.raises(ValueError, match="unknown data set 'cifar'; choose one of monuseg, glas, dsb2018"):
        fetch("cifar", tmp_path / "here", accept=True)
    assert names(tmp_path) == []


def test_what_a_person_downloaded(tmp_path):
    (tmp_path / "a.zip").write_bytes(archive({"a.txt": b"a"}))
    (tmp_path / "b.zip").write_bytes(archive({"b.txt": b"b"}))
    sums = fetch("monuseg", tmp_path / "here", True, (tmp_path / "a.zip", tmp_path / "b.zip"), progress=False)
    assert list(sums) == ["a.zip", "b.zip"] and names(tmp_path / "here") == ["a/a.txt", "b/b.txt", NOTE]
    for wrong, said in (
        (("a.zip", "b.zip", "a.zip"), "3 archives are given, but monuseg is MoNuSeg 2018"),
        (("a.zip", "a.zip"), "have the same name"),
        (("a.zip", "missing.zip"), "missing.zip does not exist"),
    ):
        with pytest.raises((ValueError, OSError), match=said):
            fetch("monuseg", tmp_path / "there", True, [tmp_path / one for one in wrong], progress=False)
        assert not (tmp_path / "there").exists()
    with pytest.raises(ValueError, match="2 archives are given, but glas is warwick"):
        fetch("glas", tmp_path / "glas", True, (tmp_path / "a.zip", tmp_path / "b.zip"), progress=False)
    with pytest.raises(ValueError, match="a.zip is damaged or another version: its checksum is md5:"):
        fetch("glas", tmp_path / "glas", True, (tmp_path / "a.zip",), progress=False)
    assert not (tmp_path / "glas").exists()


def linked():
    one = zipfile.ZipInfo("link")
    one.external_attr = (stat.S_IFLNK | 0o777) << 16
    return archive({one: b"/etc"})


DEFLATED = archive({"a": bytes(range(256)) * 90}, zipfile.ZIP_DEFLATED)
STRANGE = {
    "altered in the compressed part": (DEFLATED[:60] + b"?" * 40 + DEFLATED[100:], {}, "not unpacked"),
    "up": (archive({"a/../../outside.txt": b"x"}), {}, "outside the folder"),
    "absolute": (archive({"/outside.txt": b"x"}), {}, "outside the folder"),
    "drive": (archive({"C:/outside.txt": b"x"}), {}, "outside the folder"),
    "backslashes": (archive({"..\\outside.txt": b"x"}), {}, "outside the folder"),
    "link": (linked(), {}, "is a link"),
    "many": (archive({f"{k}": b"" for k in range(9)}), {"most_files": 8}, "9 files, more than 8"),
    "large": (archive({"a": bytes(5000)}, zipfile.ZIP_DEFLATED), {"most_bytes": 4999}, "more than"),
    "cut off": (CONTENT[: len(CONTENT) // 2], {}, "not a zip file"),
    "altered": (CONTENT[:1000] + b"?" + CONTENT[1001:], {}, "CRC"),
    "text": (b"hello", {}, "not a zip file"),
}


@pytest.mark.parametrize("kind", STRANGE)
def test_strange_archives_leave_nothing(tmp_path, kind):
    content, limits, said = STRANGE[kind]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "set.zip").write_bytes(content)
    with pytest.raises(ValueError, match=said) as problem:
        unpack([tmp_path / "in" / "set.zip"], tmp_path / "in" / "out", **limits)
    assert str(problem.value).startswith(str(tmp_path / "in" / "set.zip")) and "\n" not in str(problem.value)
    assert names(tmp_path) == ["in/set.zip"] and [path.name for path in (tmp_path / "in").iterdir()] == ["set.zip"]


def test_a_twice_named_file_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr("a.txt", b"1")
        file.writestr("a.txt", b"2")
    with pytest.raises(ValueError, match="it holds a.txt twice"):
        unpack([tmp_path / "set.zip"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_empty_folder_may_be_there_and_a_full_one_not(tmp_path):
    (tmp_path / "set.zip").write_bytes(archive({"a.txt": b"a", "empty/": b""}))
    (tmp_path / "out").mkdir()
    unpack([tmp_path / "set.zip"], tmp_path / "out")
    assert (tmp_path / "out" / "empty").is_dir() and (tmp_path / "out" / "a.txt").read_bytes() == b"a"
    with pytest.raises(Exists, match="not empty"):
        unpack([tmp_path / "set.zip"], tmp_path / "out")


def test_what_arrives_is_checked_as_a_folder_of_images(server, tmp_path):
    "The whole way, as `data get dsb2018` goes it: pictures with their labels, in train and test."
    from sdfdiff.images.inventory import take_inventory

    files = {}
    for k in range(6):
        for kind in ("images", "masks"):
            values = np.zeros((40, 50), np.uint16) if kind == "masks" else np.full((40, 50), 40 * k, np.uint8)
            values[5 + k : 20, 5:20] = 1
            with io.BytesIO() as memory:
                Image.fromarray(values).save(memory, "TIFF")
                files[f"dsb2018/{'test' if k == 5 else 'train'}/{kind}/{k}.tif"] = memory.getvalue()
    server.content = archive(files)
    get(server.source(""), tmp_path / "dsb2018")
    found = take_inventory(tmp_path / "dsb2018", "folder", progress=False)
    assert found.problems == () and len(found.cases) == 6 and "training images: 5, others: 1" in found.remarks


def test_two_archives_are_unpacked_both_or_none(tmp_path):
    (tmp_path / "a.zip").write_bytes(archive({"a.txt": b"a"}))
    (tmp_path / "b.zip").write_bytes(CONTENT[:5000])
    with pytest.raises(ValueError, match="b.zip is not unpacked"):
        unpack([tmp_path / "a.zip", tmp_path / "b.zip"], tmp_path / "new" / "deep")
    assert names(tmp_path) == ["a.zip", "b.zip"] and not (tmp_path / "new").exists()


def test_targets_of_every_kind(tmp_path, monkeypatch):
    (tmp_path / "set.zip").write_bytes(archive({"./": b"", "scan 12:30.txt": b"a"}))
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    monkeypatch.chdir(tmp_path / "empty")
    unpack([tmp_path / "set.zip"], ".", notes={NOTE: "{}"})
    assert names(tmp_path / "empty") == ["scan 12:30.txt", NOTE]
    for path in (tmp_path / "empty").iterdir():
        path.unlink()
    unpack(["../set.zip"], tmp_path / "link")
    assert names(tmp_path / "empty") == ["scan 12:30.txt"]
    with pytest.raises(Exists, match="set.zip is there and no folder"):
        unpack([tmp_path / "set.zip"], tmp_path / "set.zip")
