"""Bar charts as SVG: a bar for the median, a line from the least to the most."""

import os
from xml.sax.saxutils import escape

from report import medians, number
from workloads import WORKLOADS

# File: title, and the workload and column of each group of bars.
PLOTS = {
    "calls": ("Proxy CPU for a gRPC call, us",
              [("unary-1x100", "proxy"), ("unary-64x10", "proxy")]),
    "throughput": ("gRPC calls a second, one proxy CPU",
                   [("unary-1x100", "rate"), ("unary-64x10", "rate")]),
    "latency": ("Median time of a gRPC call, us", [("one-call", "p50"), ("paced", "p50")]),
    "bulk": ("Proxy CPU for a GiB, s", [("bodies", "proxy"), ("bulk-down", "proxy")]),
    "short": ("Proxy CPU for a short TCP connection, us", [("short", "proxy")]),
    "memory": ("Memory for an idle connection, KiB", [("idle-tcp", "kib"), ("idle-http2", "kib")]),
}

WIDTH, LABEL, VALUE, BAR, GAP = 760, 130, 190, 18, 6
OURS, OTHERS, INK = "#1f6f8b", "#b8b8b8", "#222222"


def write(result, folder):
    """Writes a file for each plot that has figures, and gives their titles and names."""
    os.makedirs(folder, exist_ok=True)
    written = []
    for name, (title, groups) in PLOTS.items():
        found = [(WORKLOADS[workload].title, digits(workload, key), medians(result, workload, key))
                 for workload, key in groups]
        found = [group for group in found if group[2]]
        if found:
            with open(os.path.join(folder, f"{name}.svg"), "w") as file:
                file.write(chart(title, found))
            written.append((title, f"{name}.svg"))
    return written


def digits(workload, key):
    return next(digits for name, _, digits, _ in WORKLOADS[workload].columns if name == key)


def chart(title, groups):
    shapes, top = [text(10, 24, title, 15, "bold")], 44
    for heading, places, values in groups:
        most = max(most for _, _, most in values.values()) or 1.0
        scale = (WIDTH - LABEL - VALUE) / most
        shapes.append(text(10, top + 12, heading, 12))
        top += 22
        for target, (middle, least, highest) in values.items():
            colour = OURS if target.startswith("streamvs") else OTHERS
            y = top + BAR / 2
            shapes += [
                text(LABEL - 8, y + 4, target, 12, anchor="end"),
                f'<rect x="{LABEL}" y="{top}" width="{middle * scale:.1f}" height="{BAR}" fill="{colour}"/>',
                f'<line x1="{LABEL + least * scale:.1f}" y1="{y}" x2="{LABEL + highest * scale:.1f}"'
                f' y2="{y}" stroke="{INK}"/>',
                text(LABEL + highest * scale + 8, y + 4, spread(places, middle, least, highest), 11),
            ]
            top += BAR + GAP
        top += 12
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top}"'
            f' viewBox="0 0 {WIDTH} {top}" font-family="sans-serif">\n'
            f'<rect width="{WIDTH}" height="{top}" fill="white"/>\n' + "\n".join(shapes) + "\n</svg>\n")


def spread(places, middle, least, highest):
    shown = number(middle, places)
    return f"{shown} ({number(least, places)}..{number(highest, places)})"


def text(x, y, words, size, weight="normal", anchor="start"):
    return (f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}"'
            f' text-anchor="{anchor}" fill="{INK}">{escape(words)}</text>')
