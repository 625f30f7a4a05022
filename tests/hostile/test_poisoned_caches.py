"""What a build leaves in caches reaches no build that is trusted more."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

import pytest
from hostile_support import Scene, Told, unharmed

#: In a container alone: there it can look for files to overwrite everywhere.
pytestmark = pytest.mark.parametrize("place", [pytest.param("container", marks=pytest.mark.engine)])

#: Takes every object of the cache for another one, and does as if code generation had written something else.
POISON = r"""
find /cache /generated /opt/launcher /opt/codegen -type f | while read -r file; do
    [ -w "$file" ] && printf poison > "$file" && echo "attack: wrote $file"
done
if [ -e "$tree/generate_code.sh" ]; then
    printf 'echo "// poison" >> "$(dirname "$0")/torch_npu/csrc/aten/RegisterNPU.cpp"\n' >> "$tree/generate_code.sh"
fi
"""


def digest(scene: Scene) -> str:
    """The only wheel's content."""
    (wheel,) = Path(scene.root / "dist").glob("*.whl")
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


def test_a_lower_level_changes_nothing_of_a_higher_one(scene: Scene, held: Told) -> None:
    scene.plant("")
    scene.warm()
    first = scene.build()
    assert first.code == 0, first.text
    clean = digest(scene)
    kept = {path: path.read_bytes() for path in (scene.cli.build / "cache" / "release").rglob("*") if path.is_file()}
    assert kept
    # The same release line from a sources file that the operator does not trust, as for a pull request.
    scene.plant(POISON)
    for _ in range(2):  # the second one finds what the first has compiled
        unharmed(scene.build("--trust=unknown"))
    written = re.findall(r"attack: wrote (\S+)", scene.log)
    assert written, "it found nothing to overwrite"
    assert {path.split("/")[1] for path in written} == {"cache"}
    assert {path: path.read_bytes() for path in kept} == kept
    scene.withdraw()
    shutil.rmtree(scene.root / "dist")
    again = scene.build()
    assert again.code == 0, again.text
    assert digest(scene) == clean
    assert scene.result["cache"]["misses"] <= 1, "what was compiled before was not found again"
    held(
        "an untrusted build that overwrites every cached object and entry that it finds, and generates other code",
        "the release built afterwards has the same bytes, from its own objects",
    )


def test_a_lower_level_is_given_what_a_higher_one_has_compiled(scene: Scene) -> None:
    scene.plant("")
    scene.warm()
    assert scene.build().code == 0
    scene.plant("echo another commit")
    ran = scene.build("--trust=unknown")
    assert ran.code == 0, ran.text
    assert scene.result["cache"]["misses"] <= 1, scene.result
    assert "came from compile caches that are trusted more" in ran.text
