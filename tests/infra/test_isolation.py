"""What holds a session: the limits of a real process, and what a container would be given."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from federation.documents import parse
from federation.errors import BadInput, Missing
from federation.home import Home
from federation.init import init_example
from federation.settings import DockerIsolation, ProcessIsolation, SiloConfig
from infra import sessions
from infra.isolation import container, labels
from infra.sessions import ChildSessions

IMAGE = f"registry.example/tacit/silo@sha256:{'a' * 64}"
DOCKER = {
    "kind": "docker",
    "image": IMAGE,
    "network": "tacit-exchange",
    "memory_mib": 4096,
    "cpus": 1.5,
    "user": "10001:10002",
}


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": os.pathsep.join(sys.path)},
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return init_example(tmp_path_factory.mktemp("held") / "fed", "breast-cancer", silos=2)


def settings(home: Home, silo: str = "silo-1", **isolation: Any) -> SiloConfig:
    """A silo's settings with another isolation, as they would be read from its file."""
    path = home.silo(silo).config
    said = yaml.safe_load(path.read_text()) | {"isolation": isolation}
    return parse(said, SiloConfig, str(path)).anchored(path.parent)


# Processes

CONFINED = """
import ctypes, json, resource, sys
from federation.settings import ProcessIsolation
from infra.isolation import confine
confine(ProcessIsolation(**json.loads(sys.argv[1])))
names = ("CORE", "DATA", "CPU", "NOFILE")
print(json.dumps([resource.getrlimit(getattr(resource, f"RLIMIT_{name}")) for name in names]))
print(ctypes.CDLL(None).prctl(39, 0, 0, 0, 0))  # PR_GET_NO_NEW_PRIVS
try:
    bytearray(700 * 1024 * 1024)
    print("allocated")
except MemoryError:
    print("refused")
for limit in (resource.RLIMIT_DATA, resource.RLIMIT_CPU):
    try:
        resource.setrlimit(limit, (10**12, 10**12))
    except ValueError:
        print("stays")
"""


def test_a_process_holds_its_limits_for_good() -> None:
    said = {"memory_mib": 512, "cpu_seconds": 1000, "open_files": 100}
    done = run(CONFINED, json.dumps(said))
    limits, privileges, memory, *raised = done.stdout.splitlines()
    assert json.loads(limits) == [[0, 0], [512 << 20] * 2, [1000, 1000], [100, 100]], done.stderr
    assert privileges == "1" and memory == "refused"
    assert raised == ([] if may_raise() else ["stays", "stays"])


def may_raise() -> bool:
    """Whether this process has CAP_SYS_RESOURCE, as root outside of a container does."""
    status = Path("/proc/self/status").read_text().splitlines()
    line = next(x for x in status if x.startswith("CapEff"))
    return bool(int(line.split()[1], 16) >> 24 & 1)


def test_a_limit_that_is_not_named_is_not_set_but_no_core_is_left() -> None:
    before = run("import resource; print(*resource.getrlimit(resource.RLIMIT_DATA))").stdout
    done = run(CONFINED, "{}")
    limits, privileges, memory, *_ = done.stdout.splitlines()
    assert json.loads(limits)[:2] == [[0, 0], [int(n) for n in before.split()]]
    assert privileges == "1" and memory == "allocated"


def test_a_session_with_limits_comes_up_warm_and_ends_with_its_silo(home: Home) -> None:
    """The child of a real silo: its limits are those of its settings, its environment is bare."""
    path = home.silo("silo-2").config
    said = yaml.safe_load(path.read_text())
    said["isolation"] = {"kind": "process", "memory_mib": 4096, "cpu_seconds": 600}
    path.write_text(yaml.safe_dump(said, sort_keys=False))
    os.environ["TACIT_CANARY"] = "seen"
    try:
        sessions = ChildSessions(home, "silo-2")
    finally:
        del os.environ["TACIT_CANARY"]
    child = sessions._held._children._spare  # type: ignore[union-attr]
    try:
        proc = Path("/proc") / str(child.pid)
        until = time.monotonic() + 60
        while limit(proc, "Max data size") != 4096 << 20:
            assert child.poll() is None and time.monotonic() < until
            time.sleep(0.02)
        assert limit(proc, "Max cpu time") == 600 and limit(proc, "Max core file size") == 0
        assert "NoNewPrivs:\t1" in (proc / "status").read_text()
        assert b"CANARY" not in (proc / "environ").read_bytes()
        # It goes on under these limits up to reading a job: a name that is none ends it in order.
        assert child.stdin is not None
        child.stdin.write(b"../no job\n")
        child.stdin.close()
        assert child.wait(60) == 0, (home.silo("silo-2").directory / "sessions.log").read_text()
    finally:
        sessions.close()


def limit(proc: Path, name: str) -> int | None:
    line = next(x for x in (proc / "limits").read_text().splitlines() if x.startswith(name))
    word = line[len(name) :].split()[0]
    return None if word == "unlimited" else int(word)


BECOME = """
import ctypes, os, sys
from pathlib import Path
from federation.errors import BadInput
from infra.isolation import become
ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG: dead with the parent
try:
    become(sys.argv[1], Path(sys.argv[2]))
except BadInput as error:
    print(error.field, "|", error.message)
else:
    print(os.getuid(), os.geteuid(), os.getgid(), os.getgroups())
    try:
        os.setuid(0)
        print("root again")
    except PermissionError:
        print("for good")
    tie = ctypes.c_int()
    ctypes.CDLL(None).prctl(2, ctypes.byref(tie))
    print(tie.value)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_root_becomes_the_owner_of_the_silos_directory_for_good(tmp_path: Path) -> None:
    somebody = pwd.getpwnam("nobody")
    os.chown(tmp_path, somebody.pw_uid, somebody.pw_gid)
    said = run(BECOME, "nobody", tmp_path).stdout.splitlines()
    ids = f"{somebody.pw_uid} {somebody.pw_uid} {somebody.pw_gid} [{somebody.pw_gid}]"
    assert said == [ids, "for good", "9"]
    mine = tmp_path / "mine"
    mine.mkdir()
    assert "does not belong to 'nobody'" in run(BECOME, "nobody", mine).stdout
    assert "no user 'nosuchuser'" in run(BECOME, "nosuchuser", tmp_path).stdout
    assert "isolation.user" in run(BECOME, "root", mine).stdout


def test_who_is_not_root_stays_who_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    from infra.isolation import become

    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    become("nosuchuser", Path("/nowhere"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_silo_is_its_user_before_it_writes_a_line(home: Home) -> None:
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        own = Home(shutil.copytree(home.root, Path(place) / "fed"))
        silo, somebody = own.silo("silo-1"), pwd.getpwnam("nobody")
        said = yaml.safe_load(silo.config.read_text())
        said["isolation"] = {"kind": "process", "user": "nobody"}
        silo.config.write_text(yaml.safe_dump(said))

        def serve() -> str:
            command = [Path(sys.executable).with_name("tacit"), "silo", "serve", "silo-1"]
            done = subprocess.run([*command, "--home", own.root], capture_output=True, text=True)
            assert done.returncode == 2
            return " ".join((done.stderr + done.stdout).split())

        assert "chown -R nobody" in serve()
        assert not (silo.directory / "silo.log").exists()
        for path in (silo.directory, *silo.directory.rglob("*")):
            os.chown(path, somebody.pw_uid, somebody.pw_gid)
        reads = ["cat", os.__file__, sessions.__file__]
        if subprocess.run(reads, user="nobody", extra_groups=[], capture_output=True).returncode:
            assert "'nobody' cannot read" in serve()  # Python is in root's own directory
            return
        assert "has no exchange" in serve()
        assert (silo.directory / "silo.log").exists()
        for path in (silo.directory, *silo.directory.rglob("*")):
            assert path.stat().st_uid == somebody.pw_uid, path


# Containers


def test_a_container_is_given_exactly_this(home: Home) -> None:
    config = settings(home, **DOCKER)
    assert isinstance(config.isolation, DockerIsolation)
    command = ["python", "-m", "infra.sessions", str(home.root), "silo-1", "job-1"]
    own = str(home.silo("silo-1").directory)
    read_only = [
        *("federation.yaml", "membership.json", "exchange.yaml", "ca.pem"),
        *(f"silos/silo-1/{name}" for name in ("silo.yaml", "key", "exchange.nk", "rows.csv")),
    ]
    binds = [{"Type": "bind", "Source": own, "Target": own, "ReadOnly": False}]
    for name in read_only:
        path = str(home.root / name)
        binds.append({"Type": "bind", "Source": path, "Target": path, "ReadOnly": True})
    assert container(config.isolation, config, home, command) == {
        "image": IMAGE,
        "command": command,
        "environment": {"HOME": "/tmp", "LANG": "C.UTF-8"},
        "labels": labels(config, home),
        "user": "10001:10002",
        "working_dir": "/",
        "network": "tacit-exchange",
        "read_only": True,
        "tmpfs": {"/tmp": "rw,noexec,nosuid,nodev,size=256m"},
        "mounts": binds,
        "mem_limit": 4096 << 20,
        "memswap_limit": 4096 << 20,
        "nano_cpus": 1_500_000_000,
        "pids_limit": 256,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "ipc_mode": "private",
        "init": True,
        "log_config": {"Type": "none", "Config": {}},
        "detach": True,
    }


def test_the_sdk_takes_every_argument_and_says_to_the_engine_what_is_meant(home: Home) -> None:
    """The SDK's own reading of the arguments, in the body that it would send."""
    from docker.models.containers import _create_container_args

    config = settings(home, **DOCKER)
    assert isinstance(config.isolation, DockerIsolation)
    said = container(config.isolation, config, home, ["true"])
    asked = _create_container_args(said | {"version": "1.43"})  # which `create` adds
    host = asked.pop("host_config")
    assert host["NetworkMode"] == "tacit-exchange" and host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"] and host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["Memory"] == host["MemorySwap"] == 4096 << 20 and host["NanoCpus"] == 1.5e9
    assert host["PidsLimit"] == 256 and host["Init"] is True
    assert host["LogConfig"] == {"Type": "none", "Config": {}}
    writable = [mount["Target"] for mount in host["Mounts"] if not mount["ReadOnly"]]
    assert writable == [str(home.silo("silo-1").directory)]
    assert not {"Privileged", "CapAdd", "PortBindings", "Binds", "Devices"} & set(host)
    assert (asked["image"], asked["user"]) == (IMAGE, "10001:10002")


def test_every_file_of_a_source_is_mounted_read_only(home: Home, tmp_path: Path) -> None:
    path = home.silo("silo-1").config
    said = yaml.safe_load(path.read_text()) | {"isolation": DOCKER}
    sources = {
        "files": {"kind": "npz", "datasets": ["a"], "path": "/data/a.npz", "test": "/data/t.npz"},
        "table": {"kind": "sql", "datasets": ["b"], "url": "sqlite:////data/b.db", "table": "t"},
        "server": {"kind": "sql", "datasets": ["c"], "url": "postgresql://u:p@h/d", "table": "t"},
    }
    accounts = [said["accounts"][0] | {"source": name} for name in sources]
    config = parse(said | {"sources": sources, "accounts": accounts}, SiloConfig, "silo.yaml")
    config = config.anchored(path.parent)
    assert isinstance(config.isolation, DockerIsolation)
    mounts = container(config.isolation, config, home, [])["mounts"]
    data = {m["Target"]: m["ReadOnly"] for m in mounts if m["Target"].startswith("/data/")}
    assert data == {"/data/a.npz": True, "/data/t.npz": True, "/data/b.db": True}
    assert "p@h" not in json.dumps(mounts)


def test_a_container_is_never_roots_and_its_ledger_is_where_it_can_be_written(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(home, **{k: v for k, v in DOCKER.items() if k != "user"})
    assert isinstance(config.isolation, DockerIsolation)
    monkeypatch.setattr(os, "getuid", lambda: 0)
    with pytest.raises(BadInput, match="must not") as caught:
        container(config.isolation, config, home, [])
    assert caught.value.field == "isolation.user"
    monkeypatch.setattr(os, "getuid", lambda: 1234)
    monkeypatch.setattr(os, "getgid", lambda: 1235)
    assert container(config.isolation, config, home, [])["user"] == "1234:1235"
    said = yaml.safe_load(home.silo("silo-1").config.read_text())
    elsewhere = parse(
        said | {"isolation": DOCKER, "ledger": "/srv/ledger.db"}, SiloConfig, "silo.yaml"
    ).anchored(home.silo("silo-1").directory)
    with pytest.raises(BadInput, match="writes to") as caught:
        container(config.isolation, elsewhere, home, [])
    assert caught.value.field == "ledger"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"image": "tacit/silo:latest"}, "image"),
        ({"image": "tacit/silo@sha256:abc"}, "image"),
        ({"network": "host"}, "network"),
        ({"network": "bridge"}, "network"),
        ({"network": "none"}, "network"),
        ({"network": "container:other"}, "network"),
        ({"user": "0:0"}, "user"),
        ({"user": "root"}, "user"),
        ({"user": "1000:0"}, "user"),
        ({"memory_mib": None}, "memory_mib"),
        ({"cpus": 0}, "cpus"),
        ({"privileged": True}, "privileged"),
        ({"kind": "chroot"}, "isolation"),
    ],
)
def test_isolation_that_isolates_nothing_is_bad_input(
    home: Home, changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(BadInput, match=field):
        settings(home, **DOCKER | changes)


def test_settings_without_isolation_are_a_process_without_limits(home: Home) -> None:
    assert home.silo_config("silo-1").isolation == ProcessIsolation()


def engine() -> str:
    """Why no container can be run here; empty where one can."""
    import docker
    import docker.errors

    try:
        docker.from_env().ping()
    except docker.errors.DockerException as error:
        return f"no Docker engine answers here ({type(error).__name__})"
    return "" if os.environ.get("TACIT_SILO_IMAGE") else "TACIT_SILO_IMAGE names no silo image"


def test_without_an_engine_the_silo_says_what_is_missing(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{home.root}/no.sock")
    path = home.silo("silo-1").config
    before = path.read_text()
    path.write_text(yaml.safe_dump(yaml.safe_load(before) | {"isolation": DOCKER}))
    try:
        with pytest.raises(Missing, match="Docker engine") as caught:
            ChildSessions(home, "silo-1")
    finally:
        path.write_text(before)
    assert caught.value.exit_code == 5


def test_a_real_container_is_held(home: Home) -> None:
    why = engine()
    if why:
        pytest.skip(why)
    import docker

    client = docker.from_env()
    name = "tacit-test-isolation"
    network = client.networks.create(name, internal=True)
    image = os.environ["TACIT_SILO_IMAGE"]
    probe = (
        "import os, socket, pathlib\n"
        "assert os.getuid() != 0\n"
        "for path in ('/probe', '/usr/probe'):\n"
        "    try: pathlib.Path(path).write_text('x'); raise SystemExit('root is written')\n"
        "    except OSError: pass\n"
        "try: socket.create_connection(('192.0.2.1', 443), 2); raise SystemExit('network')\n"
        "except OSError: pass\n"
        "assert 'NoNewPrivs:\\t1' in open('/proc/self/status').read()\n"
        "assert 'CapEff:\\t0000000000000000' in open('/proc/self/status').read()\n"
    )
    owner = home.silo("silo-1").directory
    for path in (owner, *owner.rglob("*")):
        shutil.chown(path, 10001, 10002)
    for file in ("exchange.yaml", "ca.pem", "silos/silo-1/exchange.nk"):
        (home.root / file).touch()
    config = settings(home, **DOCKER | {"image": image, "network": name})
    assert isinstance(config.isolation, DockerIsolation)
    try:
        asked = container(config.isolation, config, home, ["python", "-c", probe])
        made = client.containers.create(**asked)
        made.start()
        assert made.wait(timeout=60)["StatusCode"] == 0
        made.remove(force=True)
    finally:
        network.remove()
