#!/usr/bin/env python3
"""Memory, processor time and start of an agent with the shipped model at 1 Hz on three voted quantities.

usage: tests/boards/footprint.py --binary BINARY [--seconds 600] [--without sensors|model] [--environment NAME=VALUE ...]

Runs `quorate run` with nine simulated sensors on this machine, without a broker, on a store in a temporary folder. Prints PSS
(/proc/PID/smaps_rollup: private pages, and of shared ones this process's share), its parts by mapping, processor time from
the middle to the end, and the time from exec to the first record that is durable.
"""
import argparse, json, os, re, signal, subprocess, sys, tempfile, time, urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, f"{HERE}/../rigs")
import rig

QUANTITIES = (("bearing-temperature", "celsius", 35.0, 1.0), ("vibration-rms", "mm/s", 1.64, 0.05), ("motor-current", "A", 10.0, 0.3))


def configuration(folder, port, without):
    text = f'[device]\nid = "footprint"\n[outbox]\npath = "{folder}/outbox"\n[http]\nlisten = "127.0.0.1:{port}"\n'
    if without == "sensors":
        return text
    for quantity, unit, base, noise in QUANTITIES:
        for seed, letter in enumerate("abc"):
            text += (f'[[sensors]]\nid = "{quantity}-{letter}"\nsource = {{ kind = "simulated", base = {base}, amplitude = {noise}, '
                     f'noise = {noise / 4}, seed = {seed} }}\n')
        text += f'[[quantities]]\nid = "{quantity}"\nunit = "{unit}"\nsensors = ["{quantity}-a", "{quantity}-b", "{quantity}-c"]\n'
    if without != "model":
        names = ", ".join(f'"{quantity[0]}"' for quantity in QUANTITIES)
        text += (f'[[models]]\nid = "bearing-anomaly"\nbundle = "{os.path.abspath(HERE + "/../../models/store/bearing-anomaly-v1")}"\n'
                 f'inputs = [{names}]\n')
    return text


def rollup(pid, key):
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return int(re.search(rf"^{key}:\s+(\d+) kB", file.read(), re.MULTILINE)[1]) / 1024


def parts(pid, binary):
    """PSS in MiB: code and constants, writable data of the file, heap of the main arena, other anonymous, stacks, libraries."""
    sums, kind = {}, None
    with open(f"/proc/{pid}/smaps") as file:
        for line in file:
            head = re.match(r"[0-9a-f]+-[0-9a-f]+ (\S+) \S+ \S+ \S+\s*(.*)", line)
            if head:
                mode, name = head[1], head[2]
                own = os.path.basename(name) == os.path.basename(binary)
                kind = ("binary, read-only" if own and "w" not in mode else "binary, data" if own else "heap" if name == "[heap]" else
                        "stack of main" if name == "[stack]" else "anonymous" if not name else "libraries" if ".so" in name else "other")
            elif line.startswith("Pss:"):
                sums[kind] = sums.get(kind, 0) + int(line.split()[1]) / 1024
    return {kind: round(size, 2) for kind, size in sums.items() if size >= 0.005}


def cpu_s(pid):
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def first_record_ms(binary, configuration_path, port):
    """From exec until the endpoint says that a record is on the medium."""
    began = time.monotonic()
    process = subprocess.Popen([binary, "run", "--config", configuration_path], stderr=subprocess.DEVNULL)
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/status", timeout=1) as answer:
                status = json.load(answer)
            if status["counters"]["records_stored"] > 0:
                return process, (time.monotonic() - began) * 1000
        except (OSError, KeyError, ValueError):
            pass
        if process.poll() is not None:
            sys.exit(f"the agent ended with {process.returncode}")
        time.sleep(0.005)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--binary", required=True)
    arguments.add_argument("--seconds", type=float, default=600)
    arguments.add_argument("--without", choices=("sensors", "model"))
    arguments.add_argument("--environment", nargs="*", default=[])
    a = arguments.parse_args()
    os.environ.update(pair.split("=", 1) for pair in a.environment)
    with tempfile.TemporaryDirectory() as folder:
        port = rig.free_port()
        path = f"{folder}/quorate.toml"
        with open(path, "w") as file:
            file.write(configuration(folder, port, a.without))
        if a.without == "sensors":
            process, first_ms = subprocess.Popen([a.binary, "run", "--config", path], stderr=subprocess.DEVNULL), None
        else:
            process, first_ms = first_record_ms(a.binary, path, port)
        try:
            time.sleep(a.seconds / 2)         # the time is what is measured
            half, at = cpu_s(process.pid), time.monotonic()
            time.sleep(a.seconds / 2)
            busy = (cpu_s(process.pid) - half) / (time.monotonic() - at)
            if process.poll() is not None:
                sys.exit(f"the agent ended with {process.returncode}")
            print(json.dumps({
                "pss_mib": round(rollup(process.pid, "Pss"), 2), "rss_mib": round(rollup(process.pid, "Rss"), 2),
                "private_dirty_mib": round(rollup(process.pid, "Private_Dirty"), 2), "parts_mib": parts(process.pid, a.binary),
                "threads": len(os.listdir(f"/proc/{process.pid}/task")), "cpu_percent": round(busy * 100, 3),
                "first_record_ms": first_ms and round(first_ms), "seconds": a.seconds, "without": a.without}))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


if __name__ == "__main__":
    main()
