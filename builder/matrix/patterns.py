"""Patterns of the matrix: what each kind of text may look like, and how to say so to a person.

Every text that later becomes a git ref, an image reference, a file name or an argument must match
one of these in full; none leaves room for an option (a leading dash) or a path (a slash, ``..``).
They use only what Rust's, Python's and JSON Schema's regular expressions share.
"""

from __future__ import annotations

#: What a user should have written, for each pattern below: the wording of the loader's errors.
EXPECTED: dict[str, str] = {}


def pattern(regex: str, expected: str) -> str:
    """Register ``regex`` with the words for what it wants; return it."""
    EXPECTED[regex] = expected
    return regex


# Words joined by single . _ or - : no leading dash (an option), no slash and no ".." (a path).
REF = pattern(r"^[A-Za-z0-9]+([._-][A-Za-z0-9]+)*$", "a branch name such as v2.5.1-7.1.0, without slashes or spaces")
GLOB = pattern(r"^[A-Za-z0-9*?\[\]!._-]+$", "a branch name or a glob such as v2.1.0-*")
NAME = pattern(r"^[a-z0-9]+([._-][a-z0-9]+)*$", "a name of lower-case letters, digits and single . _ or -")
PYTORCH = pattern(r"^[0-9]+\.[0-9]+\.[0-9]+$", 'a PyTorch version of three numbers, in quotes, such as "2.5.1"')
MINOR = pattern(r"^[0-9]+\.[0-9]+$", 'a PyTorch minor version, in quotes, such as "2.5"')
RELEASE = pattern(r"^[A-Za-z0-9]+(\.[A-Za-z0-9]+)*$", 'a plugin release, in quotes, such as "7.1.0" or "6.0.rc3"')
PACKAGE = pattern(
    r"^[0-9]+(\.[0-9]+){2}(\.?(rc|post|dev)[0-9]+)*$", 'a package version, in quotes, such as "2.5.1.post3"'
)
CANN = pattern(r"^[0-9]+(\.[0-9A-Za-z]+)+$", 'a CANN version, in quotes, such as "8.2.RC1"')
PYTHON = pattern(r"^3\.[0-9]{1,2}$", 'a Python minor version, in quotes, such as "3.9"')
GCC = pattern(r"^[0-9]+\.[0-9]+(\.[0-9]+)?$", 'a gcc version, in quotes, such as "9.3.1"')
MANYLINUX = pattern(r"^manylinux_2_[0-9]{1,2}$", "a manylinux policy such as manylinux_2_17, without architecture")
HUB = pattern(r"^[0-9A-Za-z]+([._-][0-9A-Za-z]+)*$", "the tag of an AscendHub image such as 22.0.RC3-1.8.1")
ENTRY = pattern(
    r"^[A-Za-z0-9_*?-][A-Za-z0-9._*?-]*(/[A-Za-z0-9_*?-][A-Za-z0-9._*?-]*)*$", "a file or folder of op-plugin"
)
OPTION = pattern(r"^--[a-z][a-z0-9_-]*$", "an option of ci/build.sh such as --disable_rpc")
TORCH = pattern(
    r"^torch==([0-9]+(\.[0-9]+){2}(\.\*)?(\+[a-z0-9.]+)?|<version>)$",
    "torch with its version, torch==2.5.1 or torch==2.5.1+cpu; <version> where setup.py takes the installed one",
)
_PART = r"[a-z0-9]+((\.|_{1,2}|-+)[a-z0-9]+)*"
IMAGE = pattern(
    rf"^{_PART}(:[0-9]{{1,5}})?(/{_PART})*(:[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})?$",
    "an image reference such as registry.example.org/manylinux/base:2.17",
)
REGISTRY = pattern(
    r"^([a-z0-9-]+\.)*[a-z0-9-]+(:[0-9]{1,5})?$", "the host of an image registry such as quay.io or docker.io"
)
IMAGE_PLACE = pattern(
    rf"^([a-z0-9-]+\.)*[a-z0-9-]+(:[0-9]{{1,5}})?(/{_PART})*$",
    "a registry, or a project in one, such as harbor.example.org/quay",
)
DIGEST = pattern(r"^sha256:[0-9a-f]{64}$", "sha256: and 64 hexadecimal digits, or null where it is unknown")
TOOLSET = pattern(r"^(gcc-toolset|devtoolset)-[0-9]{1,2}$", "a toolset such as gcc-toolset-11 or devtoolset-9")
PACKAGED = pattern(
    r"^(gcc-toolset|devtoolset|gcc)-[0-9]{1,2}$", "a toolset or package such as gcc-toolset-11, devtoolset-9 or gcc-11"
)
OS_VERSION = pattern(r"^[0-9]+(\.[0-9]+)*$", 'the VERSION_ID of an /etc/os-release, in quotes, such as "8"')
PINNED = pattern(
    r"^[A-Za-z0-9]+([._-][A-Za-z0-9]+)*==[0-9]+(\.[0-9A-Za-z]+)*$",
    "a requirement with its exact version, NAME==VERSION",
)
VARIABLE = pattern(r"^[A-Z_][A-Z0-9_]*$", "the name of an environment variable in capitals")
VALUE = pattern(r"^[^\x00-\x1f\x7f]*$", "a value on one line")
TEXT = pattern(r"^[^\s\x00-\x1f\x7f][^\x00-\x1f\x7f]*$", "a sentence on one line")
URL = pattern(
    r"^((https?|ssh|git)://[^\s\x00-\x1f\x7f/-][^\s\x00-\x1f\x7f]*|file:///[^\x00-\x1f\x7f]+"
    r"|[A-Za-z0-9._]+@[A-Za-z0-9][A-Za-z0-9.-]*:[^\s\x00-\x1f\x7f-][^\s\x00-\x1f\x7f]*|(\.{0,2}|~)/[^\x00-\x1f\x7f]+)$",
    "a git URL (https, ssh, git or file), or a local path that starts with /, ./, ../ or ~/",
)
