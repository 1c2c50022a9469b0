#!/usr/bin/env python3
"""Gives `quorate model check` mutated model files: the process that tries them may die, `quorate` itself may not.

usage: tests/rigs/model_mutants.py --binary target/debug/quorate [--mutants N] [--jobs N] [--seed N] [BUNDLE...]
needs: Python's own library only.

Each mutant is a bundle whose payload (`model.onnx` or `model.json`), golden vectors or manifest was changed, with digest and
length in the manifest made right again, so that it passes every check of being whole and reaches what reads it. A third of
the mutants are `.qmodel` files with a right header. Kinds: one to eight bytes changed, cut short, and changes of structure:
a field of the protobuf (or a value of the JSON) deleted, doubled, swapped, set to an awkward number or text.

A death is: `quorate` ends by a signal, with a status that is not 0, 1 or 2, says `panicked` on its standard error, or does not
end in time. A mutant that is accepted must give its golden vectors: that is what accepted means, and the share is printed.

Prints the causes counted and a summary in JSON. Exit 1 on a death.
"""
import argparse, collections, concurrent.futures, hashlib, json, os, random, re, shutil, struct, subprocess, sys, tempfile, time

HERE = os.path.dirname(os.path.abspath(__file__))
STORE = os.path.join(HERE, "../../models/store")
NUMBERS = (0, 1, 2, 3, 7, 16, 127, 128, 255, 65535, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 40, (1 << 63) - 1,
           1 << 63, (1 << 64) - 1)
TEXTS = (b"", b"window", b"score", b"Add", b"Conv", b"Loop", b"LSTM", b"Gather", b"Reshape", b"Concat", b"Expand", b"\xff\xfe",
         b"x" * 70000)
JSON_VALUES = (None, -1, 0, 1, 2 ** 31, 2 ** 63, 1e308, -1e308, 1e-320, "x", [], {}, True, [[]], 0.5)


def varint(value):
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes([value])


def read_varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        value, at, shift = value | (byte & 0x7F) << shift, at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError("varint")


def parse(data, depth=0):
    """A message as a list of [field, wire type, value]; a value that is a message itself is such a list."""
    fields, at = [], 0
    while at < len(data):
        key, at = read_varint(data, at)
        field, kind = key >> 3, key & 7
        if field == 0:
            raise ValueError("field 0")
        if kind == 0:
            value, at = read_varint(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            value, at = data[at:at + size], at + size
        elif kind == 2:
            size, at = read_varint(data, at)
            value, at = data[at:at + size], at + size
            if len(value) != size:
                raise ValueError("cut")
            if depth < 6 and 2 <= size < 200_000 and not value.isascii():
                try:
                    value = parse(value, depth + 1)
                except (ValueError, IndexError):
                    pass
            elif depth < 6 and 2 <= size and any(byte < 32 for byte in value):
                try:
                    value = parse(value, depth + 1)
                except (ValueError, IndexError):
                    pass
        else:
            raise ValueError("wire type")
        if at > len(data):
            raise ValueError("cut")
        fields.append([field, kind, value])
    return fields


def encode(fields):
    out = bytearray()
    for field, kind, value in fields:
        out += varint(field << 3 | kind)
        if kind == 0:
            out += varint(value)
        elif kind == 2:
            body = encode(value) if isinstance(value, list) else value
            out += varint(len(body)) + body
        else:
            out += value
    return bytes(out)


def copied(fields):
    return [[field, kind, copied(value) if isinstance(value, list) else value] for field, kind, value in fields]


def lists_of(fields):
    yield fields
    for field in fields:
        if isinstance(field[2], list):
            yield from lists_of(field[2])


def mutate_fields(dice, fields):
    places = [place for place in lists_of(fields) if place]
    place = dice.choice(places)
    index = dice.randrange(len(place))
    field = place[index]
    deed = dice.randrange(6)
    if deed == 0:
        del place[index]
    elif deed == 1:
        place.insert(dice.randrange(len(place) + 1), copied([field])[0])
    elif deed == 2:
        other = dice.randrange(len(place))
        place[index], place[other] = place[other], place[index]
    elif deed == 3:
        other = dice.choice(dice.choice(places))
        field[1], field[2] = other[1], copied([other])[0][2]
    elif field[1] == 0:
        field[2] = dice.choice(NUMBERS) if deed == 4 else max(0, field[2] + dice.choice((-2, -1, 1, 2)))
    elif field[1] == 2 and not isinstance(field[2], list):
        field[2] = dice.choice(TEXTS) if deed == 4 else flip(dice, field[2])
    elif field[1] == 2:
        field[0] = dice.randrange(1, 32)
    else:
        field[2] = bytes(dice.randrange(256) for _ in field[2])


def json_places(value, out):
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        out.append((value, key))
        json_places(item, out)
    return out


def mutate_json(dice, text):
    value = json.loads(text)
    for _ in range(dice.choice((1, 1, 1, 2, 4))):
        places = json_places(value, [])
        if not places:
            break
        holder, key = dice.choice(places)
        deed = dice.randrange(5)
        if deed == 0:
            del holder[key]
        elif deed == 1 and isinstance(holder, list):
            holder.insert(key, holder[key])
        elif deed == 2 and isinstance(holder[key], (int, float)):
            holder[key] = holder[key] + dice.choice((-1, 1, 1000, 1e30))
        elif deed == 3 and isinstance(holder, dict):
            holder[key + "x"] = holder[key]
        else:
            holder[key] = dice.choice(JSON_VALUES)
    return json.dumps(value).encode()


def flip(dice, data):
    data = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 8))):
        if data:
            data[dice.randrange(len(data))] = dice.randrange(256)
    return bytes(data)


def cut(dice, data):
    return data[:dice.randrange(len(data))] if data else data


class Base:
    def __init__(self, folder):
        self.name = os.path.basename(folder.rstrip("/"))
        self.payload_name = "model.onnx" if os.path.exists(f"{folder}/model.onnx") else "model.json"
        read = lambda name: open(f"{folder}/{name}", "rb").read()
        self.manifest, self.payload, self.golden = read("manifest.toml"), read(self.payload_name), read("golden.json")
        self.fields = parse(self.payload) if self.payload_name == "model.onnx" else None

    def mutant(self, dice):
        kind = dice.choices(("bytes", "cut", "structure", "golden", "manifest"), (20, 5, 65, 5, 5))[0]
        manifest, payload, golden = self.manifest, self.payload, self.golden
        if kind == "bytes":
            payload = flip(dice, payload)
        elif kind == "cut":
            payload = cut(dice, payload)
        elif kind == "golden":
            golden = dice.choice((flip, cut, lambda dice, data: mutate_json(dice, data)))(dice, golden)
        elif kind == "manifest":
            lines = manifest.split(b"\n")
            line = dice.randrange(len(lines))
            lines[line] = dice.choice((b"", flip(dice, lines[line]), re.sub(rb"-?\d+(\.\d+)?", lambda _: str(
                dice.choice(NUMBERS)).encode(), lines[line]), lines[line] + b"\n" + lines[line]))
            manifest = b"\n".join(lines)
        elif self.fields is None:
            payload = mutate_json(dice, payload)
        else:
            fields = copied(self.fields)
            for _ in range(dice.choice((1, 1, 1, 2, 4))):
                mutate_fields(dice, fields)
            payload = encode(fields)
        manifest = re.sub(rb'^((?:onnx|model)_sha256 = )"\w+"', lambda m: m[1] + b'"' + hashlib.sha256(payload).hexdigest().encode() + b'"',
                          manifest, flags=re.M)
        if kind != "manifest":
            manifest = re.sub(rb"^((?:onnx|model)_bytes = )\d+", lambda m: m[1] + str(len(payload)).encode(), manifest, flags=re.M)
        return kind, manifest, payload, golden


def packed(parts):
    """The file with a right header and no right signature: `model check` without a configuration says so and goes on."""
    table = b"".join(struct.pack("<Q", len(part)) + hashlib.sha256(part).digest() for part in parts)
    return b"QRmodel1" + b"mutant".ljust(64, b"\0") + table + bytes(64) + b"".join(parts)


def tried(arguments):
    binary, base, seed, number, scratch = arguments
    dice = random.Random(f"{seed}-{number}")
    kind, manifest, payload, golden = base.mutant(dice)
    folder = tempfile.mkdtemp(dir=scratch)
    try:
        if dice.randrange(3) == 0:
            path = f"{folder}/m.qmodel"
            open(path, "wb").write(packed((manifest, payload, golden)))
        else:
            path = folder
            for name, data in (("manifest.toml", manifest), (base.payload_name, payload), ("golden.json", golden)):
                open(f"{folder}/{name}", "wb").write(data)
        try:
            ran = subprocess.run([binary, "model", "check", path], capture_output=True, timeout=150, errors="replace", text=True)
        except subprocess.TimeoutExpired:
            return kind, "HUNG", f"mutant {number} of {base.name}"
        said = ran.stderr.strip().splitlines()
        if ran.returncode not in (0, 1, 2) or any("panicked at" in line for line in said):
            return kind, "DIED", f"mutant {number} of {base.name}: status {ran.returncode}: {said[-1:]}"
        if ran.returncode == 0:
            return kind, "accepted", ""
        last = said[-1] if said else ""
        found = re.search(r"does not pass: ([a-z-]+):", last)
        return kind, found[1] if found else "refused before it is loaded", ""
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", required=True)
    parser.add_argument("--mutants", type=int, default=1_000)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("bundles", nargs="*")
    options = parser.parse_args()
    binary, started = os.path.abspath(options.binary), time.monotonic()
    bases = [Base(bundle) for bundle in options.bundles or sorted(os.path.join(STORE, name) for name in os.listdir(STORE))]
    counts, kinds, failures = collections.Counter(), collections.Counter(), []
    shared = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=shared) as scratch, concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        work = ((binary, bases[number % len(bases)], options.seed, number, scratch) for number in range(options.mutants))
        done = 0
        while batch := [job for _, job in zip(range(64 * options.jobs), work)]:
            for kind, cause, detail in pool.map(tried, batch):
                counts[cause] += 1
                kinds[kind] += 1
                if cause in ("DIED", "HUNG"):
                    failures.append(detail)
                    print(detail, flush=True)
            done += len(batch)
            if done // 5_000 != (done - len(batch)) // 5_000:
                print(f"{done} mutants, {time.monotonic() - started:.0f} s: {dict(counts.most_common())}", flush=True)
    for cause, count in counts.most_common():
        print(f"{count:8d}  {cause}")
    print(json.dumps({"rig": "model_mutants", "mutants": options.mutants, "kinds": dict(kinds), "causes": dict(counts),
                      "failures": len(failures), "seconds": round(time.monotonic() - started)}))
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
