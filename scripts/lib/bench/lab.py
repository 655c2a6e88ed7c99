"""The lab: endpoints, load generators, and one measured run."""

import json
import os
import re
import shutil
import struct
import socket
import subprocess
import tempfile
import time

import network
from network import CLIENT, ENDPOINTS, PODS, SERVICES
from process import (BenchError, ProcessorTime, busy_seconds, descendants, inside, named, run,
                     spawn, stop, RUNNING)

# Octets of gRPC messages: what is asked, and what each of the two ports answers.
REQUEST, SMALL, LARGE = 16, 16, 65536

# Idle connections are opened in this many steps.
IDLE_STEPS = 8

# How long to wait for the machine to be quiet before a run.
QUIET_SECONDS = 4.0


def files(idle):
    """Open files that a proxy needs for so many idle connections."""
    return 3000 + idle * 5 // 2


class Lab:
    def __init__(self, options):
        self.load, self.idle, self.noise_max = options.load, options.idle, options.noise
        self.seconds = options.seconds
        # What proxies are set for: two sockets for each connection, HAProxy's pipes, and room.
        self.connections, self.files = 1000 + self.idle, files(self.idle)
        processors = os.cpu_count()
        if options.layout == "free":
            self.proxy_cpus = self.load_cpus = None
            self.workers = processors
        elif options.layout == "one" or processors == 1:
            self.proxy_cpus = self.load_cpus = "0"
            self.workers = 1
        else:
            self.proxy_cpus = str(processors - 1)
            self.load_cpus = f"0-{processors - 2}"
            self.workers = 1
        # In memory where possible: nobody shall wait for a disk.
        shm = "/dev/shm" if os.path.isdir("/dev/shm") else None
        self.folder = tempfile.mkdtemp(prefix="streamvs-bench-", dir=shm)
        os.chmod(self.folder, 0o755)
        self.request = os.path.join(self.folder, "request")
        with open(self.request, "wb") as file:
            file.write(b"\0" + struct.pack(">I", REQUEST) + b"r" * REQUEST)
        self.endpoints = []
        self.softirq = named("ksoftirqd/")

    # Up and down

    def up(self):
        network.up()
        for pod, ip in zip(PODS, ENDPOINTS):
            if os.path.exists(self.counters_path(pod)):
                os.unlink(self.counters_path(pod))
            ports = {name: service.target for name, service in SERVICES.items()}
            process = spawn(pod, [
                self.load, "endpoint", "--ip", ip,
                "--http2", f"{ports['grpc']}:{SMALL},{ports['bodies']}:{LARGE}",
                "--plain", str(ports["plain"]), "--greeting", str(ports["greeting"]),
                "--counters", self.counters_path(pod),
            ], self.load_cpus, stdin=subprocess.DEVNULL)
            self.endpoints.append(process)
        deadline = time.monotonic() + 5
        while not all(os.path.exists(self.counters_path(pod)) for pod in PODS):
            if time.monotonic() > deadline:
                raise BenchError("an endpoint does not start")
            time.sleep(0.02)

    def rebuild(self):
        for process in self.endpoints:
            stop(process)
        self.endpoints = []
        self.up()

    def down(self):
        for process in list(RUNNING.values()):
            stop(process, 2.0)
        network.down()
        shutil.rmtree(self.folder, ignore_errors=True)

    # What endpoints count

    def counters_path(self, pod):
        return os.path.join(self.folder, f"{pod}.counters")

    def counters(self):
        """What each endpoint has counted so far."""
        found = []
        for pod in PODS:
            with socket.socket(socket.AF_UNIX) as asked:
                asked.settimeout(5)
                asked.connect(self.counters_path(pod))
                with asked.makefile() as answer:
                    found.append(json.load(answer))
        return found

    # Load

    def client(self, argv, seconds=90):
        """Runs a load generator in the client pod: its output, and its processor time."""
        process = spawn(CLIENT, ["timeout", "-k", "2", str(seconds), *argv], self.load_cpus,
                        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        output = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        RUNNING.pop(process.pid, None)
        if process.returncode not in (0, 1):
            raise BenchError(f"{argv[0]}: {process.returncode}: {output.decode()[-500:]}")
        return output.decode(errors="replace"), used.ru_utime + used.ru_stime

    def generate(self, target, service, kind, *options):
        """One of our own generators, outside any measurement."""
        argv = [self.load, kind, "--address", target.address(service), *map(str, options)]
        return self.report(self.client(argv)[0])

    @staticmethod
    def report(output):
        try:
            report = json.loads(output.strip().splitlines()[-1])
        except (ValueError, IndexError):
            raise BenchError(f"no report: {output[-500:]}") from None
        if report["errors"]:
            raise BenchError(f"the load failed: {report}")
        return report

    def answers(self, target, service):
        """None when a Service answers, else what went wrong."""
        options = {
            "grpc": ["probe", "--response", SMALL],
            "bodies": ["probe", "--response", LARGE],
            "plain": ["bulk", "--direction", "down", "--bytes", 1],
            "greeting": ["greeting"],
        }[service]
        try:
            self.generate(target, service, *options)
        except BenchError as error:
            return error
        return None

    def verify(self, target):
        """Every octet checked, of both protocols, before anything is timed."""
        before = self.counters()
        for service, *options in (
            ("grpc", "probe", "--connections", 3, "--calls", 60, "--response", SMALL),
            ("bodies", "probe", "--calls", 30, "--request", 40000, "--response", LARGE),
            ("plain", "bulk", "--direction", "down", "--bytes", 64 << 20, "--connections", 3, "--check"),
            ("plain", "bulk", "--direction", "up", "--bytes", 64 << 20, "--connections", 3, "--check"),
            ("plain", "short", "--count", 300, "--concurrency", 8),
            ("greeting", "greeting", "--count", 30),
        ):
            self.generate(target, service, *options)
        self.compare(before)

    def compare(self, before):
        """What endpoints have counted since; fails when something broken came."""
        after = self.counters()
        since = [{key: now[key] - then[key] for key in now} for now, then in zip(after, before)]
        if any(counts["violations"] for counts in since):
            raise BenchError(f"endpoints saw violations: {since}")
        return since

    # Measuring

    def quiet(self):
        """Waits, not for long, until nobody else uses the processors."""
        deadline = time.monotonic() + QUIET_SECONDS
        while time.monotonic() < deadline:
            mine, before = ProcessorTime([os.getpid()]), busy_seconds()
            time.sleep(0.2)
            if (busy_seconds() - before - mine.used()) / 0.2 <= self.noise_max:
                return

    def calibrate(self):
        pinned = ["taskset", "-c", self.proxy_cpus] if self.proxy_cpus else []
        return json.loads(run([*pinned, self.load, "calibrate"]))["nanoseconds"]

    def measure(self, target, argv):
        """Runs a load generator and reads what everything used while it ran."""
        before = self.counters()
        proxy = ProcessorTime([target.process.pid] if target.process else [])
        endpoints = ProcessorTime(process.pid for process in self.endpoints)
        softirq, busy = ProcessorTime(self.softirq), busy_seconds()
        begun = time.monotonic()
        output, client = self.client(argv)
        wall = time.monotonic() - begun
        busy = busy_seconds() - busy
        used = {"proxy_cpu": proxy.used() if target.process else None, "wall": wall}
        used["path_cpu"] = (used["proxy_cpu"] or 0) + endpoints.used() + softirq.used() + client
        used["noise"] = max(0.0, (busy - used["path_cpu"]) / wall)
        target.check()
        return output, used, self.compare(before)

    def own(self, target, service, kind, *options):
        """A measured run of one of our own generators."""
        argv = [self.load, kind, "--address", target.address(service), *map(str, options)]
        output, used, counts = self.measure(target, argv)
        return self.report(output), used, counts

    def h2load(self, target, service, count, connections, streams, *options):
        """A measured run of h2load in which every call has to succeed: calls a second."""
        output, used, counts = self.measure(target, [
            "h2load", "-n", str(count), "-c", str(connections), "-m", str(streams),
            "-d", self.request, "-H", "content-type: application/grpc", "-H", "te: trailers",
            "-H", "user-agent: grpc-bench/1", *options,
            f"http://{target.address(service)}/bench.Bench/Get",
        ])
        rate = re.search(r"finished in [\d.]+\w+, ([\d.]+) req/s", output)
        done = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", output)
        good, octets = re.search(r"(\d+) 2xx", output), re.search(r"\((\d+)\) data", output)
        if not (rate and done and good and octets):
            raise BenchError(f"h2load: {output[-800:]}")
        size = {"grpc": SMALL, "bodies": LARGE}[service] + 5
        answered = sum(endpoint["requests"] for endpoint in counts)
        if not int(done[1]) == int(good[1]) == answered == count or int(octets[1]) != count * size:
            raise BenchError(f"h2load: {done[0]}; {good[0]}; {octets[0]}; answered {answered}")
        return float(rate[1]), used, [endpoint["requests"] for endpoint in counts]

    def hold(self, target, service, kind, read):
        """Opens idle connections in steps: how many they are, and what is read then, by step."""
        argv = [self.load, "idle", "--address", target.address(service), "--connections",
                str(self.idle), "--steps", str(IDLE_STEPS), "--kind", kind]
        process = spawn(CLIENT, ["timeout", "-k", "2", "120", *argv], self.load_cpus,
                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            found = []
            for _ in range(IDLE_STEPS):
                line = process.stdout.readline()
                if not line.startswith("READY "):
                    raise BenchError(f"idle connections: {line}")
                time.sleep(0.3)
                found.append((int(line.split()[1]), *read()))
                process.stdin.write("\n")
                process.stdin.flush()
            self.report(process.stdout.readline())
            return found
        finally:
            process.stdin.close()
            stop(process)
