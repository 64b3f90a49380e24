"""Secrets never reach a study's file."""

from __future__ import annotations

import pytest

import tunesmith
from tunesmith.masking import mask, masked

KEY = "0123456789abcdef0123456789abcdef01234567"
SECRETS = [
    ("using hf_AbCdEfGhIjKlMnOpQrStUvWx now", "AbCdEfGhIj"),
    (f"WANDB_API_KEY={KEY}", KEY),
    (f'wandb.login(key="{KEY}")', KEY),
    (f"machine api.wandb.ai password {KEY}", KEY),
    ("postgresql://user:pa55w0rd@db.example.org/x", "pa55w0rd"),
    ("https://:tok-tok-tok@example.org", "tok-tok-tok"),
    ("--hub_token s3cr3t-value --lr 1", "s3cr3t-value"),
    ('{"api_key": "abcdef123456"}', "abcdef123456"),
    ("'password': 'hunter22'", "hunter22"),
    ("Authorization: Bearer abc.def-ghi_jkl", "abc.def-ghi_jkl"),
    ("ghp_0123456789abcdefghijABCDEFGHIJ", "0123456789abcdefghij"),
    ("sk-proj-0123456789abcdefghij", "0123456789abcdefghij"),
    ("AKIAIOSFODNN7EXAMPLE", "IOSFODNN7EXAMPLE"),
]
HARMLESS = [
    "learning_rate=1e-4 seed=12",
    "num_tokens=123456 max_new_tokens: 512",
    "pad_token='[PAD]', eos_token: '</s>'",
    "token = tokenizer.encode(text)",
    "password = self.password",
    f"commit {KEY}",
    "https://example.org:8080/a@b",
    "C:/data/secretary/notes.txt",
]


@pytest.mark.parametrize(("text", "secret"), SECRETS, ids=[s for _, s in SECRETS])
def test_a_secret_is_replaced(text, secret):
    assert secret not in mask(text)
    assert "***" in mask(text)


@pytest.mark.parametrize("text", HARMLESS)
def test_other_text_stays_as_it_is(text):
    assert mask(text) == text


def test_masking_twice_changes_nothing_more():
    for text, _ in SECRETS:
        assert mask(mask(text)) == mask(text)


def test_values_under_a_secrets_name_are_replaced_in_json():
    value = {"hub_token": "abc", "lr": 0.1, "nested": {"password": "x", "rows": ["--token", "abc", "--lr", "0.1"]}}
    assert masked(value) == {
        "hub_token": "***", "lr": 0.1, "nested": {"password": "***", "rows": ["--token", "***", "--lr", "0.1"]},
    }  # fmt: skip


def test_no_secret_of_a_failing_trial_is_in_the_studys_files(tmp_path):
    secret = "hf_AbCdEfGhIjKlMnOpQrStUvWx"

    def objective(trial):
        trial.suggest_float("x", 0, 1)
        trial.set_user_attr("login", {"token": "correct-horse"})
        raise ValueError(f"login with {secret} failed at https://me:correct-horse@example.org")

    with pytest.raises(tunesmith.TunesmithError):
        tunesmith.search(objective, 3, directory=tmp_path, progress=False)
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert any(p.name == "report.html" for p in files)
    for path in files:
        content = path.read_bytes()
        assert b"AbCdEfGhIj" not in content
        assert b"correct-horse" not in content
