"""What keeps a wheel from loading is found before it is published: real libraries, made by the machine's compiler."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from library_support import make_library, make_toolkit, make_torch
from wheel_support import EXPECTED, make_wheel

from builder.core.errors import TargetError
from builder.wheels.findings import Severity
from builder.wheels.loading import Surroundings
from builder.wheels.surroundings import Libraries, cann_of_toolkit, cann_of_tree, torch_of
from builder.wheels.verify import Judged, judge, verify

#: A plug-in that needs each of its surroundings and lacks nothing.
RIGHT = """
#include <string>
namespace c10 { void fail(const std::string& message); }
namespace at { void empty(int); }
extern "C" int aclrtSetDevice(int);
extern "C" void* PyLong_FromLong(long);
extern "C" __attribute__((weak)) void* nobody_has_this();
void run(const std::string& message) {
    at::empty(1);
    aclrtSetDevice(0);
    c10::fail(message);
    PyLong_FromLong(nobody_has_this != nullptr);
}
"""

Check = Callable[..., Judged]


@pytest.fixture(scope="module")
def torch(tmp_path_factory: pytest.TempPathFactory) -> Libraries:
    return torch_of(make_torch(tmp_path_factory.mktemp("torch")))


@pytest.fixture(scope="module")
def cann(tmp_path_factory: pytest.TempPathFactory) -> Libraries:
    return cann_of_toolkit(make_toolkit(tmp_path_factory.mktemp("cann")))


@pytest.fixture
def check(tmp_path: Path, torch: Libraries, cann: Libraries) -> Check:
    def run(source: str, *options: str, around: Surroundings | None = None) -> Judged:
        made = make_library(tmp_path / "libtorch_npu.so", source, "-D_GLIBCXX_USE_CXX11_ABI=0", "-Wl,-z,now", *options)
        wheel = make_wheel(tmp_path, library=made.read_bytes())
        return judge(wheel, EXPECTED, around or Surroundings(torch, cann))

    return run


def told(judged: Judged, rule: str) -> list[str]:
    return [str(one) for one in judged.findings if one.rule.id == rule]


def test_a_plug_in_that_finds_everything_is_right(check: Check) -> None:
    judged = check(RIGHT)
    assert [str(one) for one in judged.findings if one.rule.severity is Severity.ERROR] == []
    assert judged.verified is not None
    assert judged.verified.needs.cann == {"libascendcl.so": ["aclrtSetDevice"]}


def test_an_operator_that_is_declared_and_not_defined(check: Check, torch: Libraries, cann: Libraries) -> None:
    source = "namespace op_api { void npu_add_custom(int, float); } void run() { op_api::npu_add_custom(1, 2); }"
    (said,) = told(check(source), "symbols")
    assert "op_api::npu_add_custom(int, float)" in said
    assert "op-plugin's operator npu_add_custom" in said
    around = Surroundings(torch, cann, custom_operators=("npu_add_custom",))
    (said,) = told(check(source, around=around), "symbols")
    assert "the custom operator npu_add_custom is declared" in said


@pytest.mark.parametrize(
    ("declared", "whose"),
    [
        ('extern "C" int aclrtNotThere(int); int run() { return aclrtNotThere(1); }', "the CANN 8.2.RC1 of"),
        ("namespace at { void gone(int); } void run() { at::gone(1); }", "torch 2.5.1 does not have it"),
        ("namespace at { void empty(long); } void run() { at::empty(1L); }", "at::empty(long)"),
        ('extern "C" int a_helper(int); int run() { return a_helper(1); }', "undefined symbol a_helper"),
        (
            "extern int at_npu_value; namespace at_npu { extern int value; } int* run() { return &at_npu::value; }",
            "at_npu",
        ),
    ],
)
def test_a_symbol_that_nobody_has(check: Check, declared: str, whose: str) -> None:
    said = told(check(declared), "symbols")
    assert len(said) == 1
    assert said[0].startswith("torch_npu/lib/libtorch_npu.so: undefined symbol")
    assert whose in said[0]


def test_another_cxx_abi_is_named(check: Check) -> None:
    judged = check(RIGHT, "-U_GLIBCXX_USE_CXX11_ABI", "-D_GLIBCXX_USE_CXX11_ABI=1")
    assert told(judged, "cxx-abi") == ["it was compiled with _GLIBCXX_USE_CXX11_ABI=1, torch 2.5.1 with 0"]
    assert "std::__cxx11" in told(judged, "symbols")[0]


def test_what_is_not_at_hand_is_no_error(check: Check) -> None:
    judged = check(RIGHT, around=Surroundings())
    assert judged.verified is not None
    assert told(judged, "not-checked") == [
        "2 symbols of PyTorch not looked up: none at hand has them; name one with --torch DIR",
        "1 symbol of CANN not looked up: none at hand has them; name one with --cann DIR",
    ]
    # What is torch_npu's own is missing whoever is at hand.
    judged = check("namespace at_npu { void gone(); } void run() { at_npu::gone(); }", around=Surroundings())
    assert "at_npu::gone()" in told(judged, "symbols")[0]


def test_a_function_that_headers_of_the_tree_declare_is_cann_s(check: Check, tmp_path: Path, torch: Libraries) -> None:
    tree = tmp_path / "tree"
    make_library(tree / "third_party/acl/libs/libascendcl.so", 'extern "C" int aclInit() { return 0; }')
    header = tree / "third_party/acl/inc/acl/acl.h"
    header.parent.mkdir(parents=True)
    header.write_text("ACL_FUNC_VISIBILITY aclError aclrtSetDevice(int32_t deviceId);\n")
    found = cann_of_tree(tree)
    assert found is not None
    judged = check(RIGHT, around=Surroundings(torch, found))
    assert told(judged, "symbols") == []
    assert judged.verified is not None
    assert judged.verified.needs.cann == {"declared": ["aclrtSetDevice"]}
    header.unlink()
    assert "aclrtSetDevice" in told(check(RIGHT, around=Surroundings(torch, cann_of_tree(tree))), "symbols")[0]


def test_links_in_a_tree_are_not_followed(tmp_path: Path) -> None:
    outside = make_library(tmp_path / "outside.so", "int secret() { return 1; }")
    libs = tmp_path / "tree/third_party/acl/libs"
    libs.mkdir(parents=True)
    (libs / "libascendcl.so").symlink_to(outside)
    assert cann_of_tree(tmp_path / "tree") is None


def test_libraries_that_are_nobody_s(check: Check, tmp_path: Path) -> None:
    make_library(tmp_path / "libelsewhere.so", "void other() {}", "-Wl,-soname,libelsewhere.so")
    judged = check("void other(); void run() { other(); }", f"-L{tmp_path}", "-lelsewhere")
    assert "it needs libelsewhere.so, which is neither torch's nor CANN's" in told(judged, "needed")[0]


def test_a_system_newer_than_the_tags(check: Check) -> None:
    # Where pthread_create has moved into libc: https://sourceware.org/legacy-ml/libc-alpha/2021-08/msg00070.html
    source = "#include <pthread.h>\nvoid run() { pthread_create(nullptr, nullptr, nullptr, nullptr); }"
    (said,) = told(check(source), "symbol-versions")
    assert "GLIBC_2." in said
    assert "which manylinux_2_17_x86_64 lacks" in said


def test_how_libraries_are_linked(check: Check) -> None:
    judged = check(RIGHT, "-Wl,-rpath,$ORIGIN:/home/me/lib", "-Wl,-z,execstack", "-Wl,-z,lazy")
    assert told(judged, "rpath") == ["torch_npu/lib/libtorch_npu.so: it looks for libraries in /home/me/lib"]
    assert len(told(judged, "exec-stack")) == 1
    assert len(told(judged, "bind-now")) == 1
    judged = check(RIGHT, "-Wl,-rpath,$ORIGIN/lib:$ORIGIN/../../torch_npu.libs")
    assert told(judged, "rpath") + told(judged, "exec-stack") + told(judged, "bind-now") == []


def test_an_error_lists_what_was_found_and_what_to_do(tmp_path: Path, torch: Libraries) -> None:
    made = make_library(tmp_path / "l.so", "namespace op_plugin { void gone(); } void run() { op_plugin::gone(); }")
    with pytest.raises(TargetError, match="undefined symbol op_plugin::gone") as raised:
        verify(make_wheel(tmp_path, library=made.read_bytes()), EXPECTED, Surroundings(torch))
    assert "import torch_npu would fail" in str(raised.value.hint)
    assert "symbols: torch_npu/lib/libtorch_npu.so" in str(raised.value.details)


@pytest.mark.parametrize("damage", [b"", b"\x7fELF", b"\x7fELF" + bytes(500), b"no library"])
def test_damaged_toolkits_and_torches(tmp_path: Path, damage: bytes) -> None:
    torch = make_torch(tmp_path)
    (torch / "torch/lib/libtorch_cpu.so").write_bytes(damage)
    if damage.startswith(b"\x7fELF"):
        with pytest.raises(TargetError, match=r"libtorch_cpu\.so"):
            torch_of(torch)
    else:
        assert torch_of(torch).has("_ZN2at5emptyEi")


def test_folders_that_hold_neither(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="holds no PyTorch"):
        torch_of(tmp_path)
    with pytest.raises(TargetError, match="is no CANN toolkit"):
        cann_of_toolkit(tmp_path)
    assert cann_of_tree(tmp_path) is None
