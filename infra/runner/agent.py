"""Agent on the runner's machine: it registers with GitHub for one job, then becomes the runner of that job.

Its service (`machine.py`) starts it again after each job. It starts as root, because only root can reach the machine's
identity, and gives up root before the job begins: a job can read neither the identity's token nor the key of the GitHub
App. It uses only the standard library and openssl, because the machine has nothing else. Does not keep data of a job:
each job has a separate folder, which the next start removes.

Source: github/rest-api-description descriptions/api.github.com/api.github.com.json
(`actions/generate-runner-jitconfig-for-repo`, `actions/list-runner-applications-for-repo`,
`apps/create-installation-access-token`); https://docs.github.com/en/apps/creating-github-apps
(Generating a JSON Web Token for a GitHub App); MicrosoftDocs/azure-docs
articles/active-directory/managed-identities-azure-resources/how-to-use-vm-token.md
"""

import base64
import hashlib
import json
import os
import pwd
import shutil
import subprocess
import sys
import tarfile
import time
import urllib.parse
import urllib.request
import uuid
from pathlib import Path
from typing import Any

CONFIG = "/etc/personalization-runner.json"
_SECONDS = 60


def main(path: str) -> None:
    config = json.loads(Path(path).read_text())
    token = _installation_token(config, _private_key(config))
    program = _program(config, token)
    job = _job_folder(Path(config["folder"]) / "jobs")
    with tarfile.open(program) as archive:
        archive.extractall(job, filter="data")
    registration = {
        "name": f"{config['label']}-{uuid.uuid4().hex[:8]}",
        "runner_group_id": 1,  # the default group, the only one of a repository
        "labels": ["self-hosted", config["label"]],
        "work_folder": "_work",
    }
    jit = _github(config, "POST", "actions/runners/generate-jitconfig", token, registration)["encoded_jit_config"]
    _become(config["user"], job)
    os.execve(job / "run.sh", [str(job / "run.sh"), "--jitconfig", jit], _environment(config["user"], job))


def _private_key(config: dict[str, Any]) -> bytes:
    """Read the App's key from the vault, with the machine's identity."""
    query = {"api-version": "2018-02-01", "resource": config["vault_resource"], "client_id": config["identity"]}
    url = f"{config['metadata']}/metadata/identity/oauth2/token?{urllib.parse.urlencode(query)}"
    token = _request("GET", url, {"Metadata": "true"})["access_token"]
    secret = _request("GET", f"{config['secret']}?api-version=7.4", {"Authorization": f"Bearer {token}"})
    return str(secret["value"]).encode()


def _installation_token(config: dict[str, Any], key: bytes) -> str:
    """Get a token that is valid for an hour and may administer the runners of this repository only."""
    now = int(time.time())
    claims = {"iat": now - 60, "exp": now + 540, "iss": str(config["app"])}
    unsigned = b".".join(_encoded(json.dumps(part).encode()) for part in ({"alg": "RS256", "typ": "JWT"}, claims))
    login = b".".join((unsigned, _encoded(_signed(unsigned, key)))).decode()
    scope = {"repositories": [config["repository"].partition("/")[2]], "permissions": {"administration": "write"}}
    url = f"{config['github']}/app/installations/{config['installation']}/access_tokens"
    return str(_request("POST", url, _headers(login), scope)["token"])


def _signed(message: bytes, key: bytes) -> bytes:
    """Sign with RS256. The key goes to openssl through a pipe, never through a file or an argument."""
    read, write = os.pipe()
    with os.fdopen(write, "wb") as pipe:
        pipe.write(key)  # smaller than a pipe's buffer
    try:
        command = ["openssl", "dgst", "-sha256", "-sign", f"/dev/fd/{read}"]
        return subprocess.run(command, input=message, pass_fds=[read], check=True, capture_output=True).stdout
    finally:
        os.close(read)


def _program(config: dict[str, Any], token: str) -> Path:
    """Return the archive of the runner in GitHub's current version. Download it if needed, and check its digest."""
    offered = _github(config, "GET", "actions/runners/downloads", token)
    release = next(each for each in offered if (each["os"], each["architecture"]) == ("linux", "x64"))
    archive = Path(config["folder"]) / str(release["filename"])
    if not archive.exists():
        archive.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(str(release["download_url"]), timeout=_SECONDS) as answer:
            content = answer.read()
        if hashlib.sha256(content).hexdigest() != release["sha256_checksum"]:
            raise SystemExit(f"{release['download_url']} does not have the digest that GitHub states")
        partial = archive.with_suffix(".partial")
        partial.write_bytes(content)
        partial.rename(archive)
    return archive


def _job_folder(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    job = folder / uuid.uuid4().hex
    job.mkdir(parents=True)
    return job


def _become(user: str, job: Path) -> None:
    """Give up root permanently. The user owns the job's folder and nothing else."""
    account = pwd.getpwnam(user)
    if os.getuid() == 0:
        for path in (job, *job.rglob("*")):
            os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)
        os.setgroups([])
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)
    os.chdir(job)


def _environment(user: str, job: Path) -> dict[str, str]:
    return {"HOME": str(job), "USER": user, "LANG": "C.UTF-8", "PATH": "/usr/local/bin:/usr/bin:/bin"}


def _github(config: dict[str, Any], method: str, path: str, token: str, body: Any = None) -> Any:
    return _request(method, f"{config['github']}/repos/{config['repository']}/{path}", _headers(token), body)


def _headers(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}", "Accept": "application/vnd.github+json"}


def _request(method: str, url: str, headers: dict[str, str], body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {**headers, "Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
        return json.load(answer)


def _encoded(part: bytes) -> bytes:
    return base64.urlsafe_b64encode(part).rstrip(b"=")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else CONFIG)
