"""Dockerfile and compose files keep the rules: pinned, unprivileged, closed, and of real commands.

No image is built and no container started where the tests run. What a container runs is started by
test_deploy_site.py, as plain processes.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra import containers, health, nats, parts
from infra.containers import Ports

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "infra" / "Dockerfile"
SITES = ("coordinator", "silo")
ONES_OWN = ("tacit-coordinator", "tacit-silo", "tacit-dashboard")
DIGEST = re.compile(r"[a-z]+:[\w.-]+@sha256:[0-9a-f]{64}")
VALUES = {
    "TACIT_VERSION": "0.1.0",
    "TACIT_STATE": "/host/tacit",
    "TACIT_DATA": "/host/data",
    "TACIT_HOST": "exchange.example.org",
    "TACIT_EXCHANGE_PORT": "4222",
    "TACIT_SILO": "north",
}


def interpolated(text: str) -> str:
    """The file as compose reads it: `$$` is a dollar, and a name without a value is an error."""
    one = re.compile(r"\$(?:(?P<escaped>\$)|\{(?P<name>\w+)(?::[?][^}]*)?\})")
    return one.sub(lambda found: "$" if found["escaped"] else VALUES[found["name"]], text)


def document(site: str) -> dict[str, Any]:
    text = (ROOT / "infra" / "deploy" / site / "compose.yaml").read_text()
    read: dict[str, Any] = yaml.safe_load(interpolated(text))
    return read


def services(site: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = document(site)["services"]
    return found


EVERY = [(site, name) for site in SITES for name in services(site)]


@pytest.fixture(params=EVERY, ids="/".join)
def service(request: pytest.FixtureRequest) -> dict[str, Any]:
    site, name = request.param
    return services(site)[name] | {"name": name, "site": site}


def runs_once(service: dict[str, Any]) -> bool:
    return service["restart"] == "no"


# Images


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def stages() -> Iterator[tuple[str, str, str]]:
    """Name, base and text of every stage."""
    for text in re.split(r"^(?=FROM )", DOCKERFILE.read_text(), flags=re.MULTILINE)[1:]:
        found = re.match(r"FROM (\S+) AS (\S+)\n", text)
        assert found is not None, text.splitlines()[0]
        yield found[2], found[1], text


def test_every_stage_comes_from_one_pinned_image() -> None:
    known: set[str] = set()
    for name, base, _ in stages():
        assert base in known or DIGEST.fullmatch(base), base
        known.add(name)
    assert {"coordinator", "silo", "dashboard"} <= known


def test_what_runs_is_nobodys_user_and_has_no_compiler() -> None:
    found = {name: (base, text) for name, base, text in stages()}
    assert re.search(r"^USER 10001:10001$", found["runtime"][1], re.MULTILINE)
    for target in ("coordinator", "silo", "dashboard"):
        base, text = found[target]
        assert base == "runtime" and "RUN" not in text and "USER" not in text
        assert re.search(r'HEALTHCHECK .*\n  CMD \["python", "-m", "infra.health"', text)
    said = DOCKERFILE.read_text()
    assert not re.search(r"apt|apk|gcc|build-essential|curl|wget|ADD |https?://(?!download)", said)


def test_the_locks_layer_is_made_of_the_lock_alone() -> None:
    text = {name: text for name, _, text in stages()}["locked"]
    assert re.findall(r"^COPY (.*)$", text, re.MULTILINE) == ["constraints.txt ./"]
    torch = (
        r"""--no-deps --index-url "\$TORCH_INDEX" \\\s+"\$\(grep '\^torch==' constraints\.txt\)\""""
    )
    assert re.search(torch, text)
    assert "ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu\n" in text


def test_extras_of_the_images_exist() -> None:
    import tomllib

    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = re.findall(r"'\.\[([\w,]+)\]'", DOCKERFILE.read_text())
    assert len(extras) == 3
    for named in extras:
        assert set(named.split(",")) <= set(known["optional-dependencies"])


def test_the_context_has_only_what_is_named() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    words = [line for line in lines if line and not line.startswith("#")]
    assert words[0] == "*"
    named = {word.removeprefix("!") for word in words if word.startswith("!")}
    assert all((ROOT / word).exists() for word in named)
    packages = {p.parent.name for p in ROOT.glob("*/__init__.py")}
    assert packages <= named, "a package is not in the images"


# Compose


def test_images_are_pinned(service: dict[str, Any]) -> None:
    name, _, tag = service["image"].partition(":")
    if name in ONES_OWN:
        assert tag == VALUES["TACIT_VERSION"] and service["pull_policy"] == "never"
    else:
        assert DIGEST.fullmatch(service["image"])
    assert "latest" not in service["image"]


def test_what_is_built_is_a_target() -> None:
    targets = {name for name, _, _ in stages()}
    for site in SITES:
        built = {s["image"]: s["build"] for s in services(site).values() if "build" in s}
        used = {s["image"] for s in services(site).values() if s["image"].startswith("tacit-")}
        assert set(built) == used
        for image, build in built.items():
            place = ROOT / "infra" / "deploy" / site / build["context"]
            assert place.resolve() == ROOT and (place / build["dockerfile"]).samefile(DOCKERFILE)
            assert build["target"] in targets and image.startswith(f"tacit-{build['target']}:")


def test_no_privilege(service: dict[str, Any]) -> None:
    assert service["user"] == "10001:10001" and service["read_only"] is True
    assert service["cap_drop"] == ["ALL"] and "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "devices", "pid", "ipc", "userns_mode"} & set(service)
    assert service.get("network_mode") != "host"
    assert not any("docker.sock" in volume for volume in service.get("volumes", ()))


def test_limits_logs_and_restarts(service: dict[str, Any]) -> None:
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
    assert set(service["logging"]["options"]) == {"max-size", "max-file"}
    assert service["restart"] in ("no", "unless-stopped")


def test_what_stays_up_is_checked(service: dict[str, Any]) -> None:
    if runs_once(service):
        return
    check = service["healthcheck"]
    if service["command"][0] == "sleep":
        assert check == {"disable": True}
        return
    words = check["test"]
    if service["image"].startswith("tacit-"):
        assert words[:4] == ["CMD", "python", "-m", "infra.health"]
        part, home = words[4:]
        assert part == service["command"][3] and home == "/srv/tacit"
        assert part in health.CHECKS or part.startswith(parts.SILO)


def test_who_waits_for_whom_waits_for_what_there_is() -> None:
    for site in SITES:
        known = services(site)
        for name, service in known.items():
            for other, how in service.get("depends_on", {}).items():
                wanted = {"no": "service_completed_successfully"}
                expected = wanted.get(known[other]["restart"], "service_healthy")
                assert how["condition"] == expected, (name, other)


def test_only_the_exchange_and_the_proxy_are_open_to_others() -> None:
    opened = {
        (site, name): [port for port in service["ports"] if not port.startswith("127.0.0.1:")]
        for site in SITES
        for name, service in services(site).items()
        if "ports" in service
    }
    proxy, exchange = f"{Ports().proxy}:{Ports().proxy}", "4222:4222"
    assert {key: ports for key, ports in opened.items() if ports} == {
        ("coordinator", "site"): [proxy],
        ("coordinator", "exchange"): [exchange],
    }


def test_networks(service: dict[str, Any]) -> None:
    """Each is on one network, or in a namespace with those that it needs, or on none."""
    assert ("networks" in service) != ("network_mode" in service)
    mode = service.get("network_mode")
    if mode is not None:
        assert mode in ("none", "service:site") and "ports" not in service
    else:
        assert len(service["networks"]) == 1
        assert set(service["networks"]) <= set(document(service["site"])["networks"])


def test_a_silo_shares_its_network_with_nobody() -> None:
    assert document("silo")["name"] == "tacit-silo-north"  # networks bear the project's name
    on = [name for name, one in services("silo").items() if "silo" in one.get("networks", ())]
    assert on == ["silo"] and "ports" not in services("silo")["silo"]
    for site in SITES:
        assert not any((said or {}).get("external") for said in document(site)["networks"].values())


def test_no_secret_is_in_a_file_of_ours_or_in_an_environment(service: dict[str, Any]) -> None:
    for name, value in service.get("environment", {}).items():
        secret = re.search(r"PASSWORD|TOKEN|SECRET|KEY|AUTH_STRING", name)
        assert not secret or (name.endswith("_FILE") and value.startswith("/run/secrets/"))
    for secret in service.get("secrets", ()):
        said = document(service["site"])["secrets"][secret]
        assert said == {"file": f"/host/tacit/coordinator/prefect/secrets/{secret}"}
    example = (ROOT / "infra" / "deploy" / service["site"] / "example.env").read_text()
    given = re.findall(r"^(\w+)=", example, re.MULTILINE)
    text = (ROOT / "infra" / "deploy" / service["site"] / "compose.yaml").read_text()
    assert set(given) == set(re.findall(r"\$\{(\w+)", text))


def mounts(service: dict[str, Any]) -> dict[str, str]:
    """What of the host is seen where."""
    return {words.split(":")[1]: words.split(":")[0] for words in service["volumes"]}


def test_the_authoritys_key_is_seen_by_no_server_and_a_dashboard_sees_no_key() -> None:
    site = services("coordinator")
    for name in ("exchange", "proxy"):
        seen = mounts(site[name])
        covered = "/srv/tacit/coordinator" in site[name]["tmpfs"]
        assert covered or "/srv/tacit" not in seen
        assert seen["/srv/tacit/coordinator/exchange/ca.key"] == "/dev/null"
    for name in ("server", "services", "migrate", "postgres", "redis"):
        for source in mounts(site[name]).values():
            assert source.startswith(("/host/tacit/coordinator/prefect", "./passwd"))
    seen = mounts(site["dashboard"])
    keys = ("key", "exchange.nk", "transport.pem")
    assert all(seen[f"/srv/tacit/coordinator/{key}"] == "/dev/null" for key in keys)
    assert "/srv/tacit/coordinator/exchange" in site["dashboard"]["tmpfs"]
    assert "/srv/tacit/coordinator/prefect" in site["dashboard"]["tmpfs"]
    silo = services("silo")["dashboard"]
    assert all(mounts(silo)[f"/srv/tacit/silos/north/{key}"] == "/dev/null" for key in keys)
    assert "/host/tacit:/srv/tacit:ro" in silo["volumes"]
    for service in services("silo").values():
        assert all(v.endswith(":ro") for v in service["volumes"] if v.startswith("/host/data"))


# Commands


def test_every_command_is_one_that_exists(service: dict[str, Any]) -> None:
    words = service.get("entrypoint") or service["command"]
    if not service["image"].startswith("tacit-"):
        assert words[0] in ("nats-server", "postgres", "redis-server")
    elif words[0] == "python":
        _, _, module, what, home, *options = words
        assert importlib.util.find_spec(module) is not None and home == "/srv/tacit"
        if module == "infra.parts":
            assert what in parts.TABLE or what == "silo north"
        else:
            assert module == "infra.containers" and what in containers.COMMANDS
        known = [f"--{name}" for name, _ in parts.launch.OPTIONS]
        assert all(option.partition("=")[0] in known for option in options)
    else:
        assert words[0] == "tacit" or words == ["sleep", "infinity"]


def test_other_peoples_servers_run_on_what_the_home_holds() -> None:
    site = services("coordinator")
    words = site["exchange"]["command"]
    ours = nats.command(Path("/srv/tacit/coordinator/exchange/nats.json"))
    assert [Path(ours[0]).name, *ours[1:]] == words
    ports = Ports()
    assert f"port={ports.postgres}" in site["postgres"]["command"]
    assert str(ports.postgres) in site["postgres"]["healthcheck"]["test"]
    assert "listen_addresses=127.0.0.1" in site["postgres"]["command"]
    arguments = site["postgres"]["environment"]["POSTGRES_INITDB_ARGS"]
    assert "--auth-host=scram-sha-256" in arguments and "--auth-local=scram-sha-256" in arguments
    assert site["redis"]["command"][1] == "/run/secrets/redis"
    _, _, uid, gid, *_ = (ROOT / "infra/deploy/coordinator/passwd").read_text().split(":")
    assert (uid, gid) == ("10001", "10001")


def test_settings_of_prefect_are_settings_that_it_has(tmp_path: Path) -> None:
    """A name that Prefect does not know would be ignored, and a site be less than it seems."""
    from prefect.settings import Settings
    from prefect_redis.client import RedisMessagingSettings

    from infra.prefect_server import QUIET

    def names(model: Any, prefix: str = "PREFECT_") -> Iterator[str]:
        for field, said in model.model_fields.items():
            inner = said.annotation
            if isinstance(inner, type) and hasattr(inner, "model_fields"):
                yield from names(inner, f"{prefix}{field.upper()}_")
            else:
                yield f"{prefix}{field.upper()}"

    known = set(names(Settings)) | set(names(RedisMessagingSettings, "PREFECT_REDIS_MESSAGING_"))
    home = containers.Home(tmp_path)
    place = tmp_path / "coordinator" / "prefect"
    (place / "secrets").mkdir(parents=True)
    (place / "secrets" / "redis").write_text("bind 127.0.0.1\nport 6379\nrequirepass x\n")
    site = containers.Site(
        database="postgresql", server=1, proxy=2, postgres=3, password="x", postgres_password="y"
    )
    (place / "site.json").write_text(site.model_dump_json())
    said = containers.environment(home)
    own = {name for name in said if name.startswith("PREFECT_") and name not in QUIET}
    aliases = {"PREFECT_API_DATABASE_CONNECTION_URL", "PREFECT_SERVER_API_AUTH_STRING"}
    assert own - aliases <= known
    for name in ("BROKER", "CACHE"):
        module = said[f"PREFECT_SERVER_EVENTS_MESSAGING_{name}"]
        assert importlib.util.find_spec(module) is not None
    assert importlib.util.find_spec(said["PREFECT_SERVER_EVENTS_CAUSAL_ORDERING"]) is not None
    assert importlib.util.find_spec(said["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"]) is not None
    assert said["PREFECT_SERVER_DOCKET_URL"] == "redis://:x@127.0.0.1:6379/1"
