"""
Secrets: nothing that looks like one reaches what people read.
"""

import pytest

from components.secrets import HIDDEN, is_secret, redact, redacted


@pytest.mark.parametrize(
    "name", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "GITHUB_TOKEN", "DB_PASSWORD", "MY_SECRET", "APIKEY"]
)
def test_the_value_of_a_variable_with_a_secrets_name_is_hidden(monkeypatch, name):
    monkeypatch.setenv(name, "hunter2hunter2")

    assert redact("it said: hunter2hunter2!") == f"it said: {HIDDEN}!"


def test_other_variables_are_left_alone(monkeypatch):
    monkeypatch.setenv("KEYBOARD", "querty-layout")
    monkeypatch.setenv("SOME_TOKEN", "true")

    assert redact("querty-layout is true") == "querty-layout is true"


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
    ],
)
def test_users_and_signatures_of_addresses_are_hidden(text, shown):
    assert redact(text) == shown


def test_in_plain_data_texts_are_redacted_and_what_is_named_a_secret_is_hidden_whole():
    found = redacted({"api_key": "x", "key": "0a1b", "root": ["s3://a:b@c/d"], "steps": 3, "token": ""})

    assert found == {"api_key": HIDDEN, "key": "0a1b", "root": ["s3://***@c/d"], "steps": 3, "token": ""}


def test_words_that_only_hold_such_a_name_are_no_secrets():
    assert [n for n in ("tokens_seen", "keyframe", "secretary", "api-key") if is_secret(n)] == ["api-key"]
