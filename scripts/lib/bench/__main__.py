"""Measures streamvs beside the kernel and other proxies. Called by scripts/bench."""

import argparse
import atexit
import fcntl
import json
import os
import platform
import re
import resource
import signal
import sys
import time

import plots
import report
import targets
from lab import Lab, files
from network import NODE
from process import BenchError, inside, run
from workloads import WORKLOADS

# A run is repeated once when others used too much of the machine, and the quieter one kept.
ATTEMPTS = 2

DEFAULTS = {"repetitions": 5, "seconds": 1.5, "minutes": 45}
QUICK = {"repetitions": 2, "seconds": 0.5, "minutes": 10}


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    names = ", ".join(WORKLOADS)
    add = parser.add_argument
    add("--quick", action="store_true", help="two short repetitions, about 6 minutes")
    add("--targets", help="only these, comma-separated")
    add("--workloads", help=f"only these, comma-separated: {names}")
    add("--repetitions", type=int, help="default 5")
    add("--seconds", type=float, help="aimed-at length of a run, default 1.5")
    add("--minutes", type=float, help="no new run after this time, default 45")
    add("--idle", type=int, default=4000, help="idle connections whose memory is measured (%(default)s)")
    add("--layout", choices=["split", "one", "free"], default="split",
        help="split: proxy on the last CPU, load on the others; one: all on CPU 0; free: not pinned")
    add("--noise", type=float, default=0.15, metavar="CPUS",
        help="what others may use during a run (%(default)s)")
    add("--out", default=os.path.join(targets.ROOT, "target", "bench", "result"), metavar="PATH",
        help="writes PATH.json, PATH.md and plots in PATH/ (%(default)s)")
    add("--resume", action="store_true", help="keep the figures of PATH.json, run what is missing")
    add("--publish", action="store_true", help="also write docs/performance.md and its plots")
    add("--envoy", help=argparse.SUPPRESS)
    add("--streamvs", required=True, help=argparse.SUPPRESS)
    add("--load", required=True, help=argparse.SUPPRESS)
    options = parser.parse_args()
    for name, value in (QUICK if options.quick else DEFAULTS).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return parser, options


def chosen(parser, text, known, what):
    names = text.split(",") if text else list(known)
    for name in names:
        if name not in known:
            parser.error(f"unknown {what} {name}; known: {', '.join(known)}")
    return names


def about(options, lab):
    with open("/proc/cpuinfo") as file:
        processor = re.search(r"model name\s*: (.*)", file.read())
    control = run(inside(NODE, ["sysctl", "-n", "net.ipv4.tcp_congestion_control"])).strip()
    h2load = run(["h2load", "--version"]).strip()
    return {
        "when": time.strftime("%Y-%m-%d %H:%M %Z"), "processors": os.cpu_count(),
        "processor": processor[1] if processor else "unknown", "kernel": platform.release(),
        "congestion_control": control, "layout": options.layout, "workers": lab.workers,
        "proxy_cpus": lab.proxy_cpus, "load_cpus": lab.load_cpus, "seconds": options.seconds,
        "idle": options.idle, "noise_max": options.noise,
        "load": f"{h2load} for HTTP/2, tests/load for TCP",
    }


class Bench:
    def __init__(self, options, lab, made):
        self.options, self.lab, self.made = options, lab, made
        self.deadline = time.monotonic() + options.minutes * 60
        self.result = {"about": {}, "targets": {}, "runs": []}
        if options.resume and os.path.exists(options.out + ".json"):
            with open(options.out + ".json") as file:
                earlier = json.load(file)
            self.result["runs"] = [run for run in earlier["runs"] if not run.get("error")]
            self.result["targets"] = earlier["targets"]
        self.result["targets"].update({target.name: target.version for target in made})

    def done(self, repetition, target, workload):
        """True when this run is not needed, or has been made."""
        most = WORKLOADS[workload].repetitions
        if most is not None and repetition >= most:
            return True
        wanted = (repetition, target.name, workload)
        return any((run["repetition"], run["target"], run["workload"]) == wanted
                   for run in self.result["runs"])

    def repetition(self, number, workloads):
        """Every target in turn, so that a machine that drifts does so under all of them."""
        for target in self.made:
            missing = [name for name in workloads if not self.done(number, target, name)]
            if not missing:
                continue
            try:
                target.start(self.lab)
                if number == 0:
                    self.lab.verify(target)
                for name in missing:
                    if time.monotonic() > self.deadline:
                        return False
                    self.once(number, target, name)
            except BenchError as error:
                # It did not start, or is not right: no figure of it counts.
                self.failed(number, target, ", ".join(missing), error)
            finally:
                target.stop(self.lab)
        return True

    def once(self, number, target, name):
        kept = None
        for _ in range(ATTEMPTS):
            self.lab.quiet()
            calibration = self.lab.calibrate()
            try:
                figures = WORKLOADS[name].measured(self.lab, target)
            except BenchError as error:
                self.failed(number, target, name, error)
                target.stop(self.lab)
                target.start(self.lab)
                return
            if kept is None or figures["noise"] < kept["figures"]["noise"]:
                kept = {"repetition": number, "target": target.name, "workload": name,
                        "figures": figures, "calibration": calibration}
            if figures is None or kept["figures"]["noise"] <= self.options.noise:
                break
        self.result["runs"].append(kept)
        self.save()
        if figures is not None:
            shown = (f"{heading} {report.number(kept['figures'][key], digits)}"
                     for key, heading, digits, _ in WORKLOADS[name].columns
                     if kept["figures"].get(key) is not None)
            say(f"{number + 1} {target.name} {name}: {', '.join(shown)},"
                f" others {kept['figures']['noise']:.2f}")

    def failed(self, number, target, name, error):
        say(f"{number + 1} {target.name} {name}: FAILED: {error}")
        self.result["runs"].append({"repetition": number, "target": target.name, "workload": name,
                                    "error": str(error)})
        self.save()

    def save(self):
        out = self.options.out
        os.makedirs(os.path.dirname(os.path.abspath(out)), exist_ok=True)
        with open(out + ".json", "w") as file:
            json.dump(self.result, file, indent=1)

    def write(self):
        """Writes the report, and gives it without its plots."""
        out = self.options.out
        drawn = plots.write(self.result, out)
        here = [(title, os.path.join(os.path.basename(out), name)) for title, name in drawn]
        with open(out + ".md", "w") as file:
            file.write("# Bench\n\n## Figures\n\n" + report.markdown(self.result, here))
        if self.options.publish:
            docs = os.path.join(targets.ROOT, "docs")
            drawn = plots.write(self.result, os.path.join(docs, "performance"))
            there = [(title, f"performance/{name}") for title, name in drawn]
            report.publish(os.path.join(docs, "performance.md"),
                           report.markdown(self.result, there).rstrip("\n"))
        return "\n".join(report.conditions(self.result) + [""] + report.summary(self.result)
                         + [""] + report.errors(self.result))


def say(*words):
    print(time.strftime("%H:%M:%S"), *words, file=sys.stderr, flush=True)


def main():
    parser, options = arguments()
    known = targets.known(options.envoy, options.streamvs)
    names = chosen(parser, options.targets, known, "target")
    workloads = chosen(parser, options.workloads, WORKLOADS, "workload")
    lock = open("/run/streamvs-bench.lock", "w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        sys.exit("scripts/bench: another one is running")
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    if files(options.idle) > limit:
        parser.error(f"--idle {options.idle} needs a limit of {files(options.idle)} open files,"
                     f" and it is {limit}")
    lab = Lab(options)
    atexit.register(lab.down)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(130))
    lab.up()
    bench = Bench(options, lab, [known[name]() for name in names])
    bench.result["about"] = about(options, lab)
    for number in range(options.repetitions):
        if not bench.repetition(number, workloads):
            say(f"stopped after {options.minutes} minutes; --resume goes on")
            break
    print(bench.write())
    say(f"written: {options.out}.md")
    sys.exit(1 if any(run.get("error") for run in bench.result["runs"]) else 0)


main()
