"""Processes of the bench: started, pinned, ended, and what processor time they used."""

import os
import signal
import subprocess

TICK = os.sysconf("SC_CLK_TCK")

# Everything started here that has not ended: id -> Popen.
RUNNING = {}


class BenchError(Exception):
    """A run that gives no figure, with its reason."""


def run(argv, check=True, stdin=None):
    """Runs a command to its end and returns its output."""
    done = subprocess.run(argv, input=stdin, text=True, capture_output=True, timeout=60)
    if check and done.returncode:
        raise BenchError(f"{' '.join(argv)}: {done.stdout}{done.stderr}".strip())
    return done.stdout


def inside(netns, argv, cpus=None):
    """The same command in a network namespace, on some processors."""
    pinned = ["taskset", "-c", cpus] if cpus else []
    return ["ip", "netns", "exec", netns, *pinned, *argv]


def spawn(netns, argv, cpus=None, **options):
    process = subprocess.Popen(inside(netns, argv, cpus), start_new_session=True, **options)
    RUNNING[process.pid] = process
    return process


def stop(process, grace=5.0):
    """Asks a process to end, and kills it and its descendants if it does not."""
    if process is None:
        return
    family = descendants(process.pid) if process.poll() is None else []
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(grace)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(grace)
    for pid in family:
        # A worker that outlived its parent has init as its parent now; anybody else is not ours.
        if pid != process.pid and parent(pid) in (1, *family):
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
    RUNNING.pop(process.pid, None)


def stat(pid):
    """The fields of /proc/PID/stat after the name: state, parent, ..."""
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rsplit(")", 1)[1].split()


def parent(pid):
    try:
        return int(stat(pid)[1])
    except OSError:
        return None


def pids():
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def descendants(root):
    """A process and all below it."""
    children = {}
    for pid in pids():
        children.setdefault(parent(pid), []).append(pid)
    family, todo = [], [root]
    while todo:
        pid = todo.pop()
        family.append(pid)
        todo += children.get(pid, [])
    return family


def named(prefix):
    """Processes whose name begins so."""
    found = []
    for pid in pids():
        try:
            with open(f"/proc/{pid}/comm") as file:
                if file.read().startswith(prefix):
                    found.append(pid)
        except OSError:
            pass
    return found


class ProcessorTime:
    """Seconds of processor time that process trees use from now on."""

    def __init__(self, roots):
        self.roots = list(roots)
        self.before = self.read()

    def read(self):
        times = {}
        for root in self.roots:
            for pid in descendants(root):
                try:
                    times[pid] = self.of(pid)
                except OSError:
                    pass
        return times

    @staticmethod
    def of(pid):
        """In ticks with ended threads, in ticks of ended children, and exactly of live threads."""
        fields = stat(pid)
        exact = 0
        for thread in os.listdir(f"/proc/{pid}/task"):
            try:
                with open(f"/proc/{pid}/task/{thread}/schedstat") as file:
                    exact += int(file.read().split()[0])
            except OSError:
                pass
        ticks, children = int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14])
        return ticks / TICK, children / TICK, exact / 1e9

    def used(self):
        total, after = 0.0, self.read()
        for pid, (ticks, children, exact) in after.items():
            ticks0, children0, exact0 = self.before.get(pid, (0.0, 0.0, 0.0))
            by_ticks, exactly = ticks - ticks0, exact - exact0
            # Threads that have ended since are in the ticks only.
            ended = by_ticks > exactly + 0.03 or exactly < 0
            total += (by_ticks if ended else exactly) + children - children0
        # The earlier time of a child that was there and has been reaped is in its parent's now.
        for pid, (ticks, children, _) in self.before.items():
            if pid not in after:
                total -= ticks + children
        return max(total, 0.0)


def busy_seconds():
    """What all processors have worked since boot, time stolen by the host included."""
    with open("/proc/stat") as file:
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, file.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / TICK


def memory_kib(root):
    """Proportional set size of a process tree."""
    total = 0
    for pid in descendants(root):
        try:
            with open(f"/proc/{pid}/smaps_rollup") as file:
                total += sum(int(line.split()[1]) for line in file if line.startswith("Pss:"))
        except OSError:
            pass
    return total
