"""Released wheels read from an index on loopback, whole and failing, with and without ranges."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from index_site import COMMIT, GCC, MOLD, NAME, NEW, OLD, STRAY, Site, library, serving, wheel

from builder.core.errors import FailureKind, MachineError, TargetError
from builder.wheels import indexclient
from builder.wheels.upstream_wheels import LIBRARY, ReleasedFile, ReleasedIndex, ReleasedWheel

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")


@pytest.fixture(scope="module")
def old_abi(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return library(tmp_path_factory.mktemp("elf"), OLD, STRAY)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(indexclient, "FIRST_WAIT", 0.01)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    with serving() as site:
        yield site


@pytest.fixture
def index(site: Site, tmp_path: Path) -> ReleasedIndex:
    return ReleasedIndex(tmp_path / "cache", index_url=site.url, retries=2)


def only(index: ReleasedIndex) -> ReleasedFile:
    (file,) = index.files()
    return file


def fault(kind: FailureKind, call: Callable[[], object]) -> str:
    with pytest.raises(TargetError) as caught:
        call()
    assert caught.value.kind is kind
    return caught.value.message


@pytest.mark.parametrize("as_json", [False, True])
def test_the_index_page_lists_files(site: Site, index: ReleasedIndex, as_json: bool) -> None:
    site.json = as_json
    for version, python, arch in (("2.10.0", "310", "aarch64"), ("2.9.0", "39", "x86_64"), ("2.9.0", "310", "x86_64")):
        site.add(f"torch_npu-{version}-cp{python}-cp{python}-manylinux_2_28_{arch}.whl", version.encode())
    site.add("torch_npu-2.9.0rc1-cp39-cp39-manylinux_2_28_x86_64.whl", b"", sha256="../../escape")
    site.add("torch_npu-2.9.0.tar.gz", b"")
    site.add("torch_npu-2.9.0-cp39-cp39-win_amd64.whl", b"")
    found = index.files()
    assert [(file.version, file.python, file.arch) for file in found] == [
        ("2.9.0rc1", "3.9", "x86_64"),
        ("2.9.0", "3.9", "x86_64"),
        ("2.9.0", "3.10", "x86_64"),
        ("2.10.0", "3.10", "aarch64"),
    ]
    assert [file.sha256 for file in found[:2]] == [None, hashlib.sha256(b"2.9.0").hexdigest()]
    assert found[1].url == f"{site.url.removesuffix('/simple/')}/files/{found[1].filename}"
    assert {file.uploaded for file in found} == {"2026-03-01T10:20:30.500000+00:00" if as_json else None}


def test_torchs_wheels_come_without_free_threaded_ones(site: Site, index: ReleasedIndex) -> None:
    names = [f"torch-2.9.0-cp313-cp313{t}-manylinux_2_28_x86_64.whl" for t in ("t", "")]
    for name in [*names, "torch_npu-2.9.0-cp313-cp313-manylinux_2_28_x86_64.whl"]:
        site.add(name, b"x")
    assert index.torch_wheels() == [("2.9.0", "3.13", "x86_64", names[1], hashlib.sha256(b"x").hexdigest())]
    assert site.asked == [("/simple/torch/", "")]


def test_a_wheel_is_read_in_parts_and_only_once(
    site: Site, index: ReleasedIndex, old_abi: bytes, tmp_path: Path
) -> None:
    path = site.add(NAME, wheel(old_abi))
    read = index.read(only(index))
    assert (read.gcc, set(read.comments), read.cxx11_abi) == ("9.3.1", {GCC, MOLD}, 0)
    assert read.requires == ("torch==2.5.1+cpu", 'pyyaml; extra == "yaml"')
    assert (read.version, read.git_version) == ("2.5.1.post1", COMMIT)
    assert all(wanted for asked, wanted in site.asked if asked == path)
    # Positions in a compressed answer would not be those in the file.
    assert site.encodings[path] == "identity"
    assert index.fetched == site.sent < len(site.files[path]) / 5
    assert [kept.name for kept in (tmp_path / "cache").iterdir()] == [f"{read.file.sha256}.json"]
    site.asked.clear()
    again = ReleasedIndex(tmp_path / "cache", index_url=site.url)
    assert again.read(only(again)) == read
    assert site.asked == [("/simple/torch-npu/", "")]


def test_without_ranges_the_wheel_is_fetched_once_and_not_kept(
    site: Site, index: ReleasedIndex, old_abi: bytes, tmp_path: Path
) -> None:
    path = site.add(NAME, wheel(old_abi))
    file = only(index)
    in_parts = ReleasedIndex(tmp_path / "other", index_url=site.url).read(file)
    site.ranges = False
    before = index.fetched
    assert index.read(file) == in_parts
    assert index.fetched - before == len(site.files[path])
    assert site.encodings[path] == "identity"
    assert [kept.name for kept in (tmp_path / "cache").iterdir()] == [f"{file.sha256}.json"]


def test_a_whole_wheel_must_have_the_hash_that_the_index_states(
    site: Site, index: ReleasedIndex, old_abi: bytes, tmp_path: Path
) -> None:
    site.ranges = False
    site.add(NAME, wheel(old_abi), sha256="0" * 64)
    said = fault(FailureKind.VERIFY, partial(index.read, only(index)))
    assert NAME in said
    assert f"the index says {'0' * 64}" in said
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(("needed", "abi"), [([OLD, STRAY], 0), ([NEW, STRAY], 1), ([STRAY], None)])
def test_the_abi_is_that_of_torchs_functions(
    site: Site, index: ReleasedIndex, tmp_path: Path, needed: list[str], abi: int | None
) -> None:
    site.add(NAME, wheel(library(tmp_path, *needed, comments=("clang version 17.0.6",))))
    read = index.read(only(index))
    assert (read.cxx11_abi, read.gcc, read.comments) == (abi, None, ("clang version 17.0.6",))


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("failure", [500, 429, "cut"])
def test_what_may_pass_is_tried_again(
    site: Site, tmp_path: Path, old_abi: bytes, failure: int | str, ranges: bool
) -> None:
    site.ranges = ranges
    path = site.add(NAME, wheel(old_abi))
    warned: list[str] = []
    index = ReleasedIndex(tmp_path, index_url=site.url, warn=warned.append)
    site.faults = {path: [200, failure, 200], "/simple/torch-npu/": [502, 200]}
    assert index.read(only(index)).gcc == "9.3.1"
    assert len(warned) == 2
    assert "the index page of torch-npu: the server answers 502" in warned[0]
    assert NAME in warned[1]


@pytest.mark.parametrize(
    ("failure", "says", "tries"), [(404, "404", 1), (403, "403", 1), (503, "503", 3), ("cut", "", 3)]
)
def test_what_stays_is_a_network_failure_that_names_file_and_place(
    site: Site, index: ReleasedIndex, old_abi: bytes, failure: int | str, says: str, tries: int
) -> None:
    path = site.add(NAME, wheel(old_abi), url=f"http://ann:hush@127.0.0.1:{site.server_port}/files/{NAME}")
    file = only(index)
    assert file.url == f"http://127.0.0.1:{site.server_port}{path}"
    site.faults[path] = [failure]
    site.asked.clear()
    said = fault(FailureKind.NETWORK, partial(index.read, replace(file, url=file.url + "?token=hush")))
    assert said.startswith(f"{NAME} could not be fetched from http://127.0.0.1:{site.server_port}{path}: ")
    assert says in said
    assert "hush" not in said
    assert len(site.asked) == tries


def test_no_server_no_answer_no_project_and_no_index_page(site: Site, tmp_path: Path) -> None:
    with serving() as gone:
        nowhere = gone.url
    silent = ReleasedIndex(tmp_path, index_url=nowhere, retries=0)
    assert "refused" in fault(FailureKind.NETWORK, silent.files)
    hasty = ReleasedIndex(tmp_path, index_url=site.url, retries=0, timeout=0.1)
    site.delays["/simple/torch-npu/"] = 0.5
    assert "timed out" in fault(FailureKind.NETWORK, hasty.files)
    site.delays.clear()
    index = ReleasedIndex(tmp_path, index_url=site.url, retries=0)
    assert "404" in fault(FailureKind.NETWORK, partial(index.files, "absent"))
    for page in (
        ("text/html", b"<html>please log in</html>"),
        ("application/vnd.pypi.simple.v1+json", b"{"),
        ("application/vnd.pypi.simple.v1+json", b'{"files": 1}'),
        ("application/vnd.pypi.simple.v1+json", b'{"meta": {"api-version": "2.0"}, "name": "x", "files": []}'),
        ("image/png", b"\x89PNG"),
    ):
        site.page = page
        assert fault(FailureKind.VERIFY, index.files).startswith("the index page of torch-npu: ")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda kept: "{",
        lambda kept: "[]",
        lambda kept: json.dumps(kept | {"schema": 2}),
        lambda kept: json.dumps(kept | {"filename": "other.whl"}),
        lambda kept: json.dumps(kept | {"facts": kept["facts"] | {"gcc": 9}}),
        lambda kept: json.dumps(kept | {"facts": {}}),
    ],
)
def test_facts_that_are_damaged_or_of_something_else_are_read_again(
    site: Site, index: ReleasedIndex, old_abi: bytes, tmp_path: Path, spoil: Callable[[dict[str, object]], str]
) -> None:
    path = site.add(NAME, wheel(old_abi))
    read = index.read(only(index))
    (kept,) = (tmp_path / "cache").iterdir()
    right = kept.read_text()
    kept.write_text(spoil(json.loads(right)))
    site.asked.clear()
    assert index.read(read.file) == read
    assert path in {asked for asked, _ in site.asked}
    assert kept.read_text() == right


def test_facts_of_a_file_without_hash_are_not_kept(
    site: Site, index: ReleasedIndex, old_abi: bytes, tmp_path: Path
) -> None:
    path = site.add(NAME, wheel(old_abi), sha256=None)
    file = only(index)
    assert index.read(file) == index.read(file)
    assert list((tmp_path / "cache").iterdir()) == []
    assert len(site.asked) > 2
    assert path == site.asked[-1][0]


def test_a_cache_that_cannot_be_written_is_the_machines_fault(site: Site, old_abi: bytes, tmp_path: Path) -> None:
    site.add(NAME, wheel(old_abi))
    (tmp_path / "cache").write_text("a file")
    index = ReleasedIndex(tmp_path / "cache", index_url=site.url)
    with pytest.raises(MachineError, match="could not be written"):
        index.read(only(index))


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (lambda: b"no zip file " * 9000, "not a zip file"),
        (lambda: wheel(None), f"it lacks {LIBRARY}"),
        (lambda: wheel(b"no library"), "no readable shared library"),
        (lambda: wheel(b"\x7fELF\x02\x01\x01" + bytes(9) + b"\xff" * 99), "no readable shared library"),
        (lambda: wheel(b"", METADATA="Name: torch_npu\n"), "names no version"),
        (lambda: wheel(b"", METADATA="Version: 1\nRequires-Dist: torch ==\n"), "'torch ==', which is no requirement"),
        (lambda: wheel(b"", **{"torch_npu/version.py": "git_version = '"}), "version.py is not Python"),
        (lambda: wheel(b"", **{"torch_npu/version.py": b"#" * (5 << 20)}), "expected at most"),
        (lambda: wheel(b"", **{"other-1.dist-info/METADATA": ""}), "2 .dist-info folders"),
    ],
)
def test_a_broken_wheel_is_refused_once_and_not_kept(
    site: Site, index: ReleasedIndex, tmp_path: Path, content: Callable[[], bytes], says: str, ranges: bool
) -> None:
    site.ranges = ranges
    site.add(NAME, content())
    said = fault(FailureKind.VERIFY, partial(index.read, only(index)))
    assert said.startswith(f"{NAME}: ")
    assert says in said
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_damaged_member_is_found_by_its_checksum(site: Site, index: ReleasedIndex, old_abi: bytes) -> None:
    whole = wheel(old_abi + os.urandom(9999))
    middle = whole.index(LIBRARY.encode()) + 5000
    site.add(NAME, whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    assert fault(FailureKind.VERIFY, partial(index.read, only(index))).startswith(f"{NAME}: ")


def many(site: Site, old_abi: bytes, count: int) -> list[str]:
    names = [f"torch_npu-2.9.{number}-cp310-cp310-manylinux_2_28_x86_64.whl" for number in range(count)]
    return [site.add(name, wheel(old_abi)) for name in names]


def test_results_come_in_order_although_the_first_is_slow(site: Site, index: ReleasedIndex, old_abi: bytes) -> None:
    paths = many(site, old_abi, 6)
    site.delays[paths[0]] = 0.2
    files = index.files()
    steps: list[tuple[int, int]] = []
    read = list(index.read_all(files, progress=lambda done, total, file: steps.append((done, total))))
    assert [wheel.file for wheel in read] == files
    assert steps == [(done, 6) for done in range(1, 7)]
    # Others were read while the first one was waited for.
    asked = [path for path, _ in site.asked]
    assert asked.index(paths[1]) < len(asked) - 1 - asked[::-1].index(paths[0])


def test_a_file_that_fails_is_told_or_raised(site: Site, index: ReleasedIndex, old_abi: bytes) -> None:
    paths = many(site, old_abi, 3)
    site.faults[paths[1]] = [404]
    files = index.files()
    told: list[ReleasedFile] = []
    read = list(index.read_all(files, failed=lambda file, error: told.append(file)))
    assert [wheel.file for wheel in read] == [files[0], files[2]]
    assert told == [files[1]]
    received: list[ReleasedWheel] = []
    with pytest.raises(TargetError, match=files[1].filename):
        received.extend(index.read_all(files))
    assert len(site.asked) > 3


def test_closing_the_results_stops_what_still_runs(
    site: Site, old_abi: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = many(site, old_abi, 12)
    site.faults = {path: [503] for path in paths[1:]}
    index = ReleasedIndex(tmp_path, index_url=site.url, retries=9)
    # Waiting for another try must end, too.
    monkeypatch.setattr(indexclient, "FIRST_WAIT", 60.0)
    results = index.read_all(index.files(), threads=2)
    next(results)
    began = time.monotonic()
    results.close()  # type: ignore[attr-defined]
    assert time.monotonic() - began < 10
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("released")]
    failing = [asked for asked, _ in site.asked if asked in site.faults]
    assert 0 < len(failing) < 5
    assert len(set(failing)) == len(failing)


def test_a_login_goes_to_the_indexs_own_host_only(site: Site, old_abi: bytes, tmp_path: Path) -> None:
    with serving() as other:
        other.add(NAME, wheel(old_abi))
        site.add(NAME, wheel(old_abi), url=f"http://127.0.0.1:{other.server_port}/files/{NAME}")
        site.add(NAME.replace("cp311", "cp310"), wheel(old_abi))
        index = ReleasedIndex(tmp_path, index_url=site.url.replace("//", "//ann:pa%40ss@"))
        files = index.files()
        assert len(list(index.read_all(files))) == 2
        assert site.logins == {"Basic YW5uOnBhQHNz"}
        assert other.logins == {None}
    assert not any("@" in file.url for file in files)


def test_redirects_are_followed(site: Site, index: ReleasedIndex, old_abi: bytes) -> None:
    path = site.add(NAME, wheel(old_abi))
    site.files["/files/moved"] = site.files[path]
    site.faults[path] = ["/files/moved"]
    assert index.read(only(index)).gcc == "9.3.1"
    assert all(wanted for asked, wanted in site.asked if asked == "/files/moved")


def test_proxies_are_those_that_were_given(
    site: Site, old_abi: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.add(NAME, wheel(old_abi))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    proxies = {"HTTP_PROXY": f"http://127.0.0.1:{site.server_port}", "NO_PROXY": "127.0.0.1"}
    through = ReleasedIndex(tmp_path / "1", index_url="http://index.invalid/simple", proxies=proxies, retries=0)
    assert through.read(only(through)).file.url == f"http://index.invalid/files/{NAME}"
    past = ReleasedIndex(tmp_path / "2", index_url=site.url, proxies=proxies | {"HTTP_PROXY": "127.0.0.1:9"}, retries=0)
    assert past.read(only(past)).gcc == "9.3.1"
    nowhere = ReleasedIndex(tmp_path / "3", index_url=site.url, retries=0)
    fault(FailureKind.NETWORK, nowhere.files)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
def test_the_ca_bundle_is_the_one_that_was_given(
    site: Site, old_abi: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, foreign = tmp_path / "own.pem", tmp_path / "foreign.pem"
    for pem in (own, foreign):
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
             "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", pem, "-out", tmp_path / "cert"],
            check=True, capture_output=True,
        )  # fmt: skip
        pem.write_bytes(pem.read_bytes() + (tmp_path / "cert").read_bytes())
    warned: list[str] = []
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(foreign))
    with serving(own) as secure:
        secure.add(NAME, wheel(old_abi))
        index = ReleasedIndex(tmp_path / "cache", index_url=secure.url, ca_bundle=own)
        assert index.read(only(index)).gcc == "9.3.1"
        wrong = ReleasedIndex(tmp_path / "cache", index_url=secure.url, warn=warned.append)
        assert "certificate verify failed" in fault(FailureKind.NETWORK, wrong.files)
    assert warned == []
