"""``verify-objects`` on the miniature upstream: its sources with and without the shortcuts, in a real container."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from difflib import unified_diff
from pathlib import Path

import pytest
from support import CommandLine

from builder.cli.demo_upstream import Miniature

pytestmark = [pytest.mark.engine, pytest.mark.slow]

LINE = "v2.5.1-7.1.0"
TARGET = f"{LINE}-py3.11-{os.uname().machine}"
FILES = 6


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    return CommandLine(tmp_path_factory.mktemp("objects"))


@pytest.fixture(scope="module")
def options(cli: CommandLine, base_image: str, miniature_options: Callable[..., list[str]]) -> list[str]:
    """Options of a build in which enough sources begin alike for a header to pay."""
    place = cli.folder / "patches" / "v2.5.1-*" / "op-plugin"
    place.mkdir(parents=True)
    (place / "series").write_text("more.patch\n")
    text = "".join(
        new_file(f"op_plugin/ops/opapi/More{number}KernelNpuOpApi.cpp", source(number)) for number in range(FILES)
    )
    (place / "more.patch").write_text(text)
    return miniature_options(
        "--environment=docker", f"--base-image={base_image}", f"--patches={cli.folder / 'patches'}"
    )


def source(number: int) -> list[str]:
    return [
        '#include "op_plugin/OpApiInterface.h"',
        '#include "op_plugin/utils/OpUtils.h"',
        f"const char* more_{number}() {{ return __FILE__; }}",
    ]


def new_file(name: str, lines: list[str]) -> str:
    added = "".join(f"+{line}\n" for line in lines)
    return f"--- /dev/null\n+++ b/{name}\n@@ -0,0 +1,{len(lines)} @@\n{added}"


def test_objects_are_identical(cli: CommandLine, options: list[str]) -> None:
    contrary = cli("verify-objects", TARGET, *options, "--cached", "--no-cache")
    assert (contrary.code, "--no-cache leaves it out" in contrary.text) == (2, True)
    nothing = cli("verify-objects", TARGET, *options, "--cached")
    assert nothing.code == 1
    assert "the cache has none of its objects" in nothing.text

    done = cli("verify-objects", TARGET, *options, "--all")
    assert done.code == 0, done.text
    assert "objects with precompiled headers are identical to plain ones" in done.text
    # A comparison that has ended says nothing of the next one; nothing of it stays.
    results = cli.build / "verified" / f"{TARGET}.headers.jsonl"
    assert not results.exists()
    # One that was interrupted goes on.
    command = [sys.executable, "-m", "builder", "verify-objects", TARGET, *options, "--all", "--jobs=1"]
    with subprocess.Popen(command, cwd=cli.folder, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        until = time.monotonic() + 120
        while not (results.exists() and '"file"' in results.read_text()):
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    again = cli("verify-objects", TARGET, *options, "--all", "--json")
    assert "sources were compared before" in again.text
    (group,) = json.loads(again.out.splitlines()[-1])["groups"]
    assert group["identical"] == group["compared"] == group["members"] >= FILES
    assert group["includes"][0] == '"op_plugin/OpApiInterface.h"'
    assert group["fallbacks"] == {}
    assert group["different"] == []
    assert 0 < group["cpu_seconds"]["with"] < group["cpu_seconds"]["plain"]
    assert not (cli.build / "compile" / TARGET).exists()

    built = cli(f"--target={TARGET}", *options)
    assert built.code == 0, built.text
    (wheel,) = (cli.folder / "dist").glob("*.whl")
    record = json.loads(Path(f"{wheel}.json").read_text())
    assert record["headers"]["made"] == 1
    # What was compiled while the header was made did without.
    assert record["headers"]["used"] > 0
    assert record["headers"]["fallbacks"] == {}
    cached = cli("verify-objects", TARGET, *options, "--cached", "--json")
    assert cached.code == 0, cached.text
    groups = json.loads(cached.out.splitlines()[-1])["groups"]
    assert sum(each["identical"] for each in groups) == record["files_compiled"] == 16 + FILES
    assert [each["different"] for each in groups] == [[]] * len(groups)


def test_a_tree_that_cannot_be_configured(cli: CommandLine, options: list[str], upstream: Miniature) -> None:
    name = "torch_npu/csrc/npu/CMakeLists.txt"
    show = ["git", "-C", str(upstream.torch_npu), "show", f"{LINE}:{name}"]
    before = subprocess.run(show, capture_output=True, text=True, check=True).stdout.splitlines(keepends=True)
    place = cli.folder / "broken" / "v2.5.1-*" / "torch_npu"
    place.mkdir(parents=True)
    (place / "series").write_text("broken.patch\n")
    changed = ["no_such_command()\n", *before]
    (place / "broken.patch").write_text("".join(unified_diff(before, changed, f"a/{name}", f"b/{name}")))
    done = cli("verify-objects", TARGET, *options, f"--patches={cli.folder / 'broken'}")
    assert done.code == 1
    assert "no_such_command" in done.text
    assert "Traceback" not in done.text
