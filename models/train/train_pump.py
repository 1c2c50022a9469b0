"""Makes models/store/pump-anomaly-v1, pump-anomaly-lite-v1 and pump-faults-v1 from nothing.

    pip install -r requirements-pump.txt && python train_pump.py [autoencoder] [lite] [faults]

autoencoder: a convolutional autoencoder over 60 s of eight quantities, causal: each window ends at the second that is judged,
and its strided convolutions reach no further. Trained on healthy machines. The score is inside the graph: reconstruction error,
averaged over each half of the window, whitened by its covariance on healthy machines, mean square.
lite: T2 and SPE of a principal component analysis of the same halves of five quantities: the fallback when fewer are there.
faults: boosted trees on halves of all eight quantities, trained with the simulator's faults: it knows those, and no others.

Thresholds are quantiles of the score over healthy machines that were not trained on. `--checkpoints DIR` keeps the state of the
training after every fifth epoch; a run that was interrupted goes on there and gives the same bytes.
"""

import argparse
import json
import os
import pathlib

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np

import plant
import pump_data as data

# A window of a healthy machine passes the threshold this often, by design.
FALSE_ALARM_RATE = 0.03
TRAIN_MACHINES, THRESHOLD_MACHINES = 300, 120
HALVES = [[0, 29], [30, 59]]
EPOCHS, BATCH, LEARNING_RATE = 40, 256, (3e-3, 5e-5)
# (inputs, outputs, kernel = stride) of the encoder: 60 ticks to 20 to 4 to 1. The decoder mirrors it.
LAYERS = ((8, 24, 3), (24, 16, 5), (16, 6, 4))
LITE = (0, 1, 2, 4, 5)
COMPONENTS = 5


def part_means(inputs: int) -> np.ndarray:
    """From a window, flat, to the means of `HALVES`, [WINDOW * inputs, 2 * inputs]."""
    matrix = np.zeros((data.WINDOW, len(HALVES)))
    for part, (first, last) in enumerate(HALVES):
        matrix[data.WINDOW - 1 - last : data.WINDOW - first, part] = 1.0 / (last - first + 1)
    return np.kron(matrix, np.eye(inputs))


def start_weights(rng: np.random.Generator) -> list:
    """Kernel and bias of each layer: [kernel * inputs, outputs] in the encoder, [inputs, kernel * outputs] in the decoder."""
    weights = []
    for inputs, outputs, kernel in LAYERS + tuple((o, i, k) for i, o, k in reversed(LAYERS)):
        is_encoder = len(weights) < 2 * len(LAYERS)
        shape = (kernel * inputs, outputs) if is_encoder else (inputs, kernel * outputs)
        limit = np.sqrt(6.0 / sum(shape))
        weights += [rng.uniform(-limit, limit, shape).astype(np.float32), np.zeros(outputs, np.float32)]
    return weights


def reconstruct(xp, weights: list, x):
    """`x` [window, 60, 8]. Kernel and stride are equal, so a convolution is a product over blocks; `xp` is numpy or jax's."""
    count, depth = x.shape[0], len(LAYERS)
    for layer, (inputs, outputs, kernel) in enumerate(LAYERS):
        blocks = x.reshape(count, -1, kernel * inputs)
        x = xp.tanh(blocks @ weights[2 * layer] + weights[2 * layer + 1])
    for layer, (outputs, inputs, kernel) in enumerate(reversed(LAYERS), depth):
        x = (x @ weights[2 * layer]).reshape(count, -1, outputs) + weights[2 * layer + 1]
        x = x if layer == 2 * depth - 1 else xp.tanh(x)
    return x


def fit(windows: np.ndarray, checkpoints: pathlib.Path | None) -> list:
    import jax
    import jax.numpy as jnp

    def loss(weights, x):
        return ((reconstruct(jnp, weights, x) - x) ** 2).mean()

    @jax.jit
    def step(weights, first, second, x, rate):
        gradients = jax.grad(loss)(weights, x)
        first = [m + 0.1 * (g - m) for m, g in zip(first, gradients)]
        second = [v + 0.001 * (g * g - v) for v, g in zip(second, gradients)]
        return [w - rate * m / (jnp.sqrt(v) + 1e-8) for w, m, v in zip(weights, first, second)], first, second

    weights = start_weights(data.stream("weights"))
    zeros = [np.zeros_like(w) for w in weights]
    state, begin, per_epoch = (weights, zeros, zeros), 0, len(windows) // BATCH
    file = checkpoints / "autoencoder.npz" if checkpoints else None
    if file and file.exists():
        saved = np.load(file)
        begin = int(saved["epoch"])
        state = tuple([saved[f"{part}{index}"] for index in range(len(weights))] for part in "wmv")
        print(f"goes on after epoch {begin}")
    for epoch in range(begin, EPOCHS):
        order = data.stream(f"order of epoch {epoch}").permutation(len(windows))
        for index in range(per_epoch):
            done = epoch * per_epoch + index + 1
            rate = LEARNING_RATE[1] + 0.5 * (LEARNING_RATE[0] - LEARNING_RATE[1]) * (1 + np.cos(np.pi * done / (EPOCHS * per_epoch)))
            rate *= np.sqrt(1.0 - 0.999**done) / (1.0 - 0.9**done)
            state = step(*state, windows[order[index * BATCH : (index + 1) * BATCH]], np.float32(rate))
        if epoch % 5 == 4:
            print(f"epoch {epoch + 1:3d}  loss {float(loss(state[0], windows[:20000])):.5f}", flush=True)
            if file:
                checkpoints.mkdir(parents=True, exist_ok=True)
                arrays = {f"{part}{i}": np.asarray(a) for part, group in zip("wmv", state) for i, a in enumerate(group)}
                np.savez(file.with_suffix(".new.npz"), epoch=epoch + 1, **arrays)
                os.replace(file.with_suffix(".new.npz"), file)
    return [np.asarray(w) for w in state[0]]


def export(weights: list, white: tuple):
    """The ONNX graph: window [1, 60, 8] to score [1]. Written by hand: no exporter of a framework is needed."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    arrays, nodes = {}, [helper.make_node("Transpose", ["window"], ["level_0"], "transpose", perm=[0, 2, 1])]
    value, depth = "level_0", len(LAYERS)
    for layer in range(2 * depth):
        kernel, bias = weights[2 * layer], weights[2 * layer + 1]
        if layer < depth:
            inputs, outputs, width = LAYERS[layer]
            kernel, operator = kernel.reshape(width, inputs, outputs).transpose(2, 1, 0), "Conv"
        else:
            outputs, inputs, width = LAYERS[2 * depth - 1 - layer]
            kernel, operator = kernel.reshape(inputs, width, outputs).transpose(0, 2, 1), "ConvTranspose"
        arrays[f"kernel_{layer}"], arrays[f"bias_{layer}"] = np.ascontiguousarray(kernel), bias
        names = [value, f"kernel_{layer}", f"bias_{layer}"]
        nodes.append(helper.make_node(operator, names, [f"sum_{layer}"], f"convolve_{layer}", kernel_shape=[width], strides=[width]))
        value = f"sum_{layer}"
        if layer < 2 * depth - 1:
            nodes.append(helper.make_node("Tanh", [value], [f"bent_{layer}"], f"tanh_{layer}"))
            value = f"bent_{layer}"
    # The whitening is written for [tick, quantity]; the error here is [quantity, tick].
    order = np.arange(data.WINDOW * 8).reshape(data.WINDOW, 8).T.reshape(-1)
    arrays |= {"whitening": white[0][order], "whitening_bias": white[1], "flat": np.array([1, data.WINDOW * 8], np.int64)}
    nodes += [
        helper.make_node("Sub", ["level_0", value], ["error"], "subtract"),
        helper.make_node("Reshape", ["error", "flat"], ["error_flat"], "flatten"),
        helper.make_node("Gemm", ["error_flat", "whitening", "whitening_bias"], ["white"], "whiten"),
        helper.make_node("Mul", ["white", "white"], ["square"], "square"),
        helper.make_node("ReduceMean", ["square"], ["score"], "mean", axes=[1], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes, "pump-anomaly", [helper.make_tensor_value_info("window", TensorProto.FLOAT, [1, data.WINDOW, 8])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [1])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    proto.producer_name = "quorate-models"
    onnx.checker.check_model(proto, full_check=True)
    return proto


def autoencoder(train: np.ndarray, held: np.ndarray, checkpoints, store) -> None:
    from onnx.reference import ReferenceEvaluator

    mean, scale = data.rounded_statistics(train)
    windows = data.standardised(data.windows_of(train, 8), mean, scale)
    print(f"{len(windows)} windows of {len(train)} healthy machines")
    weights = fit(windows, checkpoints)
    means = (windows - reconstruct(np, weights, windows)).reshape(len(windows), -1).astype(float) @ part_means(8)
    values, vectors = np.linalg.eigh(np.cov(means, rowvar=False))
    root = (vectors / np.sqrt(values)) @ vectors.T
    white = (part_means(8) @ root).astype(np.float32), (-means.mean(axis=0) @ root).astype(np.float32)

    def scores(x: np.ndarray) -> np.ndarray:
        error = (x - reconstruct(np, weights, x)).reshape(len(x), -1)
        return ((error @ white[0] + white[1]) ** 2).mean(axis=1)

    finish("pump-anomaly-v1", "onnx", export(weights, white).SerializeToString(deterministic=True), scores, range(8), held, store, {
        "mean": mean, "scale": scale, "preprocessing": "standardise",
        "meaning": "mean square of the smoothed, whitened reconstruction error, about 1 when healthy",
        "reference": lambda proto: lambda fed: ReferenceEvaluator(proto).run(None, {"window": fed})[0],
    })


def lite(train: np.ndarray, held: np.ndarray, store) -> None:
    columns = list(LITE)
    mean, scale = data.rounded_statistics(train[:, :, columns])
    features = data.pooled(data.standardised(data.windows_of(train[:, :, columns], 8), mean, scale), HALVES).astype(float)
    centre, deviation = features.mean(axis=0), features.std(axis=0)
    values, vectors = np.linalg.eigh(np.cov((features - centre) / deviation, rowvar=False))
    chosen = np.argsort(values)[::-1][:COMPONENTS]
    components, variances = vectors[:, chosen].T, values[chosen]

    def parts(x: np.ndarray) -> tuple:
        z = (data.pooled(x, HALVES) - centre) / deviation
        along = z @ components.T
        return (along**2 / variances).sum(axis=1), ((z - along @ components) ** 2).sum(axis=1)

    calibration = data.stream("lite limits")
    t2, spe = parts(data.standardised(data.windows_of(plant.healthy_fleet(calibration, 80)[:, :, columns], 2), mean, scale))
    limits = [float(f"{np.quantile(part, 1 - FALSE_ALARM_RATE / 2):.5g}") for part in (t2, spe)]
    listed = lambda array: [float(f"{x:.8g}") for x in np.ravel(array)]
    model = {
        "format": 1, "rows": HALVES, "mean": listed(centre), "scale": listed(deviation),
        "components": [listed(row) for row in components], "variances": listed(variances), "t2_limit": limits[0], "spe_limit": limits[1],
    }

    def all_outputs(x: np.ndarray) -> np.ndarray:
        t2, spe = parts(x)
        return np.stack([np.maximum(t2 / limits[0], spe / limits[1]), t2, spe], axis=1)

    finish("pump-anomaly-lite-v1", "pca", json.dumps(model).encode(), all_outputs, columns, held, store, {
        "mean": mean, "scale": scale, "preprocessing": "standardise", "threshold": 1.0,
        "meaning": "the larger of T2 and SPE, each over its limit",
        "more": [{"name": "t2", "meaning": "Hotelling's T2 within the principal components"},
                 {"name": "spe", "meaning": "squared prediction error outside of them"}],
    })


def faults(train: np.ndarray, held: np.ndarray, store) -> None:
    from sklearn.ensemble import GradientBoostingClassifier

    mean, scale = data.rounded_statistics(train)
    sample = [data.windows_of(train[:160], 60)]
    label = [np.zeros(len(sample[0]))]
    for kind in plant.KINDS:
        values, growth, onset = plant.faulty_fleet(data.stream(f"faults {kind.name}"), 32, kind)
        ends, whole = slice(data.WINDOW - 1, None, 40), data.windows_of(values, 40)
        present = (growth >= plant.PRESENT_SEVERITY)[:, ends].reshape(-1)
        before = (np.arange(values.shape[1])[None, :] < onset[:, None])[:, ends].reshape(-1)
        sample.append(whole[present | before])
        label.append(present[present | before].astype(float))
    features = data.pooled(data.standardised(np.concatenate(sample), mean, scale), HALVES).astype(np.float32)
    label = np.concatenate(label)
    print(f"{len(label)} windows, {100 * label.mean():.0f} % with a fault")
    model = GradientBoostingClassifier(n_estimators=120, max_depth=4, learning_rate=0.12, subsample=0.5, random_state=data.SEED % 2**31,
                                       min_samples_leaf=40, max_features=8).fit(features, label)
    share = label.mean()
    trees = []
    for estimator in model.estimators_[:, 0]:
        tree = estimator.tree_
        leaf = tree.children_left < 0
        trees.append({
            "feature": np.where(leaf, -1, tree.feature).tolist(), "left": np.where(leaf, 0, tree.children_left).tolist(),
            "right": np.where(leaf, 0, tree.children_right).tolist(),
            "value": [float(f"{v:.9g}") for v in np.where(leaf, tree.value[:, 0, 0] * model.learning_rate, below(tree.threshold))],
        })
    payload = json.dumps({
        "format": 1, "rows": HALVES, "kind": "boosted", "base": float(np.log(share / (1 - share))), "link": "logistic", "trees": trees,
    }, separators=(",", ":")).encode()
    parsed = json.loads(payload)

    def scores(x: np.ndarray) -> np.ndarray:
        return boosted(parsed, data.pooled(x, HALVES).astype(np.float32))

    assert np.abs(scores(data.standardised(np.concatenate(sample)[:500], mean, scale)) - model.predict_proba(features[:500])[:, 1]).max() < 1e-5
    finish("pump-faults-v1", "forest", payload, scores, range(8), held, store, {
        "mean": mean, "scale": scale, "preprocessing": "standardise",
        "meaning": "probability that a fault of the kinds in train/plant.py is present",
    })


def below(thresholds: np.ndarray) -> np.ndarray:
    """The largest number of 32 bits that is not above: sklearn compares features of 32 bits with thresholds of 64, we with 32."""
    near = thresholds.astype(np.float32)
    return np.where(near > thresholds, np.nextafter(near, np.float32(-np.inf)), near)


def boosted(model: dict, features: np.ndarray) -> np.ndarray:
    """The trees of `model.json` as the runner evaluates them."""
    total, every = np.full(len(features), model["base"]), np.arange(len(features))
    for tree in model["trees"]:
        feature, left, right, value = (np.array(tree[key]) for key in ("feature", "left", "right", "value"))
        node = np.zeros(len(features), int)
        while (inner := feature[node] >= 0).any():
            goes = features[every, np.maximum(feature[node], 0)] <= value[node].astype(np.float32)
            node = np.where(inner, np.where(goes, left[node], right[node]), node)
        total += value[node]
    return 1.0 / (1.0 + np.exp(-total))


def finish(name: str, kind: str, payload: bytes, outputs_of, columns, held: np.ndarray, store, spec: dict) -> None:
    columns = list(columns)
    mean, scale = spec["mean"], spec["scale"]

    def all_outputs(windows: np.ndarray) -> np.ndarray:
        """Of voted values, in slices that fit memory, [window, output]."""
        found = [outputs_of(data.standardised(windows[i : i + 16384][:, :, columns], mean, scale)) for i in range(0, len(windows), 16384)]
        found = np.concatenate(found)
        return found if found.ndim == 2 else found[:, None]

    on_held = all_outputs(data.windows_of(held))
    threshold = spec.get("threshold") or float(f"{np.quantile(on_held[:, 0], 1 - FALSE_ALARM_RATE):.4g}")
    print(f"{name}: healthy score, median {np.median(on_held[:, 0]):.3f}, threshold {threshold}")
    figures = data.judge(lambda windows: all_outputs(windows)[:, 0], threshold, step=2)
    if "reference" in spec:
        import onnx
        golden_of = spec["reference"](onnx.load_from_string(payload))
    else:
        golden_of = lambda fed: np.atleast_2d(outputs_of(fed).reshape(1, -1))[0]
    more = spec.get("more", [])
    names = ["score"] + [output["name"] for output in more]
    vectors = data.golden(golden_of, columns, mean, scale)
    data.write(name, kind, payload, vectors, {
        "script": "train_pump.py", "columns": columns, "mean": mean, "scale": scale, "preprocessing": spec["preprocessing"],
        "outputs": [{"name": "score", "meaning": spec["meaning"], "threshold": threshold}, *more],
        "drift": data.drift_of(held, columns, {names[i]: on_held[:, i] for i in range(len(names))}),
        "data": f"{TRAIN_MACHINES} healthy machines of the simulator train/plant.py, {plant.TICKS} s each"
                + (" (half of them), and 32 for each of its faults" if kind == "forest" else "")
                + f"; threshold from {THRESHOLD_MACHINES} others; figures from {data.HELD_OUT_HEALTHY} healthy and "
                f"{data.HELD_OUT_FAULTY * len(plant.KINDS)} faulty others",
        "figures": figures,
    }, store)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("which", nargs="*", default=["autoencoder", "lite", "faults"])
    parser.add_argument("--store", type=pathlib.Path, default=data.STORE)
    parser.add_argument("--checkpoints", type=pathlib.Path, help="folder in which an interrupted training goes on")
    options = parser.parse_args()
    train = plant.healthy_fleet(data.stream("train"), TRAIN_MACHINES)
    held = plant.healthy_fleet(data.stream("threshold"), THRESHOLD_MACHINES)
    for which in options.which:
        if which == "autoencoder":
            autoencoder(train, held, options.checkpoints, options.store)
        else:
            {"lite": lite, "faults": faults}[which](train, held, options.store)


if __name__ == "__main__":
    main()
