#!/usr/bin/env python3
"""How long the models that ship take in the runner and, where they are graphs, in onnxruntime: in turn, in one run.

usage: tests/rigs/model_latency.py --vectors target/release/examples/vectors [--runs 20000] [--rounds 5]
needs: python -m pip install numpy==2.4.6 onnxruntime==1.32.0

One thread each; both run the bundle's golden vectors round after round, and the best round of each counts, since a shared
machine only ever makes slower. Prints a table and a summary in JSON.
"""
import argparse, json, os, subprocess, time

import numpy as np
import onnxruntime

STORE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../models/store")


def reference(folder, runs):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(f"{folder}/model.onnx", options, providers=["CPUExecutionProvider"])
    shape = session.get_inputs()[0].shape
    fed = [np.array(vector["input"], np.float32).reshape(shape) for vector in json.load(open(f"{folder}/golden.json"))["vectors"]]
    times = []
    for index in range(runs + 200):
        window = {"window": fed[index % len(fed)]}
        begun = time.perf_counter_ns()
        session.run(None, window)
        times.append(time.perf_counter_ns() - begun)
    times = sorted(times[200:])
    return times[len(times) // 2] / 1e3, times[len(times) * 99 // 100] / 1e3


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vectors", required=True)
    parser.add_argument("--runs", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    found = {}
    for name in sorted(os.listdir(STORE)):
        folder, rounds = os.path.join(STORE, name), []
        for _ in range(options.rounds):
            ran = subprocess.run([options.vectors, str(options.runs), folder], capture_output=True, text=True, check=True)
            ours = json.loads(ran.stdout)
            theirs = reference(folder, options.runs) if os.path.exists(f"{folder}/model.onnx") else (None, None)
            rounds.append((ours["p50_us"], ours["p99_us"], *theirs))
        best = lambda column: min((row[column] for row in rounds if row[column] is not None), default=None)
        found[name] = {"p50_us": best(0), "p99_us": best(1), "onnxruntime_p50_us": best(2), "onnxruntime_p99_us": best(3)}
    print("| model | runner, median µs | 99 % | onnxruntime, median µs | 99 % |\n|---|---|---|---|---|")
    for name, row in found.items():
        print(f"| {name} | " + " | ".join("-" if number is None else f"{number:.1f}" for number in row.values()) + " |")
    print(json.dumps({"rig": "model_latency", "runs": options.runs, "rounds": options.rounds, "models": found, "failures": 0}))


if __name__ == "__main__":
    main()
