"""Beyond one command on one machine, as the README has it: worktrees, a unit of systemd, a Deployment, a Slurm array, a bridge behind ssh."""
from __future__ import annotations

import getpass
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Iterator, NamedTuple

import pytest
import yaml

from bridging import start_bridge
from support import ROOT, free_port, missing, own_bridges, wait_until

README = (ROOT / "README.md").read_text("utf-8")
PROGRAM = shlex.join([sys.executable, str(ROOT / "cc_execute.py")])
WORKS = [{"write": {"path": "a.txt", "content": "hello\n"}}, {"text": "Done."}]
SPEC = "Task: Create a.txt\nTimeout: 60\n{more}Success Criteria:\n1) creates a.txt\n"


def block(words: str) -> str:
    return next(found for found in re.findall(r"^```\w*\n(.*?)^```$", README, re.M | re.S) if words in found)


def run_script(script: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, **variables}
    return subprocess.run(["bash", "-euc", script.replace("python3 cc_execute.py", PROGRAM)], cwd=cwd, env=environment, capture_output=True, text=True, check=False)


# ---- Worktrees. ----

def test_worktrees_keep_specs_apart(stand_in, bridge, workspace):
    (workspace / "specs").mkdir()
    for name in ("one", "two", "three"):
        (workspace / "specs" / f"{name}.md").write_text(SPEC.format(more=f"Directory: ../work-{name}\n"))
    for words in ("init -q", "-c user.name=x -c user.email=x@x commit -q --allow-empty -m x"):
        subprocess.run(["git", *shlex.split(words)], cwd=workspace, check=True)
    done = run_script(block("git worktree add").replace("--jobs 8", "--jobs 3 --json"), workspace, **stand_in(WORKS).environment)
    assert done.returncode == 0 and '"success": true' in done.stdout and "another run" not in done.stderr, done.stderr
    assert all((workspace.parent / f"work-{name}" / "a.txt").exists() for name in ("one", "two", "three")) and (workspace / "report.html").exists()


# ---- Other people's schedulers. ----

def test_systemd_takes_the_unit(tmp_path):
    if not shutil.which("systemd-analyze"):
        missing("systemd-analyze", "it is in Debian's package systemd")
    unit = tmp_path / "cc-worker@.service"
    program = tmp_path / "rq"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    text = block("KillMode=mixed").replace("/opt/cc_execute/venv/bin/rq", str(program)).replace("User=cc\n", f"User={getpass.getuser()}\n")
    unit.write_text(text)
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(tmp_path / "cc-worker@8101.service")], capture_output=True, text=True, check=False)
    ours = [line for line in done.stderr.split("\n") if "cc-worker" in line]
    assert done.returncode == 0 and ours == [], done.stderr
    unit.write_text(text.replace("KillMode=mixed", "KillMode=gentle"))   # what is wrong would be told
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(tmp_path / "cc-worker@8101.service")], capture_output=True, text=True, check=False)
    assert "gentle" in done.stderr


def test_kubernetes_takes_the_deployment():
    if not importlib.util.find_spec("kubernetes_validate"):
        missing("kubernetes-validate", "tests/requirements.txt names it")
    import kubernetes_validate
    deployment = yaml.safe_load(block("kind: Deployment"))
    kubernetes_validate.validate(deployment, "1.28", strict=True)
    container, = deployment["spec"]["template"]["spec"]["containers"]
    assert shlex.join(container["command"]) == re.search(r"^rq worker.*", block("rq enqueue"), re.M)[0]
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**deployment, "spec": {**deployment["spec"], "replicas": "many"}}, "1.28", strict=True)


def test_a_task_of_the_slurm_array_runs_its_spec_and_goes_on_when_it_is_requeued(stand_in, workspace):
    """What sbatch would run: the script behind --wrap, by a shell, with the task's number in its environment."""
    words = shlex.split(block("sbatch"))
    wrapped = words[words.index("--wrap") + 1]
    for name in ("one", "two"):
        (workspace / f"{name}.md").write_text(SPEC.format(more=f"Directory: {name}\n"))
        (workspace / name).mkdir()
    (workspace / "specs.list").write_text("one.md\ntwo.md\n")
    agent = stand_in(WORKS)
    for _ in range(2):
        done = run_script(wrapped, workspace, SLURM_ARRAY_TASK_ID="2", SLURM_JOB_ID=str(free_port()), TMPDIR=str(workspace), **agent.environment)
        assert done.returncode == 0, done.stderr
    assert (workspace / "two" / "a.txt").exists() and not (workspace / "one" / "a.txt").exists() and (workspace / "runs" / "2" / "result.json").exists()
    assert len(agent.starts()) == 1 and [word for word in words if word.startswith("--signal")] == ["--signal=B:TERM@90"]


# ---- A bridge behind ssh. ----

class Sshd(NamedTuple):
    port: int
    options: list                     # for ssh, so that it finds the server as "box" and asks nobody

    def command(self, *words: str) -> list:
        return ["ssh", *self.options, *words]


@pytest.fixture
def sshd(tmp_path) -> Iterator[Sshd]:
    """A real OpenSSH server on loopback, which lets this user in by a key of the test's own."""
    program = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin")
    if not program or not shutil.which("ssh"):
        missing("sshd", "Debian's packages openssh-server and openssh-client")
    folder, port = tmp_path / "ssh", free_port()
    folder.mkdir(mode=0o700)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    shutil.copy(folder / "user.pub", folder / "authorized")
    (folder / "config").write_text(f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\nPidFile {folder}/pid\n"
                                   "StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\nAcceptEnv *\n")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)   # where sshd locks its unprivileged half up
    server = subprocess.Popen([program, "-D", "-e", "-f", str(folder / "config")], stderr=open(folder / "log", "w"))
    (folder / "client").write_text(f"Host box\n  HostName 127.0.0.1\n  Port {port}\n  User {getpass.getuser()}\n  IdentityFile {folder}/user\n  IdentitiesOnly yes\n"
                                   f"  UserKnownHostsFile {folder}/known\n  StrictHostKeyChecking accept-new\n  BatchMode yes\n  SendEnv XDG_RUNTIME_DIR\n  ExitOnForwardFailure yes\n")
    there = Sshd(port, ["-F", str(folder / "client")])
    try:
        wait_until(lambda: subprocess.run(there.command("box", "true"), capture_output=True, check=False).returncode == 0, (folder / "log").read_text() or "sshd answers")
        yield there
    finally:
        server.terminate()
        server.wait()


def test_a_bridge_behind_a_tunnel_as_the_readme_shows_it(sshd, stand_in, workspace, tmp_path):
    near = free_port()
    (workspace / "spec.txt").write_text(SPEC.format(more=""))
    with start_bridge() as far:
        script = block("ssh -N -L").replace("8004", str(far.port)).replace("9000", str(near)).replace("ssh ", shlex.join(["ssh", *sshd.options]) + " ")
        script = script.replace("box &\n", f"box &\ntrap 'kill %1' EXIT; until (: </dev/tcp/127.0.0.1/{near}) 2>/dev/null; do sleep 0.05; done\n")
        done = run_script(script, workspace, **stand_in(WORKS).environment)
    assert done.returncode == 0 and "passed (1 proved)" in done.stdout, done.stdout + done.stderr
    assert (workspace / "a.txt").exists() and own_bridges() == []   # no bridge was started here


def test_a_tunnel_that_breaks_and_comes_back_costs_nothing(sshd, stand_in, workspace):
    near = free_port()
    (workspace / "spec.txt").write_text(SPEC.format(more=""))
    agent = stand_in([{"bash": "touch here; while [ ! -e go ]; do sleep 0.05; done; seq 20000"}, *WORKS])
    with start_bridge() as far:
        tunnel = sshd.command("-N", "-L", f"{near}:127.0.0.1:{far.port}", "box")
        first = subprocess.Popen(tunnel)
        wait_until(lambda: subprocess.run(["bash", "-c", f": </dev/tcp/127.0.0.1/{near}"], capture_output=True, check=False).returncode == 0, "the tunnel stands")
        run = subprocess.Popen([sys.executable, str(ROOT / "cc_execute.py"), "spec.txt", "--bridge", f"ws://127.0.0.1:{near}/?token={far.token}"], cwd=workspace,
                               env={**os.environ, **agent.environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        wait_until((workspace / "here").exists, "the agent is at work")
        first.kill()
        first.wait()
        second = subprocess.Popen(tunnel)
        (workspace / "go").touch()
        try:
            stdout, stderr = run.communicate(timeout=60)
        finally:
            second.kill()
            second.wait()
    assert run.returncode == 0 and "passed (1 proved)" in stdout and len(agent.starts()) == 1, stdout + stderr
