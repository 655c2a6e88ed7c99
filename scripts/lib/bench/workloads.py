"""The work that is measured. Each function runs it once and returns figures by column."""

import os
import statistics

import network
from process import BenchError, memory_kib

GIB = 1 << 30

# No run sends more than this, however fast it is.
CALLS_MAX = 3_000_000

# How many calls show that the rotation is exact.
SPREAD_CALLS = 1_000_000

# Calls a second at which latencies are compared: what every proxy here can do with one core.
PACE = 6000
PACED_CONNECTIONS, PACED_STREAMS = 10, 10


def columns(used, count, unit="us"):
    """Processor time for each piece of work: in microseconds, or in seconds a GiB."""
    each = (lambda cpu: cpu / count * 1e6) if unit == "us" else (lambda cpu: cpu / count * GIB)
    figures = {"path": each(used["path_cpu"]), "noise": used["noise"]}
    if used["proxy_cpu"] is not None:
        figures["proxy"] = each(used["proxy_cpu"])
        figures["busy"] = used["proxy_cpu"] / used["wall"]
    return figures


def calls(service, connections, streams):
    def measured(lab, target):
        least = connections * streams
        rate, _, _ = lab.h2load(target, service, 2 * least if least > 1 else 500, connections, streams)
        # A first guess of a cold path is often off: the second one is of the length wanted.
        for seconds in (lab.seconds / 4, lab.seconds):
            count = int(min(max(rate * seconds, 4 * least), CALLS_MAX)) // connections * connections
            rate, used, counts = lab.h2load(target, service, count, connections, streams)
        figures = columns(used, count)
        figures.update(rate=rate, spread=max(counts) - min(counts), share=100 * max(counts) / count)
        if service == "bodies":
            octets = count * (65536 + 5)
            figures.update(columns(used, octets, "gib"), rate=rate * (65536 + 5) * 8 / 1e9)
        return figures

    return measured


def spread(connections, streams):
    """A million calls: only the targets that balance that fast by themselves are asked."""
    def measured(lab, target):
        if not target.name.startswith("streamvs"):
            return None
        count = SPREAD_CALLS // connections * connections
        rate, used, counts = lab.h2load(target, "grpc", count, connections, streams)
        return {**columns(used, count), "rate": rate, "calls": count,
                "spread": max(counts) - min(counts)}

    return measured


def latency(pace, connections, streams):
    """Latencies, from h2load's log of each call; paced, or as fast as the answers come."""
    def measured(lab, target):
        log = os.path.join(lab.folder, "h2load.log")
        paced = [f"--rps={pace // connections}"] if pace else []
        rate = pace or lab.h2load(target, "grpc", 500, connections, streams)[0]
        lab.h2load(target, "grpc", 20 * connections, connections, streams, *paced)
        count = int(max(rate * lab.seconds, 20 * connections)) // connections * connections
        rate, used, _ = lab.h2load(target, "grpc", count, connections, streams, *paced,
                                   f"--log-file={log}")
        with open(log) as file:
            times = sorted(int(line.split("\t")[2]) for line in file)
        os.unlink(log)
        figures = columns(used, count)
        figures.update(rate=rate, p50=times[len(times) // 2], p99=times[int(len(times) * 0.99)])
        return figures

    return measured


def bulk(direction, connections):
    def measured(lab, target):
        def once(octets):
            each = octets // connections
            report, used, _ = lab.own(target, "plain", "bulk", "--direction", direction,
                                      "--connections", connections, "--bytes", each)
            if report["n"] != each * connections:
                raise BenchError(f"{report['n']} octets moved of {each * connections}")
            return report, used

        report, _ = once(256 << 20)
        octets = report["n"] / report["seconds"] * lab.seconds
        report, used = once(int(min(max(octets, 512 << 20), 64 * GIB)))
        figures = columns(used, report["n"], "gib")
        figures["rate"] = report["n"] * 8 / report["seconds"] / 1e9
        return figures

    return measured


def short(lab, target):
    network.forget_connections()
    report, _, _ = lab.own(target, "plain", "short", "--count", 1000, "--seconds", 5)
    count = int(min(max(report["n"] / report["seconds"] * lab.seconds, 1000), 40_000))
    report, used, counts = lab.own(target, "plain", "short", "--count", count, "--seconds", 10)
    seen = sum(endpoint["plain_connections"] for endpoint in counts)
    if seen != report["n"]:
        raise BenchError(f"{report['n']} connections made, {seen} seen by endpoints")
    figures = columns(used, report["n"])
    figures.update(rate=report["n"] / report["seconds"], p50=report["p50_us"], p99=report["p99_us"])
    return figures


def ping_pong(connections):
    def measured(lab, target):
        report, used, _ = lab.own(target, "plain", "ping-pong", "--connections", connections,
                                  "--seconds", lab.seconds)
        figures = columns(used, report["n"])
        figures.update(rate=report["n"] / report["seconds"], p50=report["p50_us"],
                       p99=report["p99_us"])
        return figures

    return measured


def idle(service, kind):
    def measured(lab, target):
        if not target.process:
            return None
        # What other work has left over would be used first.
        target.stop(lab)
        target.start(lab)

        def read():
            return memory_kib(target.process.pid), network.sockets()

        # The slope over all steps: what a start has left over is used first, so the first ones may
        # cost nothing, and memory may come in pages of 2 MiB.
        counts, kib, sockets = zip(*lab.hold(target, service, kind, read))
        return {"kib": statistics.linear_regression(counts, kib).slope, "mib": kib[-1] / 1024,
                "sockets": statistics.linear_regression(counts, sockets).slope, "noise": 0.0}

    return measured


class Workload:
    def __init__(self, title, measured, columns, repetitions=None):
        self.title, self.measured, self.columns = title, measured, columns
        # Not more than these: memory and a million calls take long and hardly vary.
        self.repetitions = repetitions


# Columns: key, heading, digits, and which way is better.
CALLS = [("rate", "calls/s", 0, "more"), ("proxy", "proxy CPU us/call", 2, "less"),
         ("path", "whole path CPU us/call", 2, "less"), ("busy", "proxy CPUs busy", 2, None),
         ("share", "busiest endpoint %", 1, None), ("spread", "max - min calls", 0, None)]
SPREAD = [("calls", "calls", 0, None), ("spread", "max - min calls", 0, "less"),
          ("rate", "calls/s", 0, None)]
TIMES = [("p50", "p50 us", 1, "less"), ("p99", "p99 us", 1, "less"),
         ("proxy", "proxy CPU us/call", 2, "less"), ("rate", "calls/s", 0, None)]
BULK = [("rate", "Gbit/s", 2, "more"), ("proxy", "proxy CPU s/GiB", 3, "less"),
        ("path", "whole path CPU s/GiB", 3, "less"), ("busy", "proxy CPUs busy", 2, None)]
SHORT = [("rate", "connections/s", 0, "more"), ("proxy", "proxy CPU us/connection", 1, "less"),
         ("path", "whole path CPU us/connection", 1, "less"), ("p50", "p50 us", 0, "less"),
         ("p99", "p99 us", 0, "less"), ("busy", "proxy CPUs busy", 2, None)]
PINGS = [("rate", "messages/s", 0, "more"), ("proxy", "proxy CPU us/message", 2, "less"),
         ("path", "whole path CPU us/message", 2, "less"), ("p50", "p50 us", 1, "less"),
         ("p99", "p99 us", 1, "less")]
MEMORY = [("kib", "KiB/connection", 2, "less"), ("mib", "MiB with all", 1, "less"),
          ("sockets", "sockets/connection", 2, None)]

WORKLOADS = {
    "unary-1x100": Workload("gRPC unary, 1 connection x 100 streams",
                            calls("grpc", 1, 100), CALLS),
    "unary-64x10": Workload("gRPC unary, 64 connections x 10 streams",
                            calls("grpc", 64, 10), CALLS),
    "spread-1": Workload("1,000,000 gRPC calls on 1 connection", spread(1, 100), SPREAD, 1),
    "spread-64": Workload("1,000,000 gRPC calls on 64 connections", spread(64, 10), SPREAD, 1),
    "bodies": Workload("gRPC, answers of 64 KiB, 3 connections x 10 streams",
                       calls("bodies", 3, 10), BULK),
    "one-call": Workload("gRPC unary, one call at a time", latency(None, 1, 1), TIMES),
    "paced": Workload(f"gRPC unary, {PACE} calls/s on {PACED_CONNECTIONS} connections",
                      latency(PACE, PACED_CONNECTIONS, PACED_STREAMS), TIMES),
    "bulk-down": Workload("TCP download, 1 connection", bulk("down", 1), BULK),
    "bulk-up": Workload("TCP upload, 1 connection", bulk("up", 1), BULK),
    "bulk-8": Workload("TCP download, 8 connections", bulk("down", 8), BULK),
    "short": Workload("TCP connect, 64 octets each way, close; 32 at a time", short, SHORT),
    "ping-pong-1": Workload("TCP ping-pong of 64 octets, 1 connection", ping_pong(1), PINGS),
    "ping-pong-64": Workload("TCP ping-pong of 64 octets, 64 connections", ping_pong(64), PINGS),
    "idle-tcp": Workload("idle TCP connections", idle("plain", "tcp"), MEMORY, 2),
    "idle-http2": Workload("idle HTTP/2 connections", idle("grpc", "http2"), MEMORY, 2),
}
