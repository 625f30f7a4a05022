# /// script
# dependencies = ["nox>=2025.2.9", "PyYAML>=6.0.1", "pydantic>=2.7", "packaging>=24", "filelock>=3.13", "rich>=13.7"]
# ///
"""Sessions of torch-npu-builder: the build sessions come from the matrix, the others serve the project."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import nox

sys.path.insert(0, str(Path(__file__).parent))
from builder.matrix.loader import load_matrix
from builder.matrix.selection import minors_and_pythons

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["lint", "types", "tests"]
nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True


def _install(session: nox.Session, *requirements: str) -> None:
    session.install("--quiet", "--editable", ".", *requirements)


def _development() -> list[str]:
    return nox.project.dependency_groups(nox.project.load_toml("pyproject.toml"), "dev")


def _build_session(pytorch: str, python: str) -> None:
    def run(session: nox.Session) -> None:
        _install(session)
        session.run("python", "-m", "builder", f"--pytorch={pytorch}", f"--python={python}", *session.posargs)

    run.__doc__ = f"Build the newest release line of PyTorch {pytorch} for Python {python}."
    nox.session(run, name=f"build-{pytorch}-py{python}", default=False)


for _pytorch, _python in minors_and_pythons(load_matrix()):
    _build_session(_pytorch, _python)


@nox.session(default=False)
def build(session: nox.Session) -> None:
    """Build whatever the arguments after -- select: nox -s build -- --pytorch=v2.1.0-7.1.0."""
    _install(session)
    session.run("python", "-m", "builder", "build", *session.posargs)


@nox.session(default=False)
def unit(session: nox.Session) -> None:
    """Run the tests that need neither an engine nor a network, for a person at work; arguments go to pytest."""
    _install(session, *_development())
    session.run("pytest", "-n2", "tests/unit", "tests/payload", *session.posargs, env={"HYPOTHESIS_PROFILE": "dev"})


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests in two processes (-- -n0: in this one); arguments after -- go to pytest."""
    _install(session, *_development())
    # In the order of the files: the tests with an engine come first, and are half of the time.
    two = ("-n2", "--dist=loadfile", "--no-loadscope-reorder")
    session.run("pytest", *two, "--durations=25", *session.posargs)


@nox.session(default=False)
def hostile(session: nox.Session) -> None:
    """Run the attacks of tests/hostile and write what came of them to docs/security-tests.md."""
    _install(session, *_development())
    env = {
        "BUILDER_SECURITY_TABLE": str(Path("docs", "security-tests.md").absolute()),
        "BUILDER_FUZZ_INPUTS": os.environ.get("BUILDER_FUZZ_INPUTS", "400"),
    }
    session.run("pytest", "tests/hostile", *session.posargs, env=env)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, shell scripts and the direction of imports."""
    _install(session, *_development())
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports")
    scripts = session.run("python", "tests/shells.py", silent=True)
    session.run("shellcheck", "--external-sources", *str(scripts).split())


@nox.session
def types(session: nox.Session) -> None:
    """Check types, strictly."""
    _install(session, *_development())
    session.run("mypy")
    with session.chdir("builder/payload/launcher"):
        # They import each other by bare names, as they do inside an environment.
        scripts = sorted(path.name for path in Path().glob("*.py"))
        session.run("mypy", "--strict", "--config-file=", "--explicit-package-bases", *scripts, env={"MYPYPATH": "."})


@nox.session(default=False)
def docs(session: nox.Session) -> None:
    """Write the pages and JSON Schemas that come from the matrix anew, then check links and commands of all pages."""
    _install(session, *_development())
    session.run("python", "-m", "builder.matrix.schema")
    # The page names the command that makes it, with the day that its statuses are for.
    page = Path("docs/compatibility.md")
    command = re.search(r"^    python -m builder (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    if command is None:
        session.error(f"{page} does not name the command that makes it")
    made = session.run("python", "-m", "builder", *shlex.split(command[1]), silent=True, stderr=None)
    page.write_text(str(made), encoding="utf-8")
    session.run("pytest", *(str(path) for path in sorted(Path("tests/unit").glob("test_*docs.py"))), *session.posargs)
    session.install("--quiet", *nox.project.dependency_groups(nox.project.load_toml("pyproject.toml"), "docs"))
    site = Path("build", "site")
    # A warning is an error: a page that nobody reaches, a link that leads nowhere.
    session.run("sphinx-build", "-q", "-W", "--keep-going", "-n", "-b", "html", "-c", "docs", ".", str(site))
    session.log(f"the site is {site / 'docs' / 'index.html'}")


def _interpreter(version: str) -> str | None:
    """A Python of this minor version, on PATH or under pyenv."""
    found = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}"))
    return str(found[-1]) if found else shutil.which(f"python{version}")


@nox.session(default=False)
def package(session: nox.Session) -> None:
    """Make wheel and source distribution, check them, and try the wheel on every Python that it is for."""
    session.install("--quiet", "build", "twine")
    dist = Path(session.create_tmp()).absolute() / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(dist), silent=True)
    made = sorted(str(path) for path in dist.iterdir())
    session.run("twine", "check", "--strict", *made)
    wheel = next(name for name in made if name.endswith(".whl"))
    for version in ("3.10", "3.11", "3.12", "3.13"):
        python = _interpreter(version)
        if python is None:
            session.log(f"there is no Python {version} here: not tried")
            continue
        place = dist.parent / version
        session.run(python, "-m", "venv", "--clear", str(place), external=True)
        pip = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        session.run(str(place / "bin" / "python"), *pip, wheel, external=True)
        with session.chdir(place):
            program = str(place / "bin" / "torch-npu-builder")
            session.run(program, "list", "--pytorch=2.7", "--json", silent=True, external=True)
            session.run(program, "--version", external=True)
    session.log(f"made {', '.join(Path(name).name for name in made)} in {dist}")


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Run the benchmarks, which print ratios; arguments after -- name files of benchmarks/."""
    _install(session)
    for script in session.posargs or sorted(str(path) for path in Path("benchmarks").glob("*.py")):
        # This one needs a container engine: it says so where there is none, and ends with 3.
        session.run("python", script, success_codes=[0, 3] if Path(script).name == "compile.py" else [0])


@nox.session(default=False)
def demo(session: nox.Session) -> None:
    """Build the miniature upstream and call an operator through its wheel."""
    _install(session)
    session.run("python", "-m", "builder", "demo", *session.posargs)


if __name__ == "__main__":
    nox.main()
