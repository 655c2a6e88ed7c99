"""What is measured: the path without a proxy, the kernel's, three proxies, and streamvs."""

import json
import os
import re
import shutil
import string
import subprocess
import time

import network
from network import ENDPOINTS, NODE, SERVICES
from process import BenchError, run, spawn, stop

HERE = os.path.dirname(os.path.realpath(__file__))
ROOT = os.path.realpath(os.path.join(HERE, "..", "..", ".."))

# Where a peer listens for each Service.
PORTS = {"grpc": 15051, "bodies": 15052, "plain": 15080, "greeting": 15025}

# How long a target may take until every Service answers.
START_SECONDS = 20


class Target:
    """A way from the client to the endpoints. Subclasses say what has to run for it."""

    version = ""

    def __init__(self, name):
        self.name, self.process, self.log = name, None, None

    def address(self, service):
        return f"{SERVICES[service].ip}:{SERVICES[service].port}"

    def prepare(self):
        """Puts rules in place."""

    def command(self, lab):
        """What runs on the node."""
        return None

    def start(self, lab):
        network.clear_rules()
        self.prepare()
        argv = self.command(lab)
        if argv:
            self.log = os.path.join(lab.folder, f"{self.name}.log")
            with open(self.log, "a") as log:
                self.process = spawn(NODE, argv, lab.proxy_cpus, stdin=subprocess.DEVNULL,
                                     stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        for service in SERVICES:
            while (error := lab.answers(self, service)) is not None:
                self.check()
                if time.monotonic() > deadline:
                    raise BenchError(f"{service} does not answer: {error} {self.last_words()}")
                time.sleep(0.1)

    def check(self):
        """Fails when it has ended."""
        if self.process and self.process.poll() is not None:
            raise BenchError(f"ended with {self.process.returncode}: {self.last_words()}")

    def last_words(self):
        if self.log is None:
            return ""
        with open(self.log, errors="replace") as log:
            return log.read()[-1500:]

    def stop(self, lab):
        stop(self.process)
        self.process = None
        network.clear_rules()


class Direct(Target):
    version = "to the first endpoint's own address, routed, no rules"

    def address(self, service):
        return f"{ENDPOINTS[0]}:{SERVICES[service].target}"


class KernelDnat(Target):
    version = "the rules of kube-proxy's iptables mode"

    def prepare(self):
        network.kube_proxy()


class Peer(Target):
    """A proxy nobody here wrote, with a configuration of `peers/` set for speed."""

    configuration = None

    def __init__(self, name, binary):
        super().__init__(name)
        self.binary = binary
        told = subprocess.run([binary, self.version_flag], capture_output=True, text=True)
        found = re.search(r"\d+\.\d+\.\d+", told.stdout + told.stderr)
        self.version = found[0] if found else "unknown version"

    def prepare(self):
        network.redirect(PORTS)

    def configure(self, lab, **more):
        # nginx sets memory aside for every connection it may have, so not more than needed.
        values = {"folder": lab.folder, "workers": lab.workers, **more,
                  "connections": lab.connections, "files": lab.files}
        values.update({f"port_{name}": port for name, port in PORTS.items()})
        values.update({f"target_{name}": service.target for name, service in SERVICES.items()})
        values.update(zip("abc", ENDPOINTS))
        with open(os.path.join(HERE, "peers", self.configuration)) as file:
            text = string.Template(file.read()).substitute(values)
        path = os.path.join(lab.folder, self.configuration)
        with open(path, "w") as file:
            file.write(text)
        return path


class Haproxy(Peer):
    configuration, version_flag = "haproxy.cfg", "-v"

    def command(self, lab):
        # Large buffers help 3.x with large messages; 2.6 fails requests with them.
        more = "" if self.version.startswith("2.") else "tune.bufsize 65536"
        return [self.binary, "-db", "-f", self.configure(lab, more=more)]


class Nginx(Peer):
    configuration, version_flag = "nginx.conf", "-v"

    def command(self, lab):
        told = subprocess.run([self.binary, "-V"], capture_output=True, text=True).stderr
        found = re.search(r"--modules-path=(\S+)", told)
        modules = found[1] if found else "/usr/lib/nginx/modules"
        return [self.binary, "-p", lab.folder, "-c", self.configure(lab, modules=modules)]


class Envoy(Peer):
    configuration, version_flag = "envoy.yaml", "--version"

    def command(self, lab):
        return [self.binary, "-c", self.configure(lab), "--concurrency", str(lab.workers),
                "--disable-hot-restart", "-l", "error"]


class Streamvs(Target):
    """The agent with its own capture, from files."""

    def __init__(self, name, binary, engine):
        super().__init__(name)
        self.binary, self.engine = binary, engine
        commit = run(["git", "-C", ROOT, "describe", "--always", "--dirty"], check=False).strip()
        of = commit if binary.startswith(ROOT) else f"{binary}, not of this tree"
        self.version = f"{of}, {os.path.basename(os.path.dirname(binary))} build, --http2-engine {engine}"

    def command(self, lab):
        manifests = os.path.join(lab.folder, "manifests")
        os.makedirs(manifests, exist_ok=True)
        with open(os.path.join(manifests, "services.json"), "w") as file:
            json.dump(objects(), file, indent=1)
        return [self.binary, "run", "--manifests", manifests, "--http2-engine", self.engine,
                "--workers", str(lab.workers), "--hostname-override", "node",
                "--admin-socket", os.path.join(lab.folder, f"{self.name}.sock"),
                # Nobody is behind it, and the machine is busy.
                "--dead-man-timeout", "1h"]

    def stop(self, lab):
        super().stop(lab)
        # Sets and routes of ours would be no other target's fault.
        lab.rebuild()


def engines(binary):
    """Every value that --http2-engine takes, as the program says."""
    told = subprocess.run([binary, "run", "--manifests", "none", "--http2-engine", "every"],
                          capture_output=True, text=True).stderr
    found = re.search(r"\[possible values: ([^]]*)\]", told)
    return found[1].split(", ") if found else []


def objects():
    """The Services and their slices, as a Kubernetes List."""
    items = []
    for name, (ip, port, target) in SERVICES.items():
        metadata = {"name": name, "namespace": "default"}
        items.append({
            "apiVersion": "v1", "kind": "Service", "metadata": metadata,
            "spec": {"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip],
                     "ipFamilies": ["IPv4"],
                     "ports": [{"name": name, "port": port, "protocol": "TCP",
                                "targetPort": target}]},
        })
        labels = {"kubernetes.io/service-name": name}
        items.append({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": f"{name}-1", "namespace": "default", "labels": labels},
            "ports": [{"name": name, "port": target, "protocol": "TCP"}],
            "endpoints": [{"addresses": [endpoint], "conditions": {"ready": True}}
                          for endpoint in ENDPOINTS],
        })
    return {"apiVersion": "v1", "kind": "List", "items": items}


def find(program):
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")


def known(envoy, streamvs):
    """Every target that can run here, by name: a function that makes it."""
    made = {"direct": lambda: Direct("direct"), "dnat": lambda: KernelDnat("dnat")}
    for name, kind, binary in (("haproxy", Haproxy, find("haproxy")),
                               ("nginx", Nginx, find("nginx")), ("envoy", Envoy, envoy)):
        if binary:
            made[name] = lambda name=name, kind=kind, binary=binary: kind(name, binary)
    for engine in engines(streamvs):
        name = f"streamvs-{engine}"
        made[name] = lambda name=name, engine=engine: Streamvs(name, streamvs, engine)
    return made
