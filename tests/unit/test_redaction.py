"""What must not be shown is hidden, wherever it stands in a text; what says nothing secret stays."""

from __future__ import annotations

import pytest

from builder.core.redaction import holds_password, without_credentials, without_secrets, without_values


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://user:pass@host/x", "https://***@host/x"),
        (
            "fetching ssh://git@host:22/x and http://token@other/y",
            "fetching ssh://***@host:22/x and http://***@other/y",
        ),
        ("https://a:b@c@host/x", "https://***@host/x"),
        ("'https://user:pa ss@host' stays", "'https://user:pa ss@host' stays"),
        ("https://host:8443/x@v1", "https://host:8443/x@v1"),
        ("//user:pass@host/x", "//***@host/x"),
        ("git@host:path", "git@host:path"),
    ],
)
def test_credentials_of_urls(text: str, shown: str) -> None:
    assert without_credentials(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://KEY:ab/cd/e+f@bucket/folder", "s3://***@bucket/folder"),
        ("https://h/x?X-Amz-Signature=abc&n=1", "https://h/x?X-Amz-Signature=***&n=1"),
        ("https://h/x?sv=1&sig=a%2Bb", "https://h/x?sv=1&sig=***"),
        ("the key is hunter22, twice hunter22", "the key is ***, twice ***"),
    ],
)
def test_secrets_of_stores(text: str, shown: str) -> None:
    assert without_secrets(text, ["hunter22", "", "hunter"]) == shown


def test_a_secret_within_another_leaves_nothing_of_it() -> None:
    assert without_values("abcd ab", ["ab", "abcd"]) == "*** ***"


@pytest.mark.parametrize(
    ("url", "held"),
    [("https://u:p@h/x", True), ("https://u@h/x", False), ("https://h:80/x", False), ("git@h:x", False)],
)
def test_passwords_are_seen(url: str, held: bool) -> None:
    assert holds_password(url) is held
