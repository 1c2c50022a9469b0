#!/usr/bin/env python3
"""The agent against brokers that others made: each takes the same backlog while it is killed and frozen now and then.

usage: tests/rigs/real_brokers.py --binary target/release/quorate [--broker NAME] [--records N] [--kills N] [--stops N] [--strict]
needs: mosquitto, openssl; ejabberd (Debian) and rumqttd (cargo install) each for its own part, which is left out with a word
otherwise, or fails with --strict.

mosquitto   TLS, user name and password, and an ACL that lets the device publish below its own topic alone
ejabberd    MQTT 5, plain
rumqttd     MQTT 5, plain

The agent is killed, and the broker stopped with SIGSTOP, while records flow; a subscriber with a session of its own hears
them. Nothing is lost between store and subscriber and no number names two payloads. Against mosquitto, three wrong
configurations (a wrong password, a certificate of another authority, a topic that the ACL forbids) each show their cause
in the status within seconds, and lose nothing.
"""
import argparse, json, os, random, signal, subprocess, sys, tempfile, time

import rig
from kill_mosquitto import Received, wait

SECRET = "correct horse"


class Mosquitto:
    secure = True

    def __init__(self, folder):
        rig.need("mosquitto", "mosquitto_passwd", "openssl")
        self.folder, self.port = folder, rig.free_port()
        rig.Authority(folder).issue("server")
        rig.Authority(folder, "other")
        write(f"{folder}/passwords", f"device:{SECRET}\nlistener:{SECRET}\n")
        subprocess.run(["mosquitto_passwd", "-U", f"{folder}/passwords"], check=True)
        write(f"{folder}/acl", "user device\ntopic readwrite quorate/rig/#\nuser listener\ntopic read quorate/rig/#\n")
        write(f"{folder}/secret", SECRET + "\n")
        write(f"{folder}/wrong", "wrong\n")
        write(f"{folder}/mosquitto.conf", f"listener {self.port} 127.0.0.1\ncafile {folder}/ca.pem\ncertfile {folder}/server.pem\nkeyfile {folder}/server.key\n"
              f"password_file {folder}/passwords\nacl_file {folder}/acl\nmax_queued_messages 0\nset_tcp_nodelay true\n")
        for name in os.listdir(folder):
            os.chmod(f"{folder}/{name}", 0o644)
        self.url, self.settings = f"mqtts://localhost:{self.port}", f'ca_file = "{folder}/ca.pem"\nusername = "device"\npassword_file = "{folder}/secret"\n'
        self.listening = ["-h", "localhost", "--cafile", f"{folder}/ca.pem", "-u", "listener", "-P", SECRET]

    def start(self, log):
        self.process = subprocess.Popen(["mosquitto", "-c", f"{self.folder}/mosquitto.conf"], stdout=log, stderr=log)
        return [self.process.pid]

    def stop(self):
        self.process.kill()


class Ejabberd:
    secure = False

    def __init__(self, folder):
        rig.need("ejabberdctl")
        if os.geteuid() != 0:
            rig.skip("ejabberd's script wants root or its own user")
        self.port, self.folder = rig.free_port(), f"{folder}/ejabberd"
        os.mkdir(self.folder)
        write(f"{self.folder}/ejabberd.yml", "hosts: [localhost]\nloglevel: warning\nauth_method: [anonymous]\nallow_multiple_connections: true\nanonymous_protocol: login_anon\n"
              f"listen:\n  - port: {self.port}\n    ip: \"127.0.0.1\"\n    module: mod_mqtt\nmodules:\n  mod_mqtt:\n    max_queue: unlimited\n")
        for name in ("spool", "logs"):
            os.mkdir(f"{self.folder}/{name}")
        write(f"{self.folder}/inetrc", "")
        write(f"{self.folder}/ctl.cfg", "ERL_OPTIONS=\"\"\n")
        subprocess.run(["chown", "-R", "ejabberd", self.folder], check=True)
        self.node = f"rig{os.getpid()}@localhost"
        self.url, self.settings = f"mqtt://127.0.0.1:{self.port}", f'username = "device@localhost"\npassword_file = "{self.folder}/secret"\n'
        write(f"{self.folder}/secret", SECRET + "\n")
        self.listening = ["-h", "127.0.0.1", "-u", "listener@localhost", "-P", SECRET]

    def start(self, log):
        subprocess.Popen(["ejabberdctl", "--config-dir", self.folder, "--config", f"{self.folder}/ejabberd.yml", "--ctl-config", f"{self.folder}/ctl.cfg",
                          "--spool", f"{self.folder}/spool", "--logs", f"{self.folder}/logs", "--node", self.node, "foreground"], stdout=log, stderr=log, start_new_session=True)
        wait("ejabberd's process", self.pids)
        return self.pids

    def pids(self):
        found = subprocess.run(["pgrep", "-f", f"beam.*{self.node}"], capture_output=True, text=True).stdout.split()
        return [int(pid) for pid in found]

    def stop(self):
        for pid in self.pids():
            os.kill(pid, signal.SIGKILL)


class Rumqttd:
    secure = False

    def __init__(self, folder):
        rig.need("rumqttd")
        self.port, self.folder = rig.free_port(), folder
        write(f"{folder}/rumqttd.toml", f"""id = 0
[router]
id = 0
max_connections = 64
max_outgoing_packet_count = 200
max_segment_size = 104857600
max_segment_count = 10
[v5.1]
name = "v5"
listen = "127.0.0.1:{self.port}"
next_connection_delay_ms = 1
[v5.1.connections]
connection_timeout_ms = 60000
max_payload_size = 1048576
max_inflight_count = 100
dynamic_filters = true
""")
        self.url, self.settings, self.listening = f"mqtt://127.0.0.1:{self.port}", "", ["-h", "127.0.0.1"]

    def start(self, log):
        self.process = subprocess.Popen(["rumqttd", "--config", f"{self.folder}/rumqttd.toml"], stdout=log, stderr=log)
        return [self.process.pid]

    def stop(self):
        self.process.kill()


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def configuration(folder, broker, endpoint, **changed):
    settings = broker.settings
    for name, value in changed.items():
        lines = [line for line in settings.splitlines() if not line.startswith(f"{name} =")]
        settings = "\n".join([*lines, f'{name} = "{value}"', ""])
    write(f"{folder}/quorate.toml", f'[device]\nid = "rig"\n[outbox]\npath = "{folder}/outbox"\n[http]\nlisten = "127.0.0.1:{endpoint}"\n[mqtt]\nurl = "{broker.url}"\n{settings}'
          'compression = "none"\nkeep_alive_s = 5\nack_timeout_ms = 3000\nfirst_retry_ms_max = 200\nbackoff_ms_min = 100\nbackoff_ms_max = 1000\n'
          'batch_records_max = 20\n')


def feed(binary, folder, numbers):
    lines = "".join(f'{{"n":{n}}}\n' for n in numbers)
    subprocess.run([binary, "outbox", "append", "--path", f"{folder}/outbox"], input=lines, text=True, check=True, stdout=subprocess.DEVNULL)


def status(binary, endpoint):
    done = subprocess.run([binary, "status", "--json", "--address", f"127.0.0.1:{endpoint}"], capture_output=True, text=True)
    try:
        return json.loads(done.stdout)
    except ValueError:
        return {}


def wrong(a, folder, broker, endpoint, log, failures):
    """Three configurations that cannot work, each with the cause that must be shown."""
    for changed, causes in (({"password_file": f"{folder}/wrong"}, ("not-authorised",)), ({"ca_file": f"{folder}/other.pem"}, ("tls", "certificate")), ({"topic": "quorate/elsewhere"}, ("refused", "not-authorised"))):
        configuration(folder, broker, endpoint, **changed)
        agent = subprocess.Popen([a.binary, "run", "--config", f"{folder}/quorate.toml"], stdout=log, stderr=log)
        shown = lambda: any(cause in json.dumps([status(a.binary, endpoint).get(part) for part in ("link", "outbox", "store", "delivery")]) for cause in causes)
        refused = lambda: "topic" in changed and status(a.binary, endpoint).get("counters", {}).get("records_acked", 1) == 0
        try:
            wait(f"the cause of {changed}", lambda: shown() or refused(), 30)
        except SystemExit as late:
            failures.append(f"{late}: {json.dumps(status(a.binary, endpoint).get('link'))}")
        agent.kill(); agent.wait()


def run(a, name, kind, failures):
    rng, endpoint = random.Random(a.seed), rig.free_port()
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        log = open(f"{folder}/log", "w")
        broker = kind(folder)
        pids = broker.start(log)
        try:
            wait(name, lambda: rig.listens(broker.port))
            listener = subprocess.Popen(["mosquitto_sub", *broker.listening, "-p", str(broker.port), "-V", "mqttv5", "-q", "1", "-c", "-i", "listener", "-x", "600", "-k", "600",
                                         "-t", "quorate/rig/data", "-F", "%p"], stdout=subprocess.PIPE, stderr=log, text=True)
            received = Received(listener.stdout)
            feed(a.binary, folder, range(1, 201))
            if broker.secure:
                wrong(a, folder, broker, endpoint, log, failures)
            configuration(folder, broker, endpoint)
            agent = subprocess.Popen([a.binary, "run", "--config", f"{folder}/quorate.toml"], stdout=log, stderr=log)
            deeds, fed = ["kill"] * a.kills + ["stop"] * a.stops, 200
            rng.shuffle(deeds)
            for deed in deeds:
                before = received.count()
                agent.send_signal(signal.SIGTERM); agent.wait(60)
                feed(a.binary, folder, range(fed + 1, fed + a.records + 1))
                fed += a.records
                agent = subprocess.Popen([a.binary, "run", "--config", f"{folder}/quorate.toml"], stdout=log, stderr=log)
                wait(f"records after {before}", lambda: received.count() > before + rng.randint(1, 40), 60)
                if deed == "kill":
                    agent.kill(); agent.wait()
                    agent = subprocess.Popen([a.binary, "run", "--config", f"{folder}/quorate.toml"], stdout=log, stderr=log)
                else:
                    stopped = pids() if callable(pids) else pids
                    for pid in stopped:
                        os.kill(pid, signal.SIGSTOP)
                    time.sleep(5)              # the stop itself: longer than ack_timeout_ms
                    for pid in stopped:
                        os.kill(pid, signal.SIGCONT)
            bodies = lambda: received.count() >= fed
            wait(f"{fed} records", bodies, 120)
            agent.send_signal(signal.SIGTERM)
            agent.wait(60)
            listing = subprocess.run([a.binary, "outbox", "list", "--path", f"{folder}/outbox"], capture_output=True, text=True, check=True).stdout
            stat = json.loads(subprocess.run([a.binary, "outbox", "stat", "--path", f"{folder}/outbox"], capture_output=True, text=True, check=True).stdout)
            time.sleep(1)                      # what the broker still holds for the subscriber
            kept = {json.loads(line)["seq"] for line in listing.splitlines()}
            lost = [seq for seq in range(1, stat["seq_next"]) if (stat["epoch"], seq) not in received.seen and seq not in kept]
            if lost or received.conflicts:
                failures.append(f"{name}: lost {lost[:10]}, payloads that differ {received.conflicts}")
            print(f"{name}: committed {stat['seq_next'] - 1}, received {len(received.seen)}, in the store {len(kept)}, repeats {received.repeats}, lost {len(lost)}", flush=True)
            if SECRET in open(f"{folder}/log").read():
                failures.append(f"{name}: the password is in the log")
            listener.kill()
            agent.kill()
        finally:
            broker.stop()


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--binary", required=True)
    arguments.add_argument("--broker", choices=["mosquitto", "ejabberd", "rumqttd"])
    arguments.add_argument("--records", type=int, default=500)
    arguments.add_argument("--kills", type=int, default=3)
    arguments.add_argument("--stops", type=int, default=1)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--strict", action="store_true")
    a = arguments.parse_args()
    began, failures, left_out, tried = time.monotonic(), [], [], []
    rig.need("mosquitto_sub")
    for name, kind in (("mosquitto", Mosquitto), ("ejabberd", Ejabberd), ("rumqttd", Rumqttd)):
        if a.broker not in (None, name):
            continue
        try:
            run(a, name, kind, failures)
            tried.append(name)
        except SystemExit as end:
            if end.code != rig.SKIPPED:
                raise
            left_out.append(name)
    if a.strict and left_out:
        failures.append(f"left out: {left_out}")
    for failure in failures:
        print(failure)
    rig.summary("real_brokers", len(failures), seed=a.seed, brokers=tried, left_out=left_out, seconds=round(time.monotonic() - began, 1))
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
