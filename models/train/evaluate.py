"""Prints F1, false alarms and missed alarms of the `pump-*` bundles as they lie in the store, causally, on held-out machines.

    python evaluate.py [--purpose figures] [BUNDLE...]

What is judged is the file: onnxruntime runs model.onnx window by window, model.json is evaluated as models/README.md says. The
purpose `figures` gives the machines of the manifest's figures, any other word machines that nothing was ever chosen on.
"""

import argparse
import json
import pathlib
import tomllib

import numpy as np

import plant
import pump_data as data
import train_pump


def scores_of(bundle: pathlib.Path, manifest: dict):
    columns = [plant.QUANTITIES.index(entry["quantity"]) for entry in manifest["inputs"]]
    mean, scale = (np.array([entry[key] for entry in manifest["inputs"]]) for key in ("mean", "scale"))
    kind = manifest.get("kind", "onnx")
    if kind == "onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(bundle / "model.onnx", options)
        evaluate = lambda fed: np.array([session.run(None, {"window": row[None]})[0][0] for row in fed])
    else:
        model = json.loads((bundle / "model.json").read_text())
        evaluate = (lambda fed: pca(model, fed)) if kind == "pca" else (
            lambda fed: train_pump.boosted(model, data.pooled(fed, model["rows"]).astype(np.float32)))

    def scores(windows: np.ndarray) -> np.ndarray:
        slices = range(0, len(windows), 16384)
        return np.concatenate([evaluate(data.standardised(windows[i : i + 16384][:, :, columns], mean, scale)) for i in slices])

    return scores


def pca(model: dict, fed: np.ndarray) -> np.ndarray:
    z = (data.pooled(fed, model["rows"]) - model["mean"]) / model["scale"]
    components = np.array(model["components"])
    along = z @ components.T
    t2, spe = (along**2 / model["variances"]).sum(axis=1), ((z - along @ components) ** 2).sum(axis=1)
    return np.maximum(t2 / model["t2_limit"], spe / model["spe_limit"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundles", nargs="*", type=pathlib.Path, default=sorted(data.STORE.glob("pump-*")))
    parser.add_argument("--purpose", default="figures")
    parser.add_argument("--step", type=int, default=2, help="judge every so many seconds")
    options = parser.parse_args()
    for bundle in options.bundles:
        manifest = tomllib.loads((bundle / "manifest.toml").read_text())
        print(f"== {bundle.name}, threshold {manifest['outputs'][0]['threshold']}")
        data.judge(scores_of(bundle, manifest), manifest["outputs"][0]["threshold"], options.step, options.purpose)


if __name__ == "__main__":
    main()
