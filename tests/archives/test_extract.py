"""Archives become a tree of DICOM files: completely, in parallel, resumably, and never outside the output folder."""
import io
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
import zipfile
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from medical_fenlei import cli, tables
from medical_fenlei.archives import joined_files as joined
from medical_fenlei.archives import unpack
from medical_fenlei.commands import extract_archives

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tools" / "extract_all.sh"
OUT = Path("data/medical_data_2")
LOG = Path("logs/extract_all.log")


class GbkInfo(zipfile.ZipInfo):
    """A name as Chinese Windows writes it: GBK, and no word of that."""

    encoding = "gbk"

    def _encodeFilenameFlags(self):
        return self.filename.encode(self.encoding), self.flag_bits


class OldInfo(GbkInfo):
    """A name as DOS wrote it."""

    encoding = "cp437"


def exam(number, files=6, size=3000, wrapper=""):
    """Files of an exam by path, half random and half compressible."""
    rng = np.random.default_rng(number)
    folder = f"{wrapper}2023-01-{number % 28 + 1:02d}/{number:06d}/骨窗"
    return {f"{folder} {n % 2}/IM{n:04d}": rng.bytes(size // 2) + bytes(size // 2) for n in range(files)}


def zipped(files, method=zipfile.ZIP_DEFLATED):
    """A zip archive of files by name (or by ZipInfo)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            info = name if isinstance(name, zipfile.ZipInfo) else GbkInfo(name)
            archive.writestr(info, content, method)
    return buffer.getvalue()


def split(name, data, parts=4):
    """Volumes by name."""
    step = -(-len(data) // parts)
    return {f"{name}.{n + 1:03d}": data[n * step:(n + 1) * step] for n in range(parts)}


def tree(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def times(folder):
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*")}


def shell(*words, **env):
    return subprocess.run(["bash", SCRIPT, *map(str, words)], capture_output=True, text=True, timeout=120,
                          env={**os.environ, "MF_PYTHON": sys.executable, "JOBS": "2", "THREADS": "2", **env})


def extract(*words):
    """The exit status of the command, run in this process."""
    return cli.run(lambda: extract_archives.main(["--jobs", "2", *map(str, words)]))


def rejects():
    """Reason and detail of what was left out, by file."""
    table = tables.REJECTS.read(LOG.with_name("extract_all_rejects.csv"))
    return {row.file: (row.reason, row.detail) for row in table.itertuples()}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty project folder."""
    for name in ("JOBS", "THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    Path("archives").mkdir()
    return tmp_path


@pytest.fixture
def nested():
    """Two sets of volumes and a plain zip in one outer zip, beside a note; returns the files that must come out."""
    sets = {"a": {**exam(1, wrapper="医院/"), **exam(2, wrapper="医院/")}, "b": exam(3, files=150), "c": exam(4)}
    content = {**split("部分/a.zip", zipped(sets["a"])), **split("部分/b.zip", zipped(sets["b"]), 3),
               "c.zip": zipped(sets["c"]), "说明.txt": b"a note"}
    Path("archives/all.zip").write_bytes(zipped(content, zipfile.ZIP_STORED))
    return {**sets["a"], **sets["b"], **sets["c"], "说明.txt": b"a note"}


def flip(path, needle, offset=40):
    """Change a byte that stands `offset` bytes after a text."""
    data = bytearray(path.read_bytes())
    data[data.index(needle) + offset] ^= 0xFF
    path.write_bytes(data)


def test_a_nested_split_archive_is_extracted_completely_and_a_second_run_does_nothing(nested):
    first = shell()
    assert first.returncode == 0, first.stdout + first.stderr
    assert tree(OUT) == nested
    assert "volumes: 8 found: 8 extracted, 0 existed already, 0 left out" in first.stdout
    assert "members: 169 found: 169 extracted, 0 existed already, 0 left out" in first.stdout
    assert first.stdout.splitlines()[-1] in LOG.read_text()
    before = times(OUT) | times(Path("archives"))
    second = shell()
    assert second.returncode == 0 and "nothing to extract" in second.stdout
    assert "volumes: 8 found: 0 extracted, 8 existed already" in second.stdout
    assert "169 found: 0 extracted, 169 existed already, 0 left out" in second.stdout
    assert times(OUT) | times(Path("archives")) == before
    assert rejects() == {}


def test_names_of_members_stay_out_of_the_log_and_off_the_terminal(nested):
    Path("archives/more.zip").write_bytes(zipped({"../CANARY": b"1"}))
    said = shell()
    assert said.returncode == 3
    assert not re.search("CANARY|IM0|000001", said.stdout + said.stderr + LOG.read_text())


def test_volumes_that_are_already_in_the_folder_are_used():
    files = exam(1)
    Path("archives/从前").mkdir()
    for name, data in {**split("从前/a.ZIP", zipped(files)), "b.zip": zipped(exam(2))}.items():
        Path("archives", name).write_bytes(data)
    assert extract() == 0
    assert tree(OUT) == {**files, **exam(2)} and not Path("archives/volumes").exists()


@pytest.fixture
def halfway():
    """A run that has written the first of 15,000 files: its process, its folder, the files to come."""
    files = {f"2023-01-01/1/s/{n}": n.to_bytes(2, "big") * 500 for n in range(15000)}
    Path("archives/a.zip").write_bytes(zipped(files, zipfile.ZIP_STORED))
    run = subprocess.Popen(["bash", SCRIPT], env={**os.environ, "MF_PYTHON": sys.executable, "JOBS": "2"}, text=True,
                           start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    folder = OUT / "2023-01-01/1/s"
    while not (folder.exists() and any(folder.iterdir())):
        assert run.poll() is None
        time.sleep(0.001)
    return run, folder, files


def no_process_is_left(group):
    try:
        while True:
            os.killpg(group, 0)
            time.sleep(0.01)
    except ProcessLookupError:
        return True


def test_a_killed_run_leaves_whole_files_and_the_next_one_completes_it(halfway):
    run, folder, files = halfway
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate()
    left = tree(OUT)
    whole = {name: data for name, data in left.items() if not name.startswith(unpack.PARTS)}
    assert 0 < len(whole) < len(files) and all(files[name] == data for name, data in whole.items())
    assert {Path(name).suffix for name in left.keys() - whole.keys()} <= {".part", ""}
    (OUT / unpack.PARTS / "1.part").write_bytes(b"of a run before")
    (folder / "7").write_bytes(b"short")
    there = times(folder)
    assert shell().returncode == 0
    assert tree(OUT) == files
    assert all(p.stat().st_mtime_ns == then for p, then in there.items() if p.name != "7")


def test_workers_do_not_outlive_the_process_that_started_them(halfway):
    run, _, files = halfway
    run.kill()
    run.communicate()
    assert no_process_is_left(run.pid)
    assert shell().returncode == 0 and tree(OUT) == files


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_with_status_75(halfway, number):
    run, _, files = halfway
    if number == signal.SIGINT:
        os.killpg(run.pid, number)                               # Ctrl-C reaches the workers too
    else:
        run.terminate()
    said = run.communicate()[1]
    assert run.returncode == 75 and "run it again to continue" in said and len(said.splitlines()) == 1
    assert "stopped; by a signal" in LOG.read_text() and no_process_is_left(run.pid)
    assert tree(OUT).items() < files.items()


def test_a_damaged_volume_is_named_and_the_rest_is_extracted(nested):
    sound = zipped(exam(3, files=150))
    volumes = split("部分/b.zip", sound, 3)
    flip(Path("archives/all.zip"), volumes["部分/b.zip.002"][:50], 400)
    said = shell()
    assert said.returncode == 3
    assert "damaged: archives/volumes/all.zip/部分/b.zip.002 (1 members)" in said.stdout
    assert "部分/b.zip.002: damaged_member: wrong checksum" in said.stdout
    lost = {name: (reason, detail) for name, (reason, detail) in rejects().items() if "/b.zip.001/" in name or "/IM" in name}
    assert len(lost) == 1 and next(iter(lost.values()))[0] == "damaged_member" and "b.zip.002" in next(iter(lost.values()))[1]
    missing = nested.keys() - tree(OUT).keys()
    assert len(missing) == 1 and tree(OUT).items() <= nested.items()
    found, extracted, there, left = map(int, re.search(r"members: (\d+) \D+(\d+) \D+(\d+) \D+(\d+)", said.stdout).groups())
    assert found == extracted + there + left == len(nested) and left == 1


def test_a_volume_that_cannot_be_unpacked_costs_only_its_own_set():
    content = {**split("a.zip", zipped(exam(1)), 2), **split("b.zip", zipped(exam(2)), 2)}
    content = {**content, "a.zip.001": content["a.zip.001"]}
    data = bytearray(zipped(content))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        start = archive.getinfo("a.zip.001").header_offset + 30 + len("a.zip.001")
    data[start] |= 0b110                                         # a type of block that Deflate does not have
    Path("archives/all.zip").write_bytes(data)
    assert extract() == 3
    assert tree(OUT) == exam(2)
    assert rejects() == {"archives/all.zip/a.zip.001": ("damaged_member", "cannot be read: error (in archives/all.zip)")}


@pytest.mark.parametrize(("harm", "says"), [
    (lambda: Path("archives/a.zip.003").unlink(), "archives/a.zip.003: this volume is missing"),
    (lambda: Path("archives/a.zip.001").unlink(), "archives/a.zip.001: this volume is missing"),
    (lambda: Path("archives/a.zip.004").unlink(), "archives/a.zip.003: cannot read the list of members"),
    (lambda: os.truncate("archives/a.zip.004", 100), "archives/a.zip.004: cannot read the list of members"),
    (lambda: os.truncate("archives/a.zip.002", 100), "archives/a.zip.002: 100 bytes, other volumes have"),
    (lambda: [p.unlink() for p in Path("archives").iterdir()], "--archives archives: holds no .zip"),
])
def test_unusable_volumes_are_named_with_status_2(capsys, harm, says):
    for name, data in split("a.zip", zipped(exam(1))).items():
        Path("archives", name).write_bytes(data)
    harm()
    assert extract() == 2
    said = capsys.readouterr().err
    assert says in said and len(said.splitlines()) == 1 and not OUT.exists()
    assert says in LOG.read_text()


def test_a_whole_archive_that_lacks_bytes_before_its_list_is_refused(capsys):
    data = zipped(exam(1))
    Path("archives/a.zip").write_bytes(data[:500] + data[520:])
    assert extract() == 2
    assert "20 bytes are missing" in capsys.readouterr().err


def special(name, mode):
    info = GbkInfo(name)
    info.create_system, info.external_attr = 3, mode << 16
    return info


def test_links_and_members_outside_the_folder_are_refused(here):
    outside = here / "outside"
    outside.mkdir()
    link = OUT / "2023-01-09"
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)
    (OUT / "2023-01-08/1/s/folder").mkdir(parents=True)
    climbing = ("../up", "2023-01-01/../../../up", str(here / "outside/abs"), "..\\up", "C:\\up", "c:/up", "2023-01-09/1/s/IM")
    files = {
        **dict.fromkeys(climbing, b"x"), special("2023-01-01/1/s/link", stat.S_IFLNK | 0o777): b"/etc/passwd",
        special("2023-01-01/1/s/pipe", stat.S_IFIFO | 0o644): b"",
        "2023-01-01/1/s/IM": b"first", "2023-01-01/1//s/./IM": b"second",
        "2023-01-02\\1\\s\\IM": b"by Windows", "2023-01-01/1/s/IM/below": b"x", "2023-01-08/1/s/folder": b"x",
        "2023-01-02/1": b"x", "2023-01-03/" + "n" * 300: b"x", unpack.PARTS + "/1.part": b"x",
        special("2023-01-04/1/s/IM", stat.S_IFREG | 0o600): b"plain",
    }
    Path("archives/a.zip").write_bytes(zipped(files))
    assert extract() == 3
    link.unlink()
    assert tree(OUT) == {"2023-01-01/1/s/IM": b"first", "2023-01-02/1/s/IM": b"by Windows", "2023-01-04/1/s/IM": b"plain"}
    assert {p.name for p in here.iterdir()} == {"archives", "data", "logs", "outside"} and not any(outside.iterdir())
    reasons = {name.removeprefix("archives/a.zip/"): reason for name, (reason, _) in rejects().items()}
    assert reasons == {
        **dict.fromkeys(climbing, "outside_folder"), "2023-01-01/1/s/link": "not_a_file", "2023-01-01/1/s/pipe": "not_a_file",
        "2023-01-01/1//s/./IM": "duplicate_member", "2023-01-01/1/s/IM/below": "clashes_with_folder",
        "2023-01-08/1/s/folder": "clashes_with_folder", "2023-01-02/1": "clashes_with_folder",
        "2023-01-03/" + "n" * 300: "bad_name", unpack.PARTS + "/1.part": "clashes_with_folder",
    }


def test_the_same_file_in_two_archives_is_not_an_error():
    for name in "ab":
        Path(f"archives/{name}.zip").write_bytes(zipped(exam(1)))
    assert extract() == 0 and tree(OUT) == exam(1)


def test_an_archive_that_expands_too_far_is_refused_before_anything_is_written(capsys):
    Path("archives/a.zip").write_bytes(zipped({"2023-01-01/1/s/IM": bytes(1 << 20)}))
    assert extract() == 2
    assert "archives/a.zip: expands" in (said := capsys.readouterr().err) and "--max-expansion (now 20)" in said
    assert not OUT.exists()
    assert extract("--max-expansion", 2000) == 0 and len(tree(OUT)) == 1


def test_members_that_share_their_bytes_count_each_time(capsys):
    data = zipped({"2023-01-01/1/s/IM": np.random.default_rng(0).bytes(100_000)}, zipfile.ZIP_STORED)
    listed = data.index(b"PK\1\2")
    end = data.index(b"PK\5\6")
    number, size = (1000).to_bytes(2, "little"), (1000 * (end - listed)).to_bytes(4, "little")
    ending = data[end:end + 8] + number * 2 + size + data[end + 16:]
    Path("archives/a.zip").write_bytes(data[:listed] + data[listed:end] * 1000 + ending)
    assert extract() == 2
    assert "archives/a.zip: expands" in capsys.readouterr().err


@pytest.mark.parametrize("nested_too", [False, True])
def test_too_little_disk_space_is_reported_before_anything_is_written(monkeypatch, capsys, nested, nested_too):
    if not nested_too:
        Path("archives/all.zip").write_bytes(zipped(exam(1)))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 10**12 - 10**6, 10**6))
    assert extract() == 2
    assert re.search(r"0\.07 GB are needed, 0\.00 GB are free", capsys.readouterr().err)
    assert not OUT.exists() and not Path("archives/volumes").exists()


def test_encrypted_members_are_left_out():
    data = bytearray(zipped({"2023-01-01/1/s/IM": b"secret", "2023-01-01/1/s/plain": b"plain"}))
    data[6] |= 1
    data[data.index(b"PK\1\2") + 8] |= 1
    Path("archives/a.zip").write_bytes(data)
    assert extract() == 3
    assert tree(OUT) == {"2023-01-01/1/s/plain": b"plain"} and [r for r, _ in rejects().values()] == ["encrypted"]


def claiming(method, files):
    """An archive whose members claim a method of compression."""
    data = bytearray(zipped(files, zipfile.ZIP_STORED))
    for mark, at in ((b"PK\3\4", 8), (b"PK\1\2", 10)):
        for found in re.finditer(re.escape(mark), data):
            data[found.start() + at] = method
    return bytes(data)


def test_without_7zip_what_needs_it_is_left_out_and_the_package_is_named(monkeypatch, capsys):
    monkeypatch.setattr(unpack, "find_seven_zip", lambda: None)
    Path("archives/a.zip").write_bytes(claiming(9, {"2023-01-01/1/s/IM": b"x"}))
    Path("archives/b.zip").write_bytes(zipped(exam(1)))
    assert extract() == 3
    assert tree(OUT) == exam(1) and rejects() == {
        "archives/a.zip/2023-01-01/1/s/IM": ("needs_7zip", "compression method 9")}
    assert "install the Debian package 7zip" in capsys.readouterr().out
    Path("archives/c.zip").write_bytes(claiming(9, split("d.zip", zipped(exam(1)))))
    assert extract() == 2
    assert "archives/c.zip: d.zip.001 cannot be read without 7-Zip" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["Deflate64", "PPMd"])
def test_with_7zip_other_methods_are_extracted_completely_also_nested_and_split(tool, method):
    seven_zip = tool("7z", "7zz")
    files = exam(1, files=20, size=40_000)
    for name, data in files.items():
        path = Path("in", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    pack = [seven_zip, "a", "-bso0", "-tzip", f"-mm={method}"]
    subprocess.run([*pack, "-v100k", "../a.zip", "."], cwd="in", check=True)
    volumes = sorted(p.name for p in Path().glob("a.zip.*"))
    subprocess.run([*pack, "archives/all.zip", *volumes], check=True)
    assert len(volumes) > 3
    assert {info.compress_type for info in zipfile.ZipFile("archives/all.zip").infolist()} - unpack.METHODS
    assert extract() == 0
    assert tree(OUT) == files and not (OUT / unpack.PARTS).exists()


def test_7zip_gets_no_member_name_and_is_stopped_when_it_writes_too_much(monkeypatch, here):
    endless = here / "7z"
    endless.write_text(f"#!/bin/sh\necho \"$@\" > {here}/told\ncp \"$7\" {here}/given.zip\nexec yes\n")
    endless.chmod(0o755)
    monkeypatch.setattr(unpack, "find_seven_zip", lambda: str(endless))
    Path("archives/a.zip").write_bytes(claiming(9, {"2023-01-01/1/s/CANARY": bytes(20_000)}))
    assert extract() == 3
    assert list(rejects().values()) == [("larger_than_declared", "more than 20000 bytes")] and tree(OUT) == {}
    given = zipfile.ZipFile("given.zip").infolist()
    assert [(info.filename, info.compress_type, info.file_size) for info in given] == [("member", 9, 20_000)]
    assert "CANARY" not in Path("told").read_text()


def test_two_extractions_do_not_work_on_one_folder(capsys):
    Path("archives/a.zip").write_bytes(zipped(exam(1)))
    hold = ("import sys; from pathlib import Path; from medical_fenlei.archives.unpack import parts_folder\n"
            f"with parts_folder(Path('{OUT}')): print('held', flush=True); sys.stdin.read()")
    with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          env={**os.environ, "PYTHONPATH": str(ROOT / "src")}) as other:
        other.stdout.readline()
        assert extract() == 2
        assert "another extraction is at work" in capsys.readouterr().err
        other.stdin.close()
    assert extract() == 0 and tree(OUT) == exam(1)


def test_names_that_are_not_gbk_are_read_as_cp437():
    name = "2023-01-01/1/s/IM\N{NO-BREAK SPACE}"                 # a byte that GBK does not have
    Path("archives/a.zip").write_bytes(zipped({OldInfo(name): b"x"}))
    assert extract() == 0 and tree(OUT) == {name: b"x"}


def test_joined_files_read_like_their_concatenation(here):
    rng = np.random.default_rng(0)
    data = rng.bytes(1000)
    paths = []
    for name, start, end in (("a", 0, 300), ("b", 300, 300), ("c", 300, 999), ("d", 999, 1000)):
        paths.append(here / name)
        paths[-1].write_bytes(data[start:end])
    with joined.JoinedFiles(paths) as files, io.BytesIO(data) as whole:
        assert files.readall() == data and files.read(1) == b""
        for _ in range(200):
            at, length = int(rng.integers(0, 1010)), int(rng.integers(0, 400))
            assert files.seek(at) == whole.seek(at)
            got = b""
            while len(got) < length and (more := files.read(length - len(got))):
                got += more
            assert got == whole.read(length)
        assert files.seek(-5, os.SEEK_END) == 995 and files.tell() == 995


@pytest.mark.parametrize(("words", "env", "says"), [
    (("--jobs", "0"), {}, "argument --jobs: got '0', expected a number of at least 1"),
    ((), {"JOBS": "many"}, "argument --jobs: got 'many'"),
    (("--odd",), {}, "unrecognized arguments: --odd"),
])
def test_wrong_arguments_are_one_line_with_status_2(words, env, says):
    said = shell(*words, **env)
    assert said.returncode == 2 and says in said.stderr and len(said.stderr.splitlines()) == 1


def test_help_shows_the_command_and_nothing_but_the_standard_library_is_imported():
    assert "JOBS=30 THREADS=30 tools/extract_all.sh" in shell("--help").stdout
    loads = (f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r}); from medical_fenlei.commands import extract_archives\n"
             "print(*{name.split('.')[0] for name in sys.modules})")
    bare = subprocess.run([sys.executable, "-I", "-S", "-c", loads], capture_output=True, text=True, check=True)
    assert set(bare.stdout.split()) <= {*sys.stdlib_module_names, "medical_fenlei", "__main__", "__mp_main__"}
