"""The files in deploy/ and the program they start agree."""

import configparser
import re
import shutil
import subprocess

import pytest
import typer

from poolkeeper import ConnectionPoolManager, PoolConfig
from poolkeeper.cli.app import app as cli
from poolkeeper.cli.serve import DEFAULT_PORT
from poolkeeper.server.app import build_app
from poolkeeper.server.lifecycle import Lifecycle
from poolkeeper.server.run import longest_drain as server_longest_drain
from poolkeeper.server.settings import ServerSettings
from tests.docs.markdown import ROOT

DEPLOY = ROOT / "deploy"
FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file())


def pool():
    return ConnectionPoolManager(PoolConfig(database_url="postgresql://app@localhost/app"))


def serve_options():
    """Every option and variable that `poolkeeper serve` knows."""
    parameters = typer.main.get_command(cli).commands["serve"].params
    options = {name for parameter in parameters for name in parameter.opts}
    return options | {str(parameter.envvar) for parameter in parameters if parameter.envvar}


def longest_drain(text):
    """How long a server with the options in this text may take to stop."""
    given = {
        name: float(value)
        for name, value in re.findall(r"--drain-(delay|timeout)[= ]([\d.]+)", text)
    }
    return server_longest_drain(
        ServerSettings(
            drain_delay=given.get("delay", ServerSettings().drain_delay),
            drain_timeout=given.get("timeout", ServerSettings().drain_timeout),
        )
    )


def kubernetes():
    yaml = pytest.importorskip("yaml", reason="PyYAML reads the manifest: pip install PyYAML")
    documents = yaml.safe_load_all((DEPLOY / "kubernetes" / "poolkeeper.yaml").read_text())
    return {document["kind"]: document for document in documents}


def unit(name):
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str
    parser.read(DEPLOY / "systemd" / name)
    return parser


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_option_and_variable_in_the_files_exists(path):
    """Comments included: people follow them."""
    text = path.read_text()
    # What belongs to pip, docker and systemctl.
    others = {"--no-cache-dir", "--disable-pip-version-check", "--from", "--interval", "--timeout"}
    others |= {"--start-period", "--retries", "--now"}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) - others
    named |= set(re.findall(r"\bPOOLKEEPER_\w+", text))
    assert named <= serve_options()


def test_systemd_waits_longer_than_the_drain():
    """Otherwise it would kill what is finishing."""
    service = unit("poolkeeper.service")["Service"]
    assert int(service["TimeoutStopSec"]) > longest_drain(service["ExecStart"])
    assert (service["Type"], service["KillMode"]) == ("notify", "mixed")


def test_kubernetes_waits_longer_than_the_drain():
    """The grace period includes the delay before it."""
    spec = kubernetes()["Deployment"]["spec"]["template"]["spec"]
    [container] = spec["containers"]
    assert spec["terminationGracePeriodSeconds"] > longest_drain(" ".join(container["args"]))
    probe = container["readinessProbe"]
    delay = float(re.search(r"--drain-delay=(\S+)", " ".join(container["args"]))[1])
    assert delay > probe["periodSeconds"] * probe["failureThreshold"] + probe["timeoutSeconds"]


def test_every_probe_in_the_manifest_is_a_path_of_the_server():
    """Each of the three asks its own question."""
    [container] = kubernetes()["Deployment"]["spec"]["template"]["spec"]["containers"]
    asked = {
        kind: container[kind]["httpGet"]["path"]
        for kind in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    assert asked == {
        "startupProbe": "/startupz",
        "livenessProbe": "/livez",
        "readinessProbe": "/readyz",
    }
    routes = {route.path for route in build_app(pool(), ServerSettings(), Lifecycle()).routes}
    assert set(asked.values()) <= routes
    dockerfile = (DEPLOY / "docker" / "Dockerfile").read_text()
    [checked] = re.findall(r"urlopen\('http://127\.0\.0\.1:(\d+)(/\w+)'\)", dockerfile)
    assert checked == (str(DEFAULT_PORT), "/startupz")


def test_the_manifest_is_of_one_piece():
    """Selectors, ports, names and the secret lead to each other."""
    found = kubernetes()
    labels = found["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert found["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert found["Service"]["spec"]["selector"] == labels
    assert found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert (
        found["PodDisruptionBudget"]["spec"]["minAvailable"]
        < found["Deployment"]["spec"]["replicas"]
    )
    [container] = found["Deployment"]["spec"]["template"]["spec"]["containers"]
    [port] = container["ports"]
    assert port["containerPort"] == DEFAULT_PORT
    assert found["Service"]["spec"]["ports"][0]["targetPort"] == port["name"]
    assert container["envFrom"] == [{"secretRef": {"name": found["Secret"]["metadata"]["name"]}}]


def test_the_image_runs_as_nobody_in_particular():
    """A number, so that Kubernetes can tell that it is not root; the port is the default one."""
    lines = (DEPLOY / "docker" / "Dockerfile").read_text().split("\n")
    words = {line.split()[0]: line.split()[1:] for line in lines if line[:1].isupper()}
    assert words["USER"] == ["10001:10001"]
    assert words["EXPOSE"] == [str(DEFAULT_PORT)]
    assert words["STOPSIGNAL"] == ["SIGTERM"]
    for line in lines:
        if line.startswith("COPY ") and "--from" not in line:
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists(), source


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None,
    reason="reads unit files with systemd-analyze, which is not installed: apt-get install systemd",
)
def test_systemd_understands_the_units(tmp_path):
    """Every directive, and no warning."""
    for path in (DEPLOY / "systemd").iterdir():
        text = path.read_text().replace("/opt/poolkeeper/bin/poolkeeper", "/bin/true")
        (tmp_path / path.name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *tmp_path.iterdir()],
        capture_output=True,
        text=True,
        check=False,
    )
    ours = [line for line in done.stderr.split("\n") if "poolkeeper" in line]
    assert (done.returncode, ours) == (0, [])
