#!/usr/bin/env python3
"""Draws what the voter does with a trace: the channels, who is out and why, the vote and its uncertainty.

usage: docs/pictures/voting.py --binary target/release/quorate [--output docs/pictures/voting.svg]
needs: Python 3 alone. The trace is made here, from a seed: a temperature that wanders and steps, three sensors with
offset and noise of their own, and one fault after the other: a spike, a bias, a freeze, a drift, silence, noise.
"""
import argparse, json, math, os, random, subprocess, tempfile

TICKS, WIDTH, HEIGHT, LEFT, TOP = 1500, 1000, 520, 60, 30
CHANNELS = [("a", 0.00, "#1f77b4"), ("b", 0.25, "#2ca02c"), ("c", -0.15, "#9467bd")]
# channel, first tick, last tick, what it is
FAULTS = [("b", 180, 180, "spike"), ("c", 330, 430, "bias"), ("a", 560, 680, "freeze"), ("b", 800, 960, "drift"),
          ("c", 1060, 1130, "silence"), ("a", 1230, 1330, "noise")]
COLOURS = {"quarantined": "#d62728", "probation": "#ff9896", "suspect": "#ffbb78", "learning": "#c7c7c7", "failed": "#000000"}


def trace(seed):
    """Rows of (truth, {channel: value or None})."""
    rng, level, rows, held = random.Random(seed), 40.0, [], {}
    for t in range(TICKS):
        level += rng.gauss(0, 0.03)
        truth = level + 3 * math.sin(t / 90) + (2.5 if t >= 720 else 0)
        row = {}
        for name, offset, _ in CHANNELS:
            value = truth + offset + rng.gauss(0, 0.12)
            for channel, first, last, what in FAULTS:
                if channel == name and first <= t <= last:
                    if what == "spike": value += 6
                    if what == "bias": value += 3
                    if what == "freeze": value = held.setdefault((name, first), value)
                    if what == "drift": value += (t - first) * 0.03
                    if what == "silence": value = None
                    if what == "noise": value += rng.gauss(0, 2)
            row[name] = value
        rows.append((truth, row))
    return rows


def replay(binary, rows):
    with tempfile.TemporaryDirectory() as folder:
        config, csv = os.path.join(folder, "q.toml"), os.path.join(folder, "t.csv")
        with open(config, "w") as f:
            f.write('[device]\nid = "picture"\n')
            f.write("".join(f'[[sensors]]\nid = "{n}"\nsource = {{ kind = "replay" }}\n' for n, _, _ in CHANNELS))
            f.write('[[quantities]]\nid = "temperature"\nunit = "celsius"\nsensors = ["a", "b", "c"]\n')
        with open(csv, "w") as f:
            f.write("time_s,a,b,c\n")
            for t, (_, row) in enumerate(rows):
                f.write(",".join([str(t)] + ["" if row[n] is None else f"{row[n]:.3f}" for n, _, _ in CHANNELS]) + "\n")
        text = subprocess.run([binary, "replay", "--config", config, "--input", csv], capture_output=True, text=True, check=True).stdout
    return [json.loads(line) for line in text.splitlines()]


def draw(rows, votes):
    values = [v for _, row in rows for v in row.values() if v is not None]
    low, high = min(values), max(values)
    x = lambda t: LEFT + t * (WIDTH - LEFT - 10) / TICKS
    y = lambda v: TOP + (high - v) * (HEIGHT - TOP - 110) / (high - low)
    path = lambda points: " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
           f'<title>Three sensors of one temperature, their faults, and the vote</title><rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>']
    for v in range(math.ceil(low / 5) * 5, math.floor(high) + 1, 5):
        out.append(f'<line x1="{LEFT}" x2="{WIDTH - 10}" y1="{y(v):.1f}" y2="{y(v):.1f}" stroke="#ddd"/><text x="{LEFT - 8}" y="{y(v) + 4:.1f}" text-anchor="end">{v} °C</text>')
    band = [(t, v) for t, v in enumerate(votes) if v["value"] is not None and v["uncertainty"] is not None]
    upper = [(x(t), y(v["value"] + 2 * v["uncertainty"])) for t, v in band]
    lower = [(x(t), y(v["value"] - 2 * v["uncertainty"])) for t, v in reversed(band)]
    out.append(f'<polygon points="{path(upper + lower)}" fill="#f5c518" fill-opacity="0.6"/>')
    for name, _, colour in CHANNELS:
        run = []
        for t, (_, row) in enumerate(rows + [(0, {name: None})]):
            if row[name] is not None:
                run.append((x(t), y(row[name])))
            elif run:
                out.append(f'<polyline points="{path(run)}" fill="none" stroke="{colour}" stroke-width="0.8"/>')
                run = []
    out.append(f'<polyline points="{path([(x(t), y(v["value"])) for t, v in band])}" fill="none" stroke="black" stroke-width="1.4"/>')
    for row, (name, _, colour) in enumerate(CHANNELS):
        top = HEIGHT - 72 + row * 18
        out.append(f'<text x="{LEFT - 8}" y="{top + 10}" text-anchor="end" fill="{colour}">{name}</text><rect x="{LEFT}" y="{top}" width="{WIDTH - LEFT - 10}" height="12" fill="#eef5ee"/>')
        start = None
        for t, vote in enumerate(votes + [{"excluded": []}]):
            state = next(((e["state"], e["reason"]) for e in vote["excluded"] if e["sensor"] == name), None)
            if start and start[1] != state:
                first, (was, reason) = start
                out.append(f'<rect x="{x(first):.1f}" y="{top}" width="{max(x(t) - x(first), 1):.1f}" height="12" fill="{COLOURS.get(was, "#999")}"><title>{name}: {was}, {reason}, {first} s to {t} s</title></rect>')
                if was == "quarantined" and t - first > 12:
                    out.append(f'<text x="{x(first) + 3:.1f}" y="{top + 10}" font-size="10" fill="white">{reason}</text>')
                start = None
            if start is None and state:
                start = (t, state)
    for channel, first, _, what in FAULTS:
        out.append(f'<text x="{x(first):.1f}" y="{TOP - 12}" font-size="11">{what} of {channel}</text><line x1="{x(first):.1f}" x2="{x(first):.1f}" y1="{TOP - 8}" y2="{HEIGHT - 76}" stroke="#bbb" stroke-dasharray="2 3"/>')
    out.append(f'<text x="{LEFT}" y="{HEIGHT - 4}">black: the vote, yellow: twice its uncertainty either way. Below, who is out: red quarantined, pink on probation, orange a sample not believed.</text></svg>')
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--binary", required=True)
    arguments.add_argument("--output", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "voting.svg"))
    a = arguments.parse_args()
    rows = trace(7)
    votes = replay(a.binary, rows)
    with open(a.output, "w") as f:
        f.write(draw(rows, votes))
    error = [abs(v["value"] - truth) for v, (truth, _) in zip(votes, rows) if v["value"] is not None]
    print(f"{len(votes)} votes, largest error {max(error):.2f}, mean error {sum(error) / len(error):.3f}")
