#!/usr/bin/env python3
"""Damages a filled store at random places and counts what `quorate outbox` still shows, says or silently loses.

usage: tests/rigs/bit_rot.py --binary target/release/quorate [--flips N] [--records N] [--seed N] [--first stat|list]
           [--only KIND] [--keep DIR]
needs: Linux. Python's own library only. With root the copies lie in memory.

For each of --flips: a copy of the store, one damage (a flipped bit, a 4 KiB block of zeros or of garbage, a truncation, a
missing file) at a random place of a random file, the small ones as often as the large ones; then `stat`, `list` (with
--first list: `list`, `stat`), `append`, `list`, `stat`. A record that is missing must lie in the damaged place and be
named, as a number or a range, by a finding of `stat`, on standard error, or in an event record of the list.

Prints a table, kind of damage by outcome, one line per failure (with what repeats it), and a summary in JSON. Exit 1 on a
panic, a signal, a hang, a refusal, a silent loss, a loss beyond the damaged place, or a number that names two payloads.
"""
import argparse, collections, json, os, random, shutil, tempfile, time

import rig

BLOCK = 4096
OUTCOMES = ("intact", "lost, reported", "lost silently", "lost elsewhere", "refused", "panicked", "two names")
# A record may be stored with so many bytes around its body.
AROUND = 256


def fill(binary, store, records, rng):
    """A store as a long outage leaves it: several runs, the last one killed. Gives body -> seq."""
    bodies, acked = rig.Bodies(rng, "r", 0.002), {}
    for share in (0.2, 0.5, 0.3):
        lines = bodies.take(max(1, int(records * share)))
        append = rig.Append(binary, store)
        append.feed(lines)
        append.settle()
        append.end(kill=share == 0.3)
        acked.update((body, seq) for seq, body in append.acked.items())
    return acked


class Map:
    """Where every body lies in the store's files, as far as it lies there as it is."""

    def __init__(self, store, acked):
        self.files, self.places = {}, collections.defaultdict(list)
        for folder, _, names in os.walk(store):
            for name in names:
                path = os.path.join(folder, name)
                with open(path, "rb") as file:
                    data = file.read()
                relative = os.path.relpath(path, store)
                self.files[relative] = len(data)
                for match in rig.BODY.finditer(data):
                    if match[0].decode() in acked:
                        self.places[match[0].decode()].append((relative, match.start(), match.end()))
        self.unknown = [body for body in acked if body not in self.places]

    def at(self, name, first, last):
        """The bodies of which any copy touches these bytes."""
        return {body for body, places in self.places.items()
                if any(file == name and start - AROUND < last and first < end + AROUND for file, start, end in places)}


def damage(store, files, rng, only):
    """Does one damage; gives its kind, its words, its file and the bytes that it touched."""
    name = rng.choice(sorted(files))
    if rng.random() < 0.5:
        name = rng.choices(sorted(files), [files[it] + 1 for it in sorted(files)])[0]
    path, size = os.path.join(store, name), files[name]
    kind = only or rng.choices(("flip", "zeros", "garbage", "truncate", "missing"), (10, 3, 3, 3, 1))[0]
    if kind == "missing" or size == 0:
        os.remove(path)
        return "missing", f"{name} removed", name, 0, size
    if kind == "truncate":
        keep = rng.randrange(size)
        os.truncate(path, keep)
        return kind, f"{name} cut to {keep} of {size}", name, keep, size
    with open(path, "r+b") as file:
        if kind == "flip":
            place, bit = rng.randrange(size), rng.randrange(8)
            file.seek(place)
            byte = file.read(1)[0]
            file.seek(place)
            file.write(bytes([byte ^ 1 << bit]))
            return kind, f"{name} byte {place} bit {bit}", name, place, place + 1
        place = rng.randrange(size) // BLOCK * BLOCK
        length = min(BLOCK, size - place)
        file.seek(place)
        file.write(bytes(length) if kind == "zeros" else rng.randbytes(length))
        return kind, f"{name} bytes {place}..{place + length}", name, place, place + length


def judge(binary, store, first, acked, allowed, names, bodies):
    """Gives the outcome and its words. `names`: what the undamaged store called its records."""
    verbs = ("stat", "list") if first == "stat" else ("list", "stat")
    history, texts, shown = rig.History(), [], None
    history.names = dict(names)
    for step in (*verbs, "append", "list", "stat"):
        lines = bodies.take(2) if step == "append" else ()
        ran = rig.outbox(binary, step, store, lines)
        if ran.bad:
            return "panicked", f"{step}: {ran.bad}"
        if ran.status != 0:
            return "refused", f"{step}: {ran.why()}"
        texts.append(ran.stderr)
        if step == "stat":
            texts += json.loads(ran.stdout).get("findings", [])
        elif step == "append":
            history.acknowledge(rig.acknowledged(ran, lines))
        else:
            records = rig.listed(ran)
            wrong = history.check(records)
            if wrong:
                return "two names", f"{step}: {wrong[0]}"
            texts += [body for _, _, body in records if body.startswith("{")]
            shown = {body: seq for _, seq, body in records} if shown is None else shown
    ranges = rig.reported(texts)
    missing = {body: seq for body, seq in acked.items() if shown.get(body) != seq}
    silent = [seq for seq in missing.values() if not any(low <= seq <= high for low, high in ranges)]
    if silent:
        return "lost silently", f"{len(silent)} of {len(missing)} missing are named nowhere, first {silent[0]}"
    beyond = [seq for body, seq in missing.items() if body not in allowed]
    if beyond:
        return "lost elsewhere", f"{len(beyond)} of {len(missing)} missing are not at the damage, first {min(beyond)}"
    return ("lost, reported", f"{len(missing)}") if missing else ("intact", "")


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--binary", required=True)
    arguments.add_argument("--flips", type=int, default=500)
    arguments.add_argument("--records", type=int, default=3_000)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--first", choices=("stat", "list"), default="stat")
    arguments.add_argument("--only", choices=("flip", "zeros", "garbage", "truncate", "missing"))
    arguments.add_argument("--keep", help="a folder for the damaged stores of failures")
    a = arguments.parse_args()
    print(f"seed {a.seed}", flush=True)
    started, rng = time.monotonic(), random.Random(a.seed)
    if os.geteuid() == 0:
        rig.own_mounts()
    table, lost, failures = collections.Counter(), collections.Counter(), 0
    with (rig.Scratch if os.geteuid() == 0 else tempfile.TemporaryDirectory)() as folder:
        acked = fill(a.binary, f"{folder}/store", a.records, rng)
        places = Map(f"{folder}/store", acked)
        shutil.copytree(f"{folder}/store", f"{folder}/reference")
        names = {(epoch, seq): body for epoch, seq, body in rig.listed(rig.outbox(a.binary, "list", f"{folder}/reference"))}
        print(f"{len(acked)} records in {len(places.files)} files of {sum(places.files.values())} bytes; "
              f"{len(places.unknown)} are not stored as they are", flush=True)
        for number in range(a.flips):
            copy = f"{folder}/{number}"
            shutil.copytree(f"{folder}/store", copy)
            flip = random.Random(f"{a.seed}.{number}")
            kind, words, name, first, last = damage(copy, places.files, flip, a.only)
            allowed = places.at(name, first, last) | set(places.unknown)
            if a.keep:
                shutil.copytree(copy, f"{folder}/damaged")
            outcome, why = judge(a.binary, copy, a.first, acked, allowed, names, rig.Bodies(flip, f"n{number}"))
            table[kind, outcome] += 1
            if outcome == "lost, reported":
                lost[kind] += int(why)
            elif outcome != "intact":
                failures += 1
                print(f"flip {number}: {words}: {outcome}: {why}", flush=True)
                if a.keep:
                    shutil.copytree(f"{folder}/damaged", f"{a.keep}/{a.seed}-{number}", dirs_exist_ok=True)
            shutil.rmtree(f"{folder}/damaged", ignore_errors=True)
            for left in (it for it in os.listdir(folder) if it != "store"):
                shutil.rmtree(f"{folder}/{left}")
    kinds = sorted({kind for kind, _ in table})
    print("kind      " + "".join(f"{outcome:>16}" for outcome in OUTCOMES) + "    records lost, reported")
    for kind in kinds:
        print(f"{kind:10}" + "".join(f"{table[kind, outcome]:16}" for outcome in OUTCOMES) + f"    {lost[kind]}")
    rig.summary("bit_rot", failures, seed=a.seed, records=len(acked), damages=a.flips, first=a.first,
                outcomes={outcome: sum(table[kind, outcome] for kind in kinds) for outcome in OUTCOMES},
                seconds=round(time.monotonic() - started, 1))


if __name__ == "__main__":
    main()
