"""What the builder itself costs for many targets that need nothing, as ratios to as many processes of ``true``.

All targets stand: each has a wheel with a record, whose fingerprint a plan has given. The builder must still find
their commits, compare fingerprints, look at the wheels, and write ledger, result and reports. Sources are the miniature
upstream with a branch for each release line. Where a container engine answers, the base image is an empty one that is
made for the measurement and removed again; elsewhere there are only the targets whose Python this machine has.

Each case is a fresh process. The cases take turns, and each is judged by its median.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import secrets
import shlex
import shutil
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

from plan import BUILDER, every_line, in_turns, planned, seconds, show

from builder.core.digests import sha256_of
from builder.core.workspace import Workspace
from builder.environments.docker_engine import NoEngine, find_engine
from builder.environments.interpreters import find_interpreter
from builder.matrix.loader import load_matrix
from builder.wheels.record import SCHEMA, WheelRecord, record_path


@contextmanager
def somewhere() -> Iterator[list[str]]:
    """Options for an environment whose identity is known without making one."""
    found = find_engine()
    if isinstance(found, NoEngine):
        yield ["--environment=host", "--offline"]
        return
    name = f"torch-npu-builder/benchmark:{secrets.token_hex(4)}"
    found.client.images.build(fileobj=io.BytesIO(f"FROM scratch\nLABEL benchmark={name}\n".encode()), tag=name, rm=True)
    try:
        yield ["--environment=docker", f"--base-image={name}", "--offline"]
    finally:
        found.client.images.remove(name, force=True)


def wheels(plan: Sequence[str], folder: Path, output: Path, size: int) -> list[str]:
    """A wheel of about ``size`` bytes with its record for each target whose fingerprint ``plan`` says; returns their
    ids."""
    output.mkdir(parents=True, exist_ok=True)
    known = [target for target in planned(plan, folder) if target["fingerprint"] is not None]
    for target in known:
        tag, version = f"cp{target['python'].replace('.', '')}", target["package_version"]
        wheel = output / f"torch_npu-{version}+{target['release']}-{tag}-{tag}-linux_{target['arch']}.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(f"torch_npu-{version}+{target['release']}.dist-info/METADATA", "")
            archive.writestr("torch_npu/zeros", bytes(size))
        record = WheelRecord.model_validate(
            {
                "schema": SCHEMA,
                "wheel": wheel.name,
                "sha256": sha256_of(wheel),
                "size": wheel.stat().st_size,
                "fingerprint": target["fingerprint"],
                "target": target["id"],
                "run": "benchmark",
                "finished": datetime.now(timezone.utc).isoformat(),
            }
        )
        record_path(wheel).write_text(record.to_json(), encoding="utf-8")
    # Otherwise a build would begin to compile.
    names = [target["id"] for target in known]
    wrong = [target for target in planned(plan, folder) if target["id"] in names and target["action"] != "skip"]
    if wrong:
        raise SystemExit(f"{len(wrong)} wheels do not stand; the first: {wrong[0]['id']}: {wrong[0]['reason']}")
    return names


def check_skipped(workspace: Workspace, count: int) -> None:
    """The newest run did what is measured: nothing."""
    result = max(workspace.runs.glob("*/result.json"), key=lambda file: file.stat().st_mtime)
    found = Counter(target["status"] for target in json.loads(result.read_text(encoding="utf-8"))["targets"])
    assert found == {"skipped": count}, found


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", type=int, default=200, help="how many (default: 200)")
    parser.add_argument("--megabytes", type=float, default=0, help="size of each wheel (default: nearly nothing)")
    parser.add_argument("--runs", type=int, default=5, help="processes of each case (default: 5)")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="many-") as temporary, somewhere() as environment:
        folder = Path(temporary)
        upstream = every_line(folder)
        workspace = Workspace(folder / "build", folder / "dist")
        candidates = [
            target.id
            for target in load_matrix(upstream.matrix).targets()
            if target.arch == platform.machine() and target.release.refusal is None
            if "--environment=docker" in environment or find_interpreter(target.python)
        ][: chosen.targets]
        places = [*upstream.options, f"--workspace={workspace.root}", f"--output={workspace.output}", "--quiet"]
        plan = [*BUILDER, "plan", f"--target={','.join(candidates)}", "--channel=all", *places]
        # The mirrors are filled by one that may ask hosts.
        seconds([plan], folder)
        size = max(1, int(chosen.megabytes * 1e6))
        ids = wheels([*plan, *environment], folder, workspace.output, size)
        build = [*BUILDER, "build", *places, *environment]
        many = [*build, f"--target={','.join(ids)}"]
        seconds([many], folder)
        check_skipped(workspace, len(ids))
        true = shlex.quote(shutil.which("true") or "/bin/true")
        loop = f"i=0; while [ $i -lt {len(ids)} ]; do {true}; i=$((i+1)); done"
        base = f"{len(ids)} processes of true"
        medians = in_turns(
            {
                base: [["sh", "-c", loop]],
                "build of one target that stands": [[*build, f"--target={ids[0]}"]],
                f"build of {len(ids)} targets that stand": [many],
            },
            chosen.runs,
            folder,
        )
        one, all_of_them = list(medians.values())[1:]
        medians[f"each target more, times {len(ids)}"] = (all_of_them - one) / (len(ids) - 1) * len(ids)
        kind = environment[0].partition("=")[2]
        where = f"{kind}, wheels of {chosen.megabytes:g} MB, {os.cpu_count()} cores"
        show(f"Many targets that stand ({where}): medians of {chosen.runs} runs", medians, base)


if __name__ == "__main__":
    main()
