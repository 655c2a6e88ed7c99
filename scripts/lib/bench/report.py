"""Tables of a result: one of medians and ratios, and one for each workload with the spread."""

import statistics

from workloads import WORKLOADS

PEERS = ("haproxy", "nginx", "envoy")
BEGIN, END = "<!-- scripts/bench begins -->", "<!-- scripts/bench ends -->"


def medians(result, workload, key):
    """Median, least and most of a column over the repetitions, by target."""
    found = {}
    for target in result["targets"]:
        values = [run["figures"][key] for run in result["runs"]
                  if run["workload"] == workload and run["target"] == target
                  and run.get("figures") and run["figures"].get(key) is not None]
        if values:
            found[target] = (statistics.median(values), min(values), max(values))
    return found


def best_peer(found, better):
    """The best of the proxies that nobody here wrote."""
    values = [found[peer][0] for peer in PEERS if peer in found]
    return (min if better == "less" else max)(values) if values else None


def number(value, digits):
    return f"{value:,.{digits}f}"


def cell(found, target, digits):
    if target not in found:
        return ""
    middle, least, most = (number(value, digits) for value in found[target])
    return middle if least == most else f"{middle} ({least}..{most})"


def row(cells):
    return "| " + " | ".join(cells) + " |"


def workloads(result):
    return [name for name in WORKLOADS if any(run["workload"] == name for run in result["runs"])]


def summary(result):
    """Medians of every target, and ours in ratio to the best peer's."""
    targets = list(result["targets"])
    ours = [target for target in targets if target.startswith("streamvs")]
    lines = [row(["work", "figure", *targets, *(f"{target} : best peer" for target in ours)]),
             row(["---"] * 2 + ["---:"] * (len(targets) + len(ours)))]
    for name in workloads(result):
        for key, heading, digits, better in WORKLOADS[name].columns:
            found = medians(result, name, key)
            if better is None or not found:
                continue
            cells = [number(found[target][0], digits) if target in found else "" for target in targets]
            best = best_peer(found, better)
            ratios = [f"{found[target][0] / best:.2f}" if best and target in found else ""
                      for target in ours]
            lines.append(row([f"`{name}`", heading, *cells, *ratios]))
    return lines


def detail(result, name):
    """Every column of one workload, with its spread."""
    columns = WORKLOADS[name].columns
    found = {key: medians(result, name, key) for key, *_ in columns}
    lines = [f"`{name}`: {WORKLOADS[name].title}", "",
             row(["target", *(heading for _, heading, _, _ in columns)]),
             row(["---"] + ["---:"] * len(columns))]
    for target in result["targets"]:
        if any(target in values for values in found.values()):
            lines.append(row([target, *(cell(found[key], target, digits)
                                        for key, _, digits, _ in columns)]))
    return lines


def conditions(result):
    """Where, when and with what."""
    about = result["about"]
    noisy = [run for run in result["runs"]
             if run.get("figures") and run["figures"].get("noise", 0) > about["noise_max"]]
    calibration = [run["calibration"] for run in result["runs"] if run.get("calibration")]
    repetitions = {run["repetition"] for run in result["runs"]}
    lines = [
        f"- {about['when']}, {about['processors']} CPUs ({about['processor']}), kernel {about['kernel']},"
        f" congestion control {about['congestion_control']}.",
        f"- Layout `{about['layout']}`: the proxy with {about['workers']} worker(s) on CPU"
        f" {about['proxy_cpus'] or 'any'}, load and endpoints on CPU {about['load_cpus'] or 'any'}.",
        f"- {len(repetitions)} repetitions of about {about['seconds']} s, the repetition being the"
        f" outermost loop; {about['idle']} idle connections; median (least..most).",
        f"- Others used more than {about['noise_max']} CPUs during {len(noisy)} of"
        f" {len(result['runs'])} runs.",
    ]
    if calibration:
        lines.append(f"- A fixed piece of work on the proxy's CPU before each run:"
                     f" {statistics.median(calibration):,.0f} ns"
                     f" ({min(calibration):,.0f}..{max(calibration):,.0f}).")
    lines += [f"- {name}: {version}." for name, version in result["targets"].items()]
    lines.append(f"- Load generators: {about['load']}.")
    return lines


def errors(result):
    failed = [run for run in result["runs"] if run.get("error")]
    if not failed:
        return []
    lines = ["Runs that gave no figure:", ""]
    return lines + [f"- {run['target']}, `{run['workload']}`: {run['error'][:300]}" for run in failed]


def markdown(result, plots=()):
    parts = [["### Conditions", ""] + conditions(result), ["### Medians and ratios", ""] + summary(result)]
    parts += [[f"![{title}]({path})"] for title, path in plots]
    parts += [["### Every workload"], *(detail(result, name) for name in workloads(result)), errors(result)]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def publish(page, text):
    """Puts the text between the two marks of a page."""
    with open(page) as file:
        before, rest = file.read().split(BEGIN, 1)
    _, after = rest.split(END, 1)
    with open(page, "w") as file:
        file.write(f"{before}{BEGIN}\n\n{text}\n{END}{after}")
