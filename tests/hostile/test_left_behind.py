"""What a build leaves in its folders is handled by the builder afterwards, often as root."""

from __future__ import annotations

import re
import zipfile

import pytest
from hostile_support import SECRET, TARGET, Scene, Told, unharmed

pytestmark = pytest.mark.parametrize("place", [pytest.param("container", marks=pytest.mark.engine), "host"])

#: Folders inside each other, and names that are together longer than any path may be.
DEEP = """
import os, sys
with open(sys.argv[1] + "/codegen-result.json", "w") as file:
    file.write("[" * 900_000)
for root in sys.argv[1:]:
    os.makedirs(root, exist_ok=True)
    for names in (["d"] * 3000, ["n" * 250] * 20):
        at = os.open(root, os.O_RDONLY)
        for name in names:
            os.mkdir(name, dir_fd=at)
            below = os.open(name, os.O_RDONLY, dir_fd=at)
            os.close(at)
            at = below
        os.close(at)
print("attack: shapes are in place")
"""


def test_links_in_the_place_of_results_lead_nowhere(scene: Scene, held: Told) -> None:
    machine = scene.victim.folder
    scene.plant(
        f"""
        machine={machine}
        rm -rf "$out/slots"; ln -s "$machine" "$out/slots"
        for name in codegen-result.json codegen-entry.zip headers.log compile.log compile-manifest.json.gz \\
            verified.jsonl; do
            ln -s "$machine/secret" "$out/$name"
        done
        for name in headers ccache codegen; do ln -s "$machine" "$out/$name"; done
        for name in 0 1 generated known-headers tmp; do ln -s "$machine" "$cache/$name"; done
        echo 'attack: links are in place'
        """
    )
    ran = scene.build()
    unharmed(ran)
    assert "attack: links are in place" in scene.log
    assert SECRET not in ran.text + scene.log
    assert scene.victim.changed == []
    for command in (["cache", "stats"], ["cache", "clear"], ["clean", "--cache", "--runs", "--trees"]):
        unharmed(scene.command(*command))
        assert scene.victim.changed == [], command
    held("links to files and folders of the machine in the place of results, logs and caches", "none was followed")


def test_a_retry_starts_with_empty_results(scene: Scene, held: Told) -> None:
    scene.plant(
        f"""
        [ ! -e "$out/left" ] || echo "attack: what an attempt left is still there"
        touch "$out/left"
        ln -s {scene.victim.folder} "$out/codegen"
        echo "attack: an attempt"
        echo "fatal error: Killed signal terminated program cc1plus"
        exit 1
        """
    )
    unharmed(scene.build("--jobs=2"))
    assert scene.victim.changed == []
    assert len(re.findall("attack: an attempt", scene.log)) > 1, "it was not tried again"
    assert "attack: what an attempt left" not in scene.log
    held("a faked out-of-memory failure, to be tried again among bent results", "each attempt began with empty results")


def test_sizes_and_shapes_cost_that_build_alone(scene: Scene, held: Told) -> None:
    scene.plant(
        """
        truncate -s 3G "$out/compile.log"
        for name in headers.log codegen-entry.zip compile-manifest.json.gz; do mkfifo "$out/$name"; done
        head -c 100000000 /dev/zero | tr '\\0' 'x'
        echo
        python3.11 "$tree/ci/deep.py" "$out" "$cache" "$tree/build"
        exit 1
        """,
        deep_py=DEEP,
    )
    ran = scene.build()
    unharmed(ran)
    assert "attack: shapes are in place" in scene.log
    assert "more characters of this line were left out" in scene.log
    for command in (["cache", "stats"], ["history"], ["cache", "clear"], ["clean"]):
        unharmed(scene.command(*command))
    scene.plant("echo 'attack: none'")
    scene.warm()
    ran = scene.build()
    assert ran.code == 0, ran.text
    held(
        "3,000 folders inside each other, paths of 5,000 characters, a log of 3 GB, a line of 100 MB, pipes in the "
        "place of files, JSON that nests 900,000 times",
        "that build failed; the next one in the same workspace succeeded",
    )


def test_a_build_that_fills_the_disk_is_ended(scene: Scene, held: Told) -> None:
    scene.plant('n=1; while head -c 20000000 /dev/zero > "$out/$n"; do n=$((n + 1)); done')
    ran = scene.build("--disk=1G")
    unharmed(ran)
    assert scene.result["failure"]["kind"] == "disk-limit", scene.result
    assert "1.0 GiB are allowed" in ran.text
    held("writing without end", "ended once it had written what `--disk` allows")


@pytest.mark.parametrize("bend", ["rm -rf dist; ln -s $machine dist", "mkdir -p dist; ln -s $machine/*.whl dist/"])
def test_a_wheel_of_the_machine_is_not_taken_for_the_build_s(scene: Scene, held: Told, bend: str) -> None:
    machine = scene.victim.folder
    name = f"torch_npu-2.5.1.post3-cp311-cp311-linux_{TARGET.rpartition('-')[2]}.whl"
    with zipfile.ZipFile(machine / name, "w") as wheel:
        wheel.writestr("secret", SECRET)
    scene.victim.remember()
    scene.plant(f'machine={machine}; cd "$tree"; {bend}; ln -s "$machine" "$out/repaired"; exit 0')
    ran = scene.build()
    unharmed(ran)
    assert ran.code != 0
    assert not (scene.root / "dist").exists() or not list((scene.root / "dist").iterdir())
    assert scene.victim.changed == []
    held(f"a link to a wheel of the machine: `{bend}`", "refused, nothing was published")
