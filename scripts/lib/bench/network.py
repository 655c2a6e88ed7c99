"""The node of the bench: a client pod, a node and three endpoint pods out of network namespaces.

    bench-client 10.200.0.2 -- bench-node --+-- bench-a 10.200.1.2
                               (the proxy)  +-- bench-b 10.200.2.2
                                            +-- bench-c 10.200.3.2
"""

import os
import signal
from collections import namedtuple

from process import inside, run

CLIENT, NODE, PODS = "bench-client", "bench-node", ("bench-a", "bench-b", "bench-c")
ENDPOINTS = ("10.200.1.2", "10.200.2.2", "10.200.3.2")
CLIENT_INTERFACE = "client"

Service = namedtuple("Service", "ip port target")

SERVICES = {
    "grpc": Service("10.96.0.10", 50051, 50051),
    "bodies": Service("10.96.0.10", 50052, 50052),
    "plain": Service("10.96.0.11", 80, 8080),
    "greeting": Service("10.96.0.12", 25, 2525),
}

SYSCTLS = (
    "net.ipv4.conf.all.rp_filter=0",
    "net.ipv4.conf.default.rp_filter=0",
    # Short connections need many ports, and must not wait for old ones.
    "net.ipv4.ip_local_port_range=1024 65535",
    "net.ipv4.tcp_tw_reuse=1",
    "net.ipv4.tcp_no_metrics_save=1",
    "net.core.somaxconn=16384",
    "net.ipv4.tcp_max_syn_backlog=16384",
)


def up():
    down()
    for netns in (NODE, CLIENT, *PODS):
        run(["ip", "netns", "add", netns])
        run(["ip", "-n", netns, "link", "set", "lo", "up"])
        run(inside(netns, ["sysctl", "-qw", *SYSCTLS]))
    run(inside(NODE, ["sysctl", "-qw", "net.ipv4.ip_forward=1"]))
    links = [(CLIENT, CLIENT_INTERFACE, "10.200.0")]
    links += [(pod, f"pod{number}", f"10.200.{number}") for number, pod in enumerate(PODS, 1)]
    for netns, link, net in links:
        batch(NODE, f"link add {link} type veth peer name eth0 netns {netns}",
              f"address add {net}.1/24 dev {link}", f"link set {link} up")
        batch(netns, f"address add {net}.2/24 dev eth0", "link set eth0 up",
              f"route add default via {net}.1")


def batch(netns, *lines):
    run(["ip", "-n", netns, "-batch", "-"], stdin="\n".join(lines) + "\n")


def down():
    there = {line.split()[0] for line in run(["ip", "netns", "list"]).splitlines() if line}
    for netns in there.intersection((NODE, CLIENT, *PODS)):
        # Whoever is still inside was started by this bench: the namespaces are its own.
        for pid in run(["ip", "netns", "pids", netns], check=False).split():
            try:
                os.kill(int(pid), signal.SIGKILL)
            except OSError:
                pass
        run(["ip", "netns", "del", netns], check=False)


def forget_connections():
    run(inside(NODE, ["conntrack", "-F"]), check=False)


def clear_rules():
    run(inside(NODE, ["nft", "flush", "ruleset"]))
    forget_connections()


def redirect(ports):
    """Sends each Service to a port of a listener on the node, as the peers need it."""
    rules = [
        f"-A PREROUTING -i {CLIENT_INTERFACE} -d {service.ip}/32 -p tcp -m tcp"
        f" --dport {service.port} -j REDIRECT --to-ports {ports[name]}"
        for name, service in SERVICES.items()
    ]
    restore(["*nat", *rules, "COMMIT"])


def kube_proxy():
    """What kube-proxy's iptables mode writes for these Services."""
    chains = [":KUBE-SERVICES - [0:0]", ":KUBE-POSTROUTING - [0:0]", ":KUBE-MARK-MASQ - [0:0]"]
    rules = [
        "-A PREROUTING -j KUBE-SERVICES",
        "-A OUTPUT -j KUBE-SERVICES",
        "-A POSTROUTING -j KUBE-POSTROUTING",
        "-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000",
        "-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN",
        "-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000",
        "-A KUBE-POSTROUTING -j MASQUERADE --random-fully",
    ]
    for name, (ip, port, target) in SERVICES.items():
        chain = f"KUBE-SVC-{name.upper()}"
        chains.append(f":{chain} - [0:0]")
        rules.append(f"-A KUBE-SERVICES -d {ip}/32 -p tcp -m tcp --dport {port} -j {chain}")
        for number, endpoint in enumerate(ENDPOINTS):
            separate, left = f"KUBE-SEP-{name.upper()}{number}", len(ENDPOINTS) - number
            chains.append(f":{separate} - [0:0]")
            chance = f" -m statistic --mode random --probability {1 / left:.10f}" if left > 1 else ""
            rules.append(f"-A {chain}{chance} -j {separate}")
            rules.append(f"-A {separate} -s {endpoint}/32 -j KUBE-MARK-MASQ")
            rules.append(f"-A {separate} -p tcp -m tcp -j DNAT --to-destination {endpoint}:{target}")
    filters = [
        "*filter",
        ":KUBE-FORWARD - [0:0]",
        "-A FORWARD -j KUBE-FORWARD",
        "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP",
        "-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT",
        "-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "COMMIT",
    ]
    restore(["*nat", *chains, *rules, "COMMIT", *filters])


def restore(lines):
    run(inside(NODE, ["iptables-restore"]), stdin="\n".join(lines) + "\n")


def sockets():
    """TCP sockets in use on the node, of both families: a listener for both counts as IPv6."""
    table = run(inside(NODE, ["cat", "/proc/net/sockstat", "/proc/net/sockstat6"]))
    lines = (line.split() for line in table.splitlines())
    return sum(int(line[2]) for line in lines if line[0] in ("TCP:", "TCP6:"))
