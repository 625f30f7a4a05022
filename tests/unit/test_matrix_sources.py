"""The table of repositories: one repository, however its URL is spelt."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.core.errors import RequestError
from builder.matrix.loader import load_matrix
from builder.matrix.repositories import Repository, SourceTable


@pytest.fixture(scope="module")
def table() -> SourceTable:
    return load_matrix().sources


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A file of a user's own."""
    (tmp_path / "mine").mkdir()
    return tmp_path / "mine" / "sources.yaml"


def refused(mine: Path) -> RequestError:
    with pytest.raises(RequestError) as caught:
        load_matrix(sources_file=mine)
    return caught.value


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://gitee.com/ascend/op-plugin.git", "op-plugin"),
        ("https://gitee.com/ascend/op-plugin", "op-plugin"),
        ("https://GITEE.com/Ascend/op-plugin/", "op-plugin"),
        ("git@gitee.com:ascend/op-plugin.git", "op-plugin"),
        ("ssh://git@gitee.com:22/ascend/op-plugin.git/", "op-plugin"),
        ("http://someone@gitcode.com/ascend/op-plugin", "op-plugin"),
        ("https://gitcode.com/GitHub_Trending/js/json", "nlohmann-json"),
        ("https://gitee.com/mirrors/nlohmann-json.git", "nlohmann-json"),
        ("https://gitee.com/mirrors/fmt.git", "fmt"),
        ("https://gitee.com/other_repository/fmt.git", "fmt"),
        ("https://gitee.com/mirrors/googletest.git", "googletest"),
        ("https://gitee.com/ascend/torchair.git", "torchair"),
        ("https://gitee.com/ascend/Tensorpipe.git", "tensorpipe"),
        ("https://gitee.com/openeuler/libboundscheck.git", "libboundscheck"),
        ("https://atomgit.com/openeuler/libboundscheck", "libboundscheck"),
        ("https://gitee.com/ascend/op-plugin-extra.git", None),
        ("https://gitee.com/mirrors_llvm/torch-mlir.git", "torch-mlir"),
        ("https://gitcode.com/mindspore/dvm.git", "dvm"),
        ("https://gitcode.com/cann/graph-autofusion.git", "cann-graph-autofusion"),
        ("https://gitcode.com/cann/graph-autofusion-2.git", None),
    ],
)
def test_find(table: SourceTable, url: str, name: str | None) -> None:
    assert table.find(url) == name


def test_hosts_are_tried_in_the_documented_order(table: SourceTable) -> None:
    for name in ("torch_npu", "op-plugin", "torchair", "tensorpipe", "nlohmann-json", "fmt", "googletest"):
        assert [url.split("/")[2] for url in table.urls(name)] == ["gitcode.com", "gitee.com", "github.com"]


def test_override_by_url_keeps_recognition(table: SourceTable) -> None:
    changed = table.with_override("torch_npu", "https://git.example.org/fork.git")
    assert changed.urls("torch_npu") == ("https://git.example.org/fork.git",)
    assert changed.find("https://gitee.com/ascend/pytorch.git") == "torch_npu"
    assert changed.find("https://git.example.org/fork") == "torch_npu"
    assert len(table.urls("torch_npu")) == 3


def test_override_by_path(table: SourceTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fork").mkdir()
    monkeypatch.chdir(tmp_path)
    changed = table.with_override("torch_npu", "fork")
    assert changed.urls("torch_npu") == (str(tmp_path / "fork"),)
    assert changed.find(f"file://{tmp_path}/fork/") == "torch_npu"
    with pytest.raises(RequestError, match="do not fit together"):
        changed.with_override("op-plugin", "fork")


@pytest.mark.parametrize("text", ["--upload-pack=x", "-x", "", "absent/folder", "ext::sh -c id", "ssh://-oX/y"])
def test_override_refuses(table: SourceTable, text: str) -> None:
    with pytest.raises(RequestError) as caught:
        table.with_override("torch_npu", text)
    assert caught.value.hint


def test_override_hides_a_password(table: SourceTable) -> None:
    with pytest.raises(RequestError) as caught:
        table.with_override("torch_npu", "https://me:hunter2@git.example.org/x.git")
    assert "hunter2" not in caught.value.message


def test_unknown_name_gets_the_nearest(table: SourceTable) -> None:
    with pytest.raises(RequestError) as caught:
        table.urls("op_plugin")
    assert caught.value.hint == "did you mean op-plugin?"


def test_merged_adds_and_replaces(table: SourceTable) -> None:
    other = SourceTable(
        repositories={
            "fmt": Repository(urls=("https://git.example.org/fmt.git",)),
            "extra": Repository(urls=("https://git.example.org/extra.git",)),
        }
    )
    merged = table.merged(other)
    assert merged.urls("fmt") == ("https://git.example.org/fmt.git",)
    assert merged.find("https://github.com/fmtlib/fmt") == "fmt"
    assert merged.find("https://git.example.org/extra") == "extra"


def test_one_url_has_one_owner() -> None:
    with pytest.raises(ValueError, match="is of a and b"):
        SourceTable(
            repositories={
                "a": Repository(urls=("https://git.example.org/x.git",)),
                "b": Repository(urls=("git@git.example.org:X",)),
            }
        )


def test_every_repository_is_needed_by_a_line(table: SourceTable) -> None:
    needed = {name for line in load_matrix().releases for name in line.submodules_for("full")}
    # torch-mlir is a submodule of torchair and pybind11 one of Tensorpipe; no build updates them.
    assert set(table.repositories) - needed == {"torch_npu", "op-plugin", "torch-mlir", "pybind11"}


def test_a_users_file_replaces_urls_and_keeps_the_old_names(mine: Path, table: SourceTable) -> None:
    mine.write_text("repositories:\n  op-plugin:\n    urls: [./op-plugin.git, https://git.example.org/o.git]\n")
    sources = load_matrix(sources_file=mine).sources
    assert sources.urls("op-plugin") == (str(mine.parent / "op-plugin.git"), "https://git.example.org/o.git")
    assert sources.find("https://gitee.com/ascend/op-plugin") == "op-plugin"
    assert sources.urls("torch_npu") == table.urls("torch_npu")


@pytest.mark.parametrize(
    ("text", "says", "hint"),
    [
        ("repositories: {op_plugin: {urls: [https://x.org/y]}}", "'op_plugin'", "did you mean op-plugin?"),
        ("repositories: {op-plugin: {urls: ['ext::sh -c id']}}", "expected a git URL", None),
        ("repositories: {op-plugin: {urls: ['--upload-pack=id']}}", "expected a git URL", None),
        ("repositories: {op-plugin: {urls: ['ssh://-oProxyCommand=id/x']}}", "expected a git URL", None),
        ("repositories: {op-plugin: {urls: []}}", "at least 1", None),
    ],
)
def test_wrong_users_file(mine: Path, text: str, says: str, hint: str | None) -> None:
    mine.write_text(text + "\n")
    error = refused(mine)
    assert error.message.startswith(f"{mine}:1:")
    assert says in error.message
    assert hint is None or error.hint == hint


@pytest.mark.parametrize(
    "urls",
    [
        "['https://me:hunter2@git.example.org/o.git']",
        "['https://me:hunter2@git.example.org/o .git']",
        "['https://me:hun@ter2@git.example.org/o .git']",
        "https://me:hunter2@git.example.org/o.git",
        "{'https://me:hunter2@git.example.org/o.git': x}",
        "[https://git.example.org/o.git], 'https://me:hunter2@git.example.org/o.git': x",
        "['https://x.org'], urls: ['https://me:hunter2@git.example.org/o.git']",
    ],
)
def test_a_password_is_refused_and_not_shown(mine: Path, urls: str) -> None:
    mine.write_text(f"repositories: {{op-plugin: {{urls: {urls}}}}}\n")
    error = refused(mine)
    assert "ter2" not in error.message + (error.details or "") + (error.hint or "")


def test_what_to_use_instead_of_a_password(mine: Path) -> None:
    mine.write_text("repositories: {op-plugin: {urls: ['https://me:hunter2@git.example.org/o.git']}}\n")
    assert "expected a URL without a password (use a git credential helper" in refused(mine).message


@pytest.mark.parametrize(
    ("reference", "others"),
    [
        ("quay.io/pypa/base:1", ("harbor.example/quay/pypa/base:1",)),
        ("pytorch/base:cpu-2.1", ("h.example:5000/hub/pytorch/base:cpu-2.1", "second/pytorch/base:cpu-2.1")),
        ("docker.io/pytorch/base:1", ("h.example:5000/hub/pytorch/base:1", "second/pytorch/base:1")),
        ("debian:bookworm", ("h.example:5000/hub/library/debian:bookworm", "second/library/debian:bookworm")),
        ("localhost/own:1", ()),
        ("registry.example:443/own:1", ()),
    ],
)
def test_images_have_other_places_by_their_registry(reference: str, others: tuple[str, ...]) -> None:
    table = SourceTable(registries={"quay.io": ("harbor.example/quay",), "docker.io": ("h.example:5000/hub", "second")})
    assert table.image_mirrors(reference) == others


def test_places_given_by_hand_are_asked_before_those_of_the_file() -> None:
    table = SourceTable(registries={"quay.io": ("harbor.example/quay",)})
    more = table.with_image_mirrors(["quay.io=first.example", "quay.io=second.example/q", "docker.io=first.example"])
    assert more.image_mirrors("quay.io/a:1") == ("first.example/a:1", "second.example/q/a:1", "harbor.example/quay/a:1")
    assert more.image_mirrors("a/b:1") == ("first.example/a/b:1",)


@pytest.mark.parametrize(
    "given", ["quay.io", "=x.example", "quay.io=", "quay.io=https://x.example", "a b=c", "quay.io=../x"]
)
def test_a_place_of_another_form_is_refused(given: str) -> None:
    with pytest.raises(RequestError, match="--image-mirror") as raised:
        SourceTable().with_image_mirrors([given])
    assert "REGISTRY=PLACE" in str(raised.value.hint)


def test_a_file_may_hold_registries_alone(tmp_path: Path) -> None:
    file = tmp_path / "sources.yaml"
    file.write_text("registries:\n  quay.io: [harbor.example/quay]\n")
    sources = load_matrix(sources_file=file).sources
    assert sources.image_mirrors("quay.io/a:1") == ("harbor.example/quay/a:1",)
    assert sources.urls("torch_npu")
    file.write_text("registries:\n  quay.io: ['harbor.example/quay:1']\n")
    with pytest.raises(RequestError, match=r"sources.yaml:2.*harbor.example"):
        load_matrix(sources_file=file)
