"""What is written and sent, to the byte: other programs read it, and wheels stand by their fingerprints."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pydantic import JsonValue
from small_matrix import small_matrix

from builder.cluster.messages import Luggage, Order, Outcome, StoredFile
from builder.compilation.ccache import CompileCounts
from builder.core.build_options import BuildOptions
from builder.core.errors import FailureKind, MachineError, RequestError, TargetError
from builder.core.results import Phase, Run, TargetResult
from builder.core.statistics import Generation, HeaderCounts, Schedule
from builder.environments.interface import Ready
from builder.environments.probe import Probed
from builder.executors.timeline import timeline
from builder.matrix.loader import Matrix
from builder.matrix.model import Target
from builder.matrix.selection import parse_target_id
from builder.planning import lockfile
from builder.planning.planner import Planned
from builder.sources import checkout
from builder.sources.checkout import OverlaySource, SubmoduleSource, TreeRequest, describe
from builder.sources.custom_ops import CustomOps
from builder.sources.declarations import Declaration
from builder.sources.mirrors import Mirror
from builder.sources.patches import Applied, PassedOver, Patch
from builder.sources.prepared_tree import RECORD, PreparedTree, load_prepared, save
from builder.target import repair_and_publish
from builder.target.compile_spec import CompileSpec
from builder.target.inputs import Inputs, inputs_of
from builder.target.repair_and_publish import Compiled, Finish
from builder.wheels.verify import Verified

GOLDEN = Path(__file__).parents[1] / "data" / "json"
LINE = "v2.5.1-7.1.0"
TARGET = f"{LINE}-py3.11-x86_64"
THEN = datetime(2026, 3, 1, 12, 30, 15, 250_000, tzinfo=timezone.utc)


class Clock(datetime):
    """A clock that stands still."""

    @classmethod
    def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
        return THEN


@pytest.fixture(autouse=True)
def _stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (checkout, repair_and_publish):
        monkeypatch.setattr(module, "datetime", Clock)
    for module in (lockfile, repair_and_publish):
        monkeypatch.setattr(module, "__version__", "1.2.3")


@pytest.fixture
def matrix(tmp_path: Path) -> Matrix:
    return small_matrix(tmp_path / "matrix")


@pytest.fixture
def target(matrix: Matrix) -> Target:
    return parse_target_id(matrix, TARGET)


def golden(name: str) -> str:
    return (GOLDEN / name).read_text(encoding="utf-8")


def written(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


# -- a prepared tree ------------------------------------------------------------------------------------------


def mirror(letter: str) -> Mirror:
    return cast(Mirror, SimpleNamespace(commit_time=lambda commit: 1_700_000_000, path=Path(letter)))


def patch(repository: str, name: str, **more: Any) -> Patch:
    return Patch(Path("patches", "v2.5.1-*", repository, name), repository, name[0] * 64, b"", **more)


TAKEN = patch("torch_npu", "1-über.patch")
WHERE_IT_APPLIES = patch("op-plugin", "2-maybe.patch", where_it_applies=True)
UNWANTED = patch("op-plugin", "3-pch.patch", option="pch", wanted=False)
PASSED_OVER = (PassedOver(WHERE_IT_APPLIES, "a.cpp is another"), PassedOver(UNWANTED, "--pch was not given"))
FROM_COMMIT = OverlaySource(mirror=mirror("o"), commit="c" * 40)
FROM_FOLDER = OverlaySource(folder=Path("op-plugin"), commit="c" * 40, dirty=True, digest="5" * 64)
CUSTOM_OPS = CustomOps(
    Path("mine"),
    tuple(Declaration(name, f"{name}(Tensor x) -> Tensor", (), 1) for name in ("npu_mine", "npu_other.out")),
    sources=(("Mine.cpp", b"int a;"),),
    text="custom: []",
)


def request(overlay: OverlaySource | None = FROM_COMMIT, **more: Any) -> TreeRequest:
    inner = SubmoduleSource("deps/inner", mirror("i"), "e" * 40)
    values: dict[str, Any] = {
        "target_id": TARGET, "branch": LINE, "torch_npu": mirror("t"), "commit": "a" * 40, "overlay": overlay,
        "submodules": (SubmoduleSource("third_party/fmt", mirror("f"), "b" * 40, (inner,)),),
        "torch_npu_patches": (TAKEN,), "op_plugin_patches": (WHERE_IT_APPLIES, UNWANTED),
        "custom_ops": CUSTOM_OPS, "pinned_op_plugin": "d" * 40,
        "asked": {"components": "op-plugin", "op_plugin": "branch", "torch_npu": "branch", "host": "git.example.org"},
    }  # fmt: skip
    return TreeRequest(**{**values, **more})


PLAIN: dict[str, Any] = {
    "torch_npu_patches": (), "op_plugin_patches": (), "custom_ops": None, "pinned_op_plugin": None, "submodules": ()
}  # fmt: skip
REQUESTS = {
    "commit": request(),
    "folder": request(FROM_FOLDER),
    "plain": request(None, **PLAIN),
}


@pytest.fixture(autouse=True)
def _no_git(monkeypatch: pytest.MonkeyPatch) -> None:
    def foreseen(asked: TreeRequest) -> Applied:
        return Applied(asked.torch_npu_patches, PASSED_OVER if asked.torch_npu_patches else ())

    monkeypatch.setattr(checkout, "_foreseen", foreseen)


def saved(folder: Path, asked: TreeRequest) -> PreparedTree:
    tree = folder / "pytorch" / asked.target_id
    (tree / ".git").mkdir(parents=True)
    (tree / "setup.py").write_text("\n")
    (tree / "setup.py").chmod(0o644)
    laid = () if asked.overlay is None else ("op_plugin", "gencode.sh")
    return save(tree, checkout._record(asked, laid, checkout._foreseen(asked)))


@pytest.mark.parametrize("name", REQUESTS)
def test_the_record_of_a_prepared_tree(tmp_path: Path, name: str) -> None:
    prepared = saved(tmp_path, REQUESTS[name])
    assert (prepared.path / ".git" / RECORD).read_text() == golden(f"tree-{name}.json")
    loaded = load_prepared(prepared.path)
    assert loaded is not None
    assert loaded.record == prepared.record
    assert loaded.differs(describe(REQUESTS[name])) == []


# -- what a wheel is made from ------------------------------------------------------------------------------

INPUTS: dict[str, tuple[str, BuildOptions, str | None]] = {
    "commit": ("commit", BuildOptions(pch=True, version_suffix=".dev20260301"), None),
    "folder": ("folder", BuildOptions(components="full", op_plugin="/op-plugin"), "9" * 64),
    "plain": ("plain", BuildOptions(), None),
}
IDENTITY: Mapping[str, JsonValue] = {"environment": "docker", "image_digest": "sha256:7", "fixed_paths": True}


def made_from(target: Target, name: str) -> Inputs:
    asked, options, changed = INPUTS[name]
    return inputs_of(target, describe(REQUESTS[asked]), IDENTITY, options, changed_tree=changed)


@pytest.mark.parametrize("name", INPUTS)
def test_the_inputs_of_a_wheel_and_their_fingerprint(target: Target, name: str) -> None:
    inputs = made_from(target, name)
    assert written({"fingerprint": inputs.fingerprint, "inputs": inputs.to_json()}) == golden(f"inputs-{name}.json")


def test_the_toolkit_is_among_the_inputs(target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "set_env.sh").write_text("export A=1\n")
    monkeypatch.chdir(tmp_path)
    options = BuildOptions(cann_home=Path())
    inputs = inputs_of(target, describe(REQUESTS["plain"]), IDENTITY, options, changed_tree=None)
    assert written({"fingerprint": inputs.fingerprint, "inputs": inputs.to_json()}) == golden("inputs-cann.json")


# -- results ------------------------------------------------------------------------------------------------


def built(log: Path) -> TargetResult:
    """A result with all that there is to say of a target that was built."""
    result = TargetResult(TARGET, log, status="built", reason="built from source", fingerprint="f" * 64, attempts=2)
    result.sha256, result.wheel = "8" * 64, Path("dist", "torch_npu-2.5.1-cp311-cp311-manylinux_2_17_x86_64.whl")
    result.phases = [
        Phase("prepare", 1.23456, started=THEN),
        Phase("compile", 98.7654321, 152.50001, 4 << 30, THEN + timedelta(seconds=2), 3 << 30),
        Phase("publish", 0.0),
    ]
    result.files_compiled = 16
    counts = CompileCounts(direct=8, preprocessed=1, misses=5, uncached=1, unknown=2, plain=3, failed=4)
    result.cache = counts.use(size=1 << 30, limit=0)
    result.headers = HeaderCounts(
        groups=3, made=2, refused={"large": 1}, used=9, plain=4, reasons={"few-left": 4}, fallbacks={"changed": 1},
        header_seconds=1.005, used_seconds=2.25, plain_seconds=3.333, fallback_seconds=0.1,
    )  # fmt: skip
    result.generation = Generation("miss", "k" * 64, ("setup.py",), seconds=12.5, cpu_seconds=11.0)
    result.compiler_warnings = {"shadow": 67, "other": 1}
    result.warnings = ["gcc is another: über"]
    return result


def failed(log: Path) -> TargetResult:
    result = TargetResult("v2.5.1-7.1.0-py3.9-x86_64", log, phases=[Phase("compile", 5.0, started=THEN)])
    result.cache = CompileCounts(misses=1).use()
    result.fail(TargetError("a.cpp:1: error", kind=FailureKind.COMPILE, hint="look", details="1\n2", phase="compile"))
    return result


def test_the_result_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "seconds", 12.3456)
    run = Run(tmp_path)
    run.id, run.started = "r1", THEN
    run.targets += [built(Path("one.log")), failed(Path("two.log"))]
    for name, error in (("three", RequestError("a wish")), ("four", MachineError("no engine"))):
        run.targets.append(TargetResult(name, Path(f"{name}.log")))
        run.targets[-1].fail(error)
    run.targets.append(TargetResult("five", Path("five.log")))
    run.targets[-1].skip("it stands")
    spent = timeline(run.targets, jobs=4)
    assert spent is not None
    run.schedule = spent.schedule()
    run.target("six")
    run.targets[-1].log = Path("six.log")
    assert run.write().read_text() == golden("result.json")


def test_a_result_is_read_as_it_was_written() -> None:
    for result in (built(Path("one.log")), TargetResult("five", Path("five.log"), status="skipped")):
        told = json.loads(json.dumps(result.to_json()))
        assert TargetResult.from_json(told, result.log).to_json() == {**told, "wheel": None}
    schedule = json.loads(golden("result.json"))["schedule"]
    assert Schedule.from_json(schedule).to_json() == schedule


@pytest.mark.parametrize(
    "change",
    [{"cache": {"hits": "many", "misses": 1}}, {"phases": [{"seconds": 1}]}, {"headers": {}}, {"warnings": 5},
     {"generation": {}}],
)  # fmt: skip
def test_a_result_of_odd_types_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"hits|name|groups|warnings|result"):
        TargetResult.from_json({**built(Path("one.log")).to_json(), **change}, Path("one.log"))


# -- a wheel ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["commit", "folder"])
def test_the_record_of_a_wheel(tmp_path: Path, target: Target, name: str) -> None:
    tree = saved(tmp_path, REQUESTS[name])
    inputs = made_from(target, name)
    result = built(tmp_path / "x.log")
    if name == "folder":
        result.cache = result.headers = None
        result.phases = []
    result.fingerprint = inputs.fingerprint
    wheel = tmp_path / "torch_npu-2.5.1.post3-cp311-cp311-manylinux_2_17_x86_64.whl"
    wheel.write_bytes(b"a wheel")
    spec = cast(
        CompileSpec,
        SimpleNamespace(
            arguments=("--python=3.11", "--disable_torchair"),
            variables=lambda: {"MAX_JOBS": "2", "AUDITWHEEL_PLAT": ""},
            repair=SimpleNamespace(platform="manylinux_2_17_x86_64"),
        ),
    )
    ready = Ready("docker", {**IDENTITY, "memory": 8 << 30, "base_image": None}, cast(Any, None))
    probed = Probed.from_json('{"gcc": "12.2.0", "g++": "12.2.0", "glibc": "2.36", "cxx11_abi": false, "mold": null}')
    changes = [] if name == "commit" else ["modified torch_npu/\udcff.py", "added über/文.py"]
    compiled = Compiled(tree, changes, inputs, ready, probed, spec)
    verified = Verified("2.5.1.post3", ("manylinux_2_17_x86_64",), ("torch==2.5.1",), 5, "a" * 40)
    finish = Finish(
        target, BuildOptions(), cast(Any, SimpleNamespace(path=tmp_path)), tmp_path, tmp_path / "dist", result,
        lambda text: None,
    )  # fmt: skip
    finish.publish(wheel, compiled, verified, run="r1", started=THEN)
    assert (tmp_path / "dist" / f"{wheel.name}.json").read_text() == golden(f"wheel-{name}.json")


# -- a lock -------------------------------------------------------------------------------------------------


def test_a_lock(tmp_path: Path, matrix: Matrix, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lockfile, "base_image_digest", lambda *_: "sha256:" + "7" * 64)
    other = parse_target_id(matrix, "v2.6.0-7.1.0-py3.10-aarch64")
    planned = []
    for each, name in ((target, "commit"), (other, "plain")):
        inputs = made_from(each, name)
        planned.append(Planned(each, "build", "no wheel of it stands", inputs.fingerprint, inputs))
    path = tmp_path / "builder.lock.yaml"
    lockfile.write_lock(path, planned, BuildOptions())
    assert path.read_text() == golden("builder.lock.yaml")
    lock = lockfile.read_lock(path)
    assert lock.pins() == {
        LINE: {"torch_npu": "a" * 40, "op_plugin": "c" * 40}, "v2.6.0-7.1.0": {"torch_npu": "a" * 40}
    }  # fmt: skip
    for plan in planned:
        assert plan.inputs is not None
        lock.check(plan.target, plan.inputs)


# -- what machines send each other ----------------------------------------------------------------------------


def test_what_goes_to_a_worker(tmp_path: Path, matrix: Matrix, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lockfile, "base_image_digest", lambda *_: None)
    inputs = made_from(target, "commit")
    planned = Planned(target, "build", "no wheel of it stands", inputs.fingerprint, inputs)
    lockfile.write_lock(tmp_path / "lock", [planned], BuildOptions())
    entry = lockfile.read_lock(tmp_path / "lock").targets[TARGET]
    luggage = Luggage(matrix, BuildOptions(custom_ops=None, jobs=3, find_links=(Path("/wheels"),), refresh=True))
    order = Order(
        run="r1", target=TARGET, options=luggage.options, store="/store", as_of="2026-03-01",
        pins={"torch_npu": "a" * 40, "op_plugin": "c" * 40}, standing="f" * 64, lock="builder.lock.yaml",
        locked=entry.model_dump(), halvings=1, builder="1.2.3", recipe=4,
    )  # fmt: skip
    with zipfile.ZipFile(BytesIO(luggage.pack(order, target))) as archive:
        assert written(json.loads(archive.read("order.json"))) == golden("order.json")


def test_what_comes_back_from_a_worker() -> None:
    files = {"log": StoredFile(f"runs/r1/{TARGET}/a1/x.log", "1" * 64)}
    outcomes = [Outcome(built(Path("one.log")), files, 4), Outcome(failed(Path("two.log")))]
    assert written([outcome.to_json() for outcome in outcomes]) == golden("outcomes.json")
