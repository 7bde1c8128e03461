"""What the secret scan finds, what it lets pass, and that nothing of the secret is printed.

The secrets are made up here, letter by letter, so that this file itself holds none.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
from pathlib import Path

SCAN = str(Path(os.environ["SECRETS"]).absolute())
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
KEY_ID = "AKIA" + "QYLPMN5HHHFPZAM2"
RANDOM = "".join(random.Random(4).sample(LETTERS, 40))
PLANTED = {
    "an AWS key": f'key = "{KEY_ID}"\n',
    "a password by its name": f'database_password = "{RANDOM[:12]}"\n',
    "a random string": f'x = "{RANDOM}+/"\n',
    "a GitHub token": f"git clone https://{'gh' + 'p_' + RANDOM[:36]}@github.com/a/b\n",
    "a private key": "-----BEGIN RSA " + "PRIVATE KEY-----\n" + RANDOM,
    "a password in an address": f'url = "https://me:{RANDOM[:10]}@db.kiln.dev/x"\n',
    "a Slack webhook": "https://hooks.slack.com/"
    + f"services/T0{'A' * 8}/B0{'B' * 8}/{RANDOM[:24]}\n",
    "a key of this service": f"kiln_{(RANDOM * 2)[:43]}\n",
}
HARMLESS = {
    "a digest": f'sha256 = "{"0123456789abcdef" * 4}"\n',
    "a list of digests": 'MD5 = (\n    "5dd7e06a14cb22eb9f671a540d1b7c25",\n)\n',
    "a test's password": 'password = "test"\n',
    "a sentence": 'password = "the credentials have expired: sign in again"\n',
    "a reference of Terraform's": "db_password = local.password_arn\n",
    "a reference": 'password = os.environ["PASSWORD"]\n',
    "an excuse with a reason": f'key = "{KEY_ID}"  # pragma: allowlist secret: made up here\n',
}


def scan(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The program, in the folder."""
    environment = {k: v for k, v in os.environ.items() if k != "BUILD_WORKSPACE_DIRECTORY"}
    environment |= variables
    return subprocess.run(
        [SCAN, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )


def test_a_planted_secret_is_found_and_not_repeated(tmp_path: Path) -> None:
    names = [f"settings_{number}.py" for number in range(len(PLANTED))]
    for name, text in zip(names, PLANTED.values(), strict=True):
        (tmp_path / name).write_text(text)

    done = scan(tmp_path, *names)

    assert done.returncode == 1, done.stderr
    found = {line.partition(":")[0] for line in done.stdout.splitlines()}
    missed = [kind for kind, name in zip(PLANTED, names, strict=True) if name not in found]
    assert missed == []
    assert RANDOM[:10] not in done.stdout + done.stderr
    assert KEY_ID not in done.stdout + done.stderr


def test_what_is_no_secret_passes(tmp_path: Path) -> None:
    names = [f"settings_{number}.py" for number in range(len(HARMLESS))]
    for name, text in zip(names, HARMLESS.values(), strict=True):
        (tmp_path / name).write_text(text)
    done = scan(tmp_path, *names)
    assert (done.returncode, done.stdout) == (0, "")


def test_what_was_clean_is_not_looked_at_again_until_it_changes(tmp_path: Path) -> None:
    file, cache = tmp_path / "settings.py", tmp_path / "cache"
    for text, code in (("nothing\n", 0), (PLANTED["an AWS key"], 1), ("nothing\n", 0)):
        file.write_text(text)
        assert scan(tmp_path, "settings.py", KILN_CACHE=str(cache)).returncode == code
    [known] = (cache / "secrets").iterdir()
    assert len(known.read_text().split()) == 1
    file.write_text(PLANTED["an AWS key"])
    digest = hashlib.sha256(b"settings.py\0" + file.read_bytes()).hexdigest()
    known.write_text(digest)  # as if it had been clean
    assert scan(tmp_path, "settings.py", KILN_CACHE=str(cache)).returncode == 0


def test_an_excuse_without_a_reason_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(f'key = "{KEY_ID}"  # pragma: allowlist ' + "secret\n")
    done = scan(tmp_path, "a.py", "--json")
    assert json.loads(done.stdout) == [
        {"file": "a.py", "line": 1, "what": "excused without a reason"}
    ]


def test_a_secret_that_a_later_commit_removed_is_found_in_the_history(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    for text in (PLANTED["an AWS key"], "nothing\n"):
        (tmp_path / "settings.py").write_text(text)
        git(tmp_path, "add", ".")
        git(tmp_path, "commit", "-qm", "a")

    assert scan(tmp_path).returncode == 0
    history = scan(tmp_path, "--history")

    assert history.returncode == 1
    assert "settings.py (blob " in history.stdout


def test_a_version_that_is_known_to_be_harmless_is_passed_over(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    for text in (PLANTED["an AWS key"], "nothing\n"):
        (tmp_path / "settings.py").write_text(text)
        git(tmp_path, "add", ".")
        git(tmp_path, "commit", "-qm", "a")
    blob = scan(tmp_path, "--history").stdout.partition("(blob ")[2][:12]
    known = tmp_path / "tools/checks/history.toml"
    known.parent.mkdir(parents=True)

    known.write_text(f'{blob} = "because"\n')
    refused = scan(tmp_path, "--history")
    assert refused.returncode == 2
    assert "a reason of two words or more" in refused.stderr

    known.write_text(f'{blob} = "made up for this test"\n')
    assert scan(tmp_path, "--history").returncode == 0


def git(folder: Path, *arguments: str) -> None:
    """Commits as a stranger, whatever the machine's settings are."""
    me = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *me, *arguments], cwd=folder, check=True, capture_output=True)
