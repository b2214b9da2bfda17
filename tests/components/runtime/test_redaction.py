"""
Secrets: nothing that looks like one reaches what people read.
"""

import pytest

from components.errors import UsageError
from components.runtime.redaction import HIDDEN, hide_in, holds_secret, is_secret, redact, redacted, refuse


@pytest.mark.parametrize(
    "name",
    ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "GITHUB_TOKEN", "DB_PASSWORD", "MY_SECRET", "APIKEY"]
    + ["DB_PASS", "MYSQL_PWD", "PASSPHRASE", "GITHUB_PAT", "AZURE_STORAGE_CONNECTION_STRING", "SLACK_WEBHOOK_URL"]
    + ["API_KEY_V2", "TOKEN_FOO", "HUB_TOKEN_PROD"],
)
def test_the_value_of_a_variable_with_a_secrets_name_is_hidden(monkeypatch, name):
    monkeypatch.setenv(name, "hunter2hunter2")

    assert redact("it said: hunter2hunter2!") == f"it said: {HIDDEN}!"


def test_other_variables_are_left_alone(monkeypatch):
    monkeypatch.setenv("KEYBOARD", "querty-layout")
    monkeypatch.setenv("SOME_TOKEN", "true")

    assert redact("querty-layout is true") == "querty-layout is true"


@pytest.mark.parametrize(
    "name",
    ["PWD", "OLDPWD", "PATH", "TOKEN_LIMIT", "TOKEN_MAX_LENGTH", "OAUTH_TOKEN_URL", "RAY_AUTH_TOKEN_PATH"]
    + ["TOKENIZERS_PARALLELISM", "COMPASS", "BYPASS"],
)
def test_a_variable_that_only_sounds_like_one_is_left_alone(monkeypatch, name):
    monkeypatch.setenv(name, "ordinary words")

    assert redact("these are ordinary words") == "these are ordinary words"


def test_what_json_in_a_variable_names_a_secret_is_hidden(monkeypatch):
    held = '{"key": "AKIA12345", "secret": "s3cr3ts", "client_kwargs": {"aws_session_token": "deep-one"}, "anon": "no"}'
    monkeypatch.setenv("FSSPEC_S3", held)
    monkeypatch.setenv("BRACED", "{no JSON")

    assert redact("AKIA12345 s3cr3ts deep-one {no JSON") == f"{HIDDEN} {HIDDEN} {HIDDEN} {{no JSON"


def test_a_variable_holds_a_secret_by_its_name_its_address_or_its_json():
    assert holds_secret("A_TOKEN", "abc")
    assert holds_secret("MLFLOW_TRACKING_URI", "http://me:word@host")
    assert holds_secret("FSSPEC_S3", '{"secret": "abc"}')
    assert not holds_secret("FSSPEC_S3", '{"endpoint_url": "http://host:9000"}')


def test_a_secret_is_found_as_an_address_holds_it(monkeypatch):
    monkeypatch.setenv("DB_PASSWORD", "p@ss/word")

    assert "p%40ss" not in redact("GET /?with=p%40ss%2Fword")


def test_every_line_of_a_private_key_is_hidden(monkeypatch):
    monkeypatch.setenv("DEPLOY_KEY", "-----BEGIN KEY-----\nabcdefgh\nijklmnop\n-----END KEY-----")

    assert redact("line: ijklmnop") == f"line: {HIDDEN}"
    assert redact("-----BEGIN KEY-----") == "-----BEGIN KEY-----"


def test_a_longer_secret_is_hidden_whole_though_a_shorter_one_is_in_it(monkeypatch):
    monkeypatch.setenv("A_TOKEN", "abcdef")
    monkeypatch.setenv("B_TOKEN", "abcdefghij")

    assert redact("abcdefghij") == HIDDEN


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:word@host/path", "https://***@host/path"),
        ("postgresql://me@host/db", "postgresql://***@host/db"),
        ("mail me@host about https://host/a@b", "mail me@host about https://host/a@b"),
        ("/o?X-Amz-Signature=0a1b&X-Amz-Date=1", "/o?X-Amz-Signature=***&X-Amz-Date=1"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("a basic idea", "a basic idea"),
        ("postgres://u:pa/ss@h/db", "postgres://***@h/db"),
        ("postgres://u:p@ss@h/db", "postgres://***@h/db"),
        ("http://host:8265/a@b", "http://host:8265/a@b"),
        ("http://[::1]:8265/jobs", "http://[::1]:8265/jobs"),
        ("see http://host:8265 or mail me@host", "see http://host:8265 or mail me@host"),
        ("/o?token=0a1b&page=2", "/o?token=***&page=2"),
        ("/o?page=2&api_key=0a1b", "/o?page=2&api_key=***"),
        ("/o?max_tokens=4&keys=2", "/o?max_tokens=4&keys=2"),
        ("token=4, key=3", "token=4, key=3"),
        ("AccountName=a;AccountKey=0a1b==", "AccountName=a;AccountKey=***"),
        ("curl -H 'X-Api-Key: 0a1b' http://host", "curl -H 'X-Api-Key: ***' http://host"),
        ("https://hooks.slack.com/services/T0/B0/0a1b", "https://hooks.slack.com/services/***"),
    ],
)
def test_users_and_signatures_of_addresses_are_hidden(text, shown):
    assert redact(text) == shown


def test_in_plain_data_texts_are_redacted_and_what_is_named_a_secret_is_hidden_whole():
    found = redacted({"api_key": "x", "key": "0a1b", "root": ["s3://a:b@c/d"], "steps": 3, "token": ""})

    assert found == {"api_key": HIDDEN, "key": "0a1b", "root": ["s3://***@c/d"], "steps": 3, "token": ""}


def test_words_that_only_hold_such_a_name_are_no_secrets():
    assert [n for n in ("tokens_seen", "keyframe", "token_mixer", "file_pat", "api-key") if is_secret(n)] == ["api-key"]


def test_what_will_be_written_down_holds_no_secret():
    refuse("--address", "http://head:8265", "Set RAY_AUTH_TOKEN.")
    with pytest.raises(UsageError, match="^--address is written .* holds a secret. Set RAY_AUTH_TOKEN.$"):
        refuse("--address", "http://me:word@head:8265", "Set RAY_AUTH_TOKEN.")


def test_an_error_and_those_that_led_to_it_are_hidden_in_place(monkeypatch):
    """Its class and its place stay: who catches it decides by these."""
    monkeypatch.setenv("HUB_TOKEN", "planted-hub")
    first, second = OSError(13, "no planted-hub here", "/planted-hub"), ValueError("planted-hub", 3)
    second.__cause__ = first
    first.__context__ = second  # a circle, as careless code makes them
    hide_in(second)

    assert second.args == (HIDDEN, 3)
    assert str(first) == f"[Errno 13] no {HIDDEN} here: '/{HIDDEN}'"
    assert second.__cause__ is first
