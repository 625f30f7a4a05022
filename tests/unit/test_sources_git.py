"""What may reach git's command line, and what is said about hosts."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from builder.cli import doctor_command
from builder.core.errors import FailureKind, RequestError, TargetError
from builder.core.workspace import Workspace
from builder.matrix.loader import load_matrix
from builder.progress.reporter import Reporter
from builder.sources import fetch, gitcli
from builder.sources.fetch import judge
from builder.sources.mirrors import Mirrors, Repository


@pytest.mark.parametrize("name", ["v2.5.1-7.1.0", "master", "feature/new_op", "7.1.0", "a" * 40, "v1+x=y"])
def test_refs_that_are_accepted(name: str) -> None:
    assert gitcli.check_ref(name) == name


@pytest.mark.parametrize(
    "name",
    ["--upload-pack=x", "-x", "../../etc", "a..b", "a b", "", "a\n", "a:b", "a^", "a~1", "x.lock", "a//b", ".git",
     "@{u}", "a@{1}", "a/.b", "a*", "a/", "x.lock/y"],
)  # fmt: skip
def test_refs_that_could_be_something_else_are_refused(name: str) -> None:
    with pytest.raises(RequestError, match="is not a branch"):
        gitcli.check_ref(name)


@pytest.mark.parametrize(
    "url",
    ["ext::sh -c id", "--upload-pack=x", "https://-x/y", "", "https://h/\n", "fd::7", "ftp://h/x", "ssh://-oProxy/x",
     "-oX:y", "nosuch"],
)  # fmt: skip
def test_urls_that_could_run_something_are_refused(url: str) -> None:
    with pytest.raises(RequestError, match="is not a URL"):
        Repository("x", (url,))


@pytest.mark.parametrize("url", ["https://h/x.git", "ssh://git@h/x", "git@h:x/y.git", "git://h/x", "file:///x", "/x/y"])
def test_urls_that_are_accepted(url: str) -> None:
    assert Repository("x", (url,)).urls == (url,)


def test_a_relative_folder_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    assert Repository("x", ("here",)).urls == (str(tmp_path / "here"),)


@pytest.mark.parametrize("name", ["../x", "a/b", "-x", "", ".x", "x.git", "a..b"])
def test_a_repository_name_is_one_file_name(name: str) -> None:
    with pytest.raises(RequestError, match="not a repository name"):
        Repository(name, ())


def test_passwords_are_masked_in_every_message() -> None:
    failed = gitcli.GitFailed(["fetch"], 128, "fatal: unable to access 'https://me:secret@host/x/': 403")
    assert "secret" not in failed.output + failed.reason
    assert "***@host" in failed.reason
    with pytest.raises(RequestError) as caught:
        Repository("x", ("ftp://me:secret@host/x",))
    assert "secret" not in caught.value.message


def test_the_environment_of_git_is_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "GIT_DIR": "/elsewhere", "GIT_CONFIG_PARAMETERS": "'a.b=c'", "GIT_WORK_TREE": "/x", "https_proxy": "http://p:1",
        "GIT_SSL_CAINFO": "/ca.pem", "LD_PRELOAD_X": "y",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    env = gitcli.environment()
    assert not {"GIT_DIR", "GIT_CONFIG_PARAMETERS", "GIT_WORK_TREE", "LD_PRELOAD_X"} & env.keys()
    assert (env["https_proxy"], env["GIT_SSL_CAINFO"]) == ("http://p:1", "/ca.pem")
    assert (env["GIT_TERMINAL_PROMPT"], env["GIT_CONFIG_NOSYSTEM"]) == ("0", "1")
    assert "ext" not in env["GIT_ALLOW_PROTOCOL"].split(":")


@pytest.mark.parametrize(
    ("said", "network", "final"),
    [
        ("fatal: unable to access 'https://h/': Could not resolve host: h", True, False),
        ("fatal: unable to access 'http://h/': The requested URL returned error: 503", True, False),
        ("error: RPC failed; curl 92 HTTP/2 stream 0 was not closed cleanly\nfatal: early EOF", True, False),
        ("fatal: unable to connect to h:\nh[0]: errno=Connection refused", True, False),
        ("fatal: repository 'http://h/x/' not found", False, True),
        ("fatal: Authentication failed for 'https://h/x'", False, True),
        ("fatal: could not read Username for 'https://h': terminal prompts disabled", False, True),
        ("git@h: Permission denied (publickey).\nfatal: Could not read from remote repository.", False, True),
        ("fatal: remote error: upload-pack: not our ref 1234", False, False),
        ("error: Server does not allow request for unadvertised object 12", False, False),
        ("remote: aborting due to possible repository corruption on the remote side.\nfatal: early EOF", False, False),
    ],
)
def test_failures_of_hosts_are_told_apart(said: str, network: bool, final: bool) -> None:
    failure = judge(gitcli.GitFailed(["fetch"], 128, said))
    assert (failure.network, failure.final) == (network, final)


NO_NAME = "fatal: unable to access 'https://h.example/': Could not resolve host: h.example"


def test_a_name_without_address_is_asked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def stream(argv: list[str], **_: object) -> None:
        asked.append(next(word for word in argv if "://" in word))
        raise gitcli.GitFailed(argv, 128, NO_NAME)

    monkeypatch.setattr(gitcli, "stream", stream)
    console = Console(record=True, width=200)
    mirrors = Mirrors(tmp_path, Reporter(console))
    for name in ("torch_npu", "op-plugin", "torch_npu"):
        mirrors.ask_again()
        repository = Repository(name, (f"https://h.example/{name}.git", f"ssh://git@h.example:29418/{name}.git"))
        with pytest.raises(TargetError, match="could not be fetched from any of its 2 hosts") as caught:
            mirrors.open(repository).branch("v2.5.1-7.1.0")
        assert caught.value.kind is FailureKind.NETWORK
        assert str(caught.value.details).count("Could not resolve host") == 2
    assert asked == ["https://h.example/torch_npu.git"]
    assert console.export_text().count("Could not resolve host") == 1
    # A resolver may come back in a run of hours.
    monkeypatch.setattr(fetch, "UNRESOLVED_SECONDS", 0.0)
    mirrors.ask_again()
    with pytest.raises(TargetError):
        mirrors.open(repository).branch("v2.5.1-7.1.0")
    assert len(asked) == 2


def test_doctor_names_a_host_without_address_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_name(url: str, _seconds: float) -> dict[str, str]:
        raise fetch.HostError(f"Could not resolve host: {fetch.host_of(url)}")

    monkeypatch.setattr(doctor_command, "branches", no_name)
    monkeypatch.setattr(doctor_command, "check_machine", lambda _: [])
    matrix = load_matrix()
    assert doctor_command.examine(matrix, Workspace(Path("build"), Path("dist")), offline=False) == 3
    hosts = {fetch.host_of(url) for name in ("torch_npu", "op-plugin") for url in matrix.sources.urls(name)}
    assert len(hosts) > 1
    assert capsys.readouterr().out.count("resolve") == len(hosts)
