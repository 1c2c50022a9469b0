"""What the training scripts of the `pump-*` models share: windows, the judge, and the files of a bundle.

Owns the form of manifest.toml and golden.json for these models, and how a score is judged: causally, on machines that were held
out, with each window standing for its newest tick.
"""

import hashlib
import json
import pathlib

import numpy as np

import plant

SEED = 20261124
WINDOW = 60
STORE = pathlib.Path(__file__).resolve().parent.parent / "store"
HELD_OUT_HEALTHY, HELD_OUT_FAULTY = 120, 24  # machines; of each kind
QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)


def stream(name: str) -> np.random.Generator:
    """A generator for one purpose: a change of one step leaves the others alone."""
    words = np.frombuffer(hashlib.sha256(f"{SEED} {name}".encode()).digest(), np.uint32)
    return np.random.default_rng(np.random.SeedSequence(words.tolist()))


def windows_of(values: np.ndarray, step: int = 1) -> np.ndarray:
    """Every `step`-th window, [window, WINDOW, quantity], oldest tick first, machine after machine."""
    views = np.lib.stride_tricks.sliding_window_view(values, WINDOW, axis=1)[:, ::step]
    return np.ascontiguousarray(views.swapaxes(2, 3), np.float32).reshape(-1, WINDOW, values.shape[2])


def pooled(windows: np.ndarray, ranges: list) -> np.ndarray:
    """Means over ranges of rows, counted from the newest, both ends included: what `model.json` calls `rows`."""
    parts = [windows[:, WINDOW - 1 - last : WINDOW - first].mean(axis=1, dtype=np.float64) for first, last in ranges]
    return np.concatenate(parts, axis=1)


def standardised(windows: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return ((windows - mean) / scale).astype(np.float32)


def rounded_statistics(values: np.ndarray) -> tuple:
    """Mean and deviation of each quantity, rounded because the manifest carries them as text."""
    return np.round(values.mean(axis=(0, 1)), 4), np.round(values.std(axis=(0, 1)), 4)


def judge(scores_of, threshold: float, step: int = 1, purpose: str = "figures", say=print) -> dict:
    """F1, false and missed alarms of `scores_of(windows) > threshold` on held-out machines. Prints each kind."""
    ends = slice(WINDOW - 1, None, step)
    alarms = scores_of(windows_of(plant.healthy_fleet(stream(f"{purpose} healthy"), HELD_OUT_HEALTHY), step)) > threshold
    false, healthy, hit, missed = int(alarms.sum()), len(alarms), 0, 0
    say(f"healthy machines   {healthy:7d} windows, false alarms {100 * false / healthy:5.2f} %")
    for kind in plant.KINDS:
        values, growth, onset = plant.faulty_fleet(stream(f"{purpose} {kind.name}"), HELD_OUT_FAULTY, kind)
        alarms = scores_of(windows_of(values, step)) > threshold
        alarms = alarms.reshape(len(values), -1)
        present = (growth >= plant.PRESENT_SEVERITY)[:, ends]
        # Between a fault's first trace and its presence neither answer is wrong: not counted.
        before = (np.arange(values.shape[1])[None, :] < onset[:, None])[:, ends]
        false, healthy = false + int(alarms[before].sum()), healthy + int(before.sum())
        found, whole = int(alarms[present].sum()), int(present.sum())
        hit, missed = hit + found, missed + whole - found
        delays = [step * int(np.argmax(row[np.argmax(mark):])) for row, mark in zip(alarms, present)
                  if row[np.argmax(mark):].any()]
        median = f"{int(np.median(delays))} s" if delays else "never"
        say(f"{kind.name:18s} {whole:7d} windows, missed {100 * (1 - found / whole):5.2f} %, "
            f"found on {len(delays)} of {len(values)}, median {median} after presence")
    figures = {
        "f1": round(2 * hit / (2 * hit + false + missed), 4),
        "false_alarms_percent": round(100 * false / healthy, 2),
        "missed_percent": round(100 * missed / (hit + missed), 2),
    }
    say(f"all: {figures}; always alarming would have F1 {2 * (hit + missed) / (2 * (hit + missed) + healthy):.3f}")
    return figures


def golden(scores, columns, mean, scale, preprocess=True) -> dict:
    """48 windows with what `scores` gives for each, one row of numbers a window."""
    chosen = [("healthy", plant.healthy_fleet(stream("golden healthy"), 2))]
    for kind in plant.KINDS:
        chosen.append((kind.name, plant.faulty_fleet(stream(f"golden {kind.name}"), 2, kind)[0]))
    vectors = []
    for name, values in chosen:
        for index in range(16 if name == "healthy" else 4):
            start = 500 + 75 * index + (500 if name != "healthy" else 0)
            window = values[index % 2, start : start + WINDOW][:, columns]
            fed = np.round(standardised(window, mean, scale) if preprocess else window, 3).astype(np.float32)
            vectors.append({
                "name": f"{name}-{index:02d}",
                "input": [float(f"{number:.4g}") for number in fed.reshape(-1).astype(float)],
                "outputs": None,
            })
    for vector in vectors:
        fed = np.array(vector["input"], np.float32).reshape(1, WINDOW, len(columns))
        vector["outputs"] = [float(f"{float(number):.7g}") for number in scores(fed)]
    return {"format": 1, "tolerance": {"absolute": 1e-4, "relative": 1e-3}, "vectors": vectors}


def reference(values: np.ndarray) -> dict:
    """What the drift monitors compare with: over windows of healthy machines that were not trained on."""
    return {
        "mean": float(f"{values.mean():.6g}"), "deviation": float(f"{values.std():.6g}"),
        "quantiles": [float(f"{q:.6g}") for q in np.quantile(values, QUANTILES)],
    }


def write(name: str, kind: str, payload: bytes, vectors: dict, spec: dict, store: pathlib.Path = STORE) -> None:
    """The three files of a bundle. `spec` has: columns, mean, scale, preprocessing, outputs, data, figures, drift."""
    folder = store / name
    folder.mkdir(parents=True, exist_ok=True)
    file, key = ("model.onnx", "onnx") if kind == "onnx" else ("model.json", "model")
    lines = [
        f"# Written by train/{spec['script']}. Do not edit: train again.", "format = 1",
        f'id = "{name.rsplit("-v", 1)[0]}"', 'version = "1"', "release = 1", 'licence = "MIT OR Apache-2.0"',
    ]
    lines += [] if kind == "onnx" else [f'kind = "{kind}"']
    lines += [
        f'{key}_sha256 = "{hashlib.sha256(payload).hexdigest()}"', f"{key}_bytes = {len(payload)}",
        f'preprocessing = "{spec["preprocessing"]}"', "", "[window]", f"length = {WINDOW}", "period_ms = 1000",
    ]
    for place, column in enumerate(spec["columns"]):
        low, high = plant.RANGES[column]
        lines += [
            "", "[[inputs]]", f'quantity = "{plant.QUANTITIES[column]}"', f'unit = "{plant.UNITS[column]}"',
            f"range = [{low}, {high}]", f"mean = {float(spec['mean'][place])}", f"scale = {float(spec['scale'][place])}",
        ]
    for output in spec["outputs"]:
        lines += ["", "[[outputs]]"] + [f"{key} = {json.dumps(value)}" for key, value in output.items()]
    for part in ("inputs", "outputs"):
        for entry in spec["drift"][part]:
            lines += ["", f"[[drift.{part}]]"] + [f"{key} = {json.dumps(value)}" for key, value in entry.items()]
    lines += [
        "", "[training]", f'script = "train/{spec["script"]}"', f"seed = {SEED}", f'data = "{spec["data"]}"', "", "[training.figures]",
    ] + [f"{key} = {value}" for key, value in spec["figures"].items()]
    rows = ",\n".join(json.dumps(row, separators=(",", ":")) for row in vectors["vectors"])
    head = json.dumps({key: value for key, value in vectors.items() if key != "vectors"})
    (folder / file).write_bytes(payload)
    (folder / "golden.json").write_text(head[:-1] + ', "vectors": [\n' + rows + "\n]}\n")
    (folder / "manifest.toml").write_text("\n".join(lines) + "\n")
    for written in (file, "golden.json", "manifest.toml"):
        data = (folder / written).read_bytes()
        print(f"{hashlib.sha256(data).hexdigest()}  {name}/{written}  {len(data)} bytes")


def drift_of(inputs: np.ndarray, columns, outputs: dict) -> dict:
    """`inputs` are voted values of held-out healthy machines, [machine, tick, quantity]; `outputs` scores by name."""
    return {
        "inputs": [{"quantity": plant.QUANTITIES[c], **reference(inputs[:, :, c])} for c in columns],
        "outputs": [{"name": name, **reference(values)} for name, values in outputs.items()],
    }
