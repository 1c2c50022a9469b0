"""Emulated boards: a QEMU machine with a console, a control socket and a way to pull its plug; and what it boots from.

Owns: QEMU's command line, the initial file system (built here, no cpio or kmod needed), the disk, the control protocol.
Needs what tests/boards/fetch put into a folder.
"""
import gzip, json, lzma, os, re, signal, socket, subprocess, threading, time

KERNEL = "kernel"
MODULES_PI = ("i2c-bcm2835", "i2c-dev", "bcm2835", "sdhci-iproc", "mmc_block", "crc32c_generic", "ext4", "dwc2", "usbnet", "cdc_ether", "rndis_host")
MODULES_VIRT = ("virtio_pci", "virtio_blk", "virtio_net", "i2c-dev", "crc32c_generic", "ext4")


def only(folder, pattern):
    found = [name for name in os.listdir(folder) if re.fullmatch(pattern, name)]
    if len(found) != 1:
        raise FileNotFoundError(f"{pattern} in {folder}: {found}")
    return os.path.join(folder, found[0])


class Kernel:
    """The unpacked kernel package of Debian."""

    def __init__(self, cache):
        self.root = os.path.join(cache, KERNEL)
        self.image = only(f"{self.root}/boot", r"vmlinuz-.*")
        self.busybox = f"{self.root}/bin/busybox"
        self.extra = os.path.join(cache, "modules")
        modules = only(f"{self.root}/lib/modules", r".*")
        self.files = {}
        for folder, _, names in os.walk(modules):
            for name in names:
                if ".ko" in name:
                    self.files[name.split(".ko")[0].replace("-", "_")] = os.path.join(folder, name)

    def device_tree(self, name):
        return only(only(f"{self.root}/usr/lib", r"linux-image-.*") + "/broadcom", name)

    def module(self, name):
        """The bytes of a module, or None where it is built in."""
        path = self.files.get(name.replace("-", "_"))
        if path is None:
            return None
        with open(path, "rb") as file:
            data = file.read()
        return lzma.decompress(data) if path.endswith(".xz") else data

    def ordered(self, names):
        """The modules and what they depend on, in an order in which they load: [(file name, bytes)]."""
        done, order = set(), []

        def add(name):
            name = name.replace("-", "_")
            if name in done:
                return
            done.add(name)
            data = self.module(name)
            if data is None:
                return
            depends = re.search(rb"\0?depends=([^\0]*)\0", data)
            for other in depends[1].decode().split(",") if depends and depends[1] else ():
                add(other)
            order.append((f"{name}.ko", data))

        for name in names:
            add(name)
        return order


def archive(entries):
    """A cpio archive ("newc") of [(path, mode, bytes)]."""
    out = bytearray()

    def put(number, path, mode, data):
        name = path.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0)
        out.extend(b"070701" + b"".join(b"%08x" % field for field in fields) + name)
        out.extend(b"\0" * (-len(out) % 4))
        out.extend(data)
        out.extend(b"\0" * (-len(out) % 4))

    for number, (path, mode, data) in enumerate(entries, 1):
        put(number, path, mode, data)
    put(0, "TRAILER!!!", 0, b"")
    return bytes(out)


def initial_file_system(kernel, path, modules, files, extra_modules=()):
    """Writes the compressed archive. `files`: path -> bytes, or the name of a file of the host."""
    order = kernel.ordered(modules)
    for name in extra_modules:
        with open(f"{kernel.extra}/{name}.ko", "rb") as file:
            order.append((f"{name}.ko", file.read()))
    entries = [(folder, 0o40755, b"") for folder in
               ("bin", "dev", "proc", "sys", "lib", "lib/modules", "etc", "usr", "usr/share")]
    with open(kernel.busybox, "rb") as file:
        entries.append(("bin/busybox", 0o100755, file.read()))
    entries.append(("bin/sh", 0o120777, b"busybox"))
    entries += [(f"lib/modules/{name}", 0o100644, data) for name, data in order]
    entries.append(("modules", 0o100644, "\n".join(name for name, _ in order).encode()))
    made = {entry[0] for entry in entries}
    for target, source in files.items():
        parts = target.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            folder = "/".join(parts[:depth])
            if folder not in made:
                made.add(folder)
                entries.append((folder, 0o40755, b""))
        if isinstance(source, str):
            with open(source, "rb") as file:
                source = file.read()
        entries.append((target, 0o100755, source))
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(archive(entries))


# What the agent is linked with, of the cross compiler's C library.
LIBRARIES = ("ld-linux-aarch64.so.1", "libc.so.6", "libm.so.6", "libgcc_s.so.1", "libdl.so.2", "libpthread.so.0", "librt.so.1")


def libraries(root="/usr/aarch64-linux-gnu/lib"):
    return {f"lib/{name}": f"{root}/{name}" for name in LIBRARIES if os.path.exists(f"{root}/{name}")}


def bundle(folder, name):
    """The files of a model bundle under /models."""
    return {f"models/{name}/{file}": os.path.join(folder, name, file) for file in os.listdir(os.path.join(folder, name))}


def disk(path, size_mib):
    """An empty ext4; an SD card of QEMU must have a power of two."""
    with open(path, "wb") as file:
        file.truncate(size_mib << 20)
    subprocess.run(["mkfs.ext4", "-q", path], check=True)


class Machine:
    """One run of a board, from power on to the plug."""

    def __init__(self, folder, name, arguments, consoles=1):
        self.base = os.path.join(folder, name)
        self.consoles = [f"{self.base}.console{number}" for number in range(consoles)]
        for path in (*self.consoles, f"{self.base}.qmp"):
            if os.path.exists(path):
                os.unlink(path)
        command = ["qemu-system-aarch64", *arguments, "-display", "none", "-monitor", "none", "-no-reboot",
                   "-qmp", f"unix:{self.base}.qmp,server,nowait"]
        for path in self.consoles:
            command += ["-serial", f"file:{path}"]
        self.log = open(f"{self.base}.qemu", "w")
        self.started = time.monotonic()
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        self.lock, self.control = threading.Lock(), None

    def text(self):
        said = ""
        for path in self.consoles:
            if os.path.exists(path):
                with open(path, errors="replace") as file:
                    said += file.read()
        return said

    def age_s(self):
        return time.monotonic() - self.started

    def wait_text(self, pattern, limit_s=600):
        """The last match of a pattern on the consoles."""
        end = time.monotonic() + limit_s
        while True:
            matches = list(re.finditer(pattern, self.text()))
            if matches:
                return matches[-1]
            if self.process.poll() is not None or time.monotonic() > end:
                raise TimeoutError(f"no `{pattern}` on the console:\n{self.text()[-3000:]}")
            time.sleep(0.1)

    def command(self, verb, **arguments):
        """One command of QEMU's control protocol; its answer."""
        with self.lock:
            if self.control is None:
                link = socket.socket(socket.AF_UNIX)
                link.connect(f"{self.base}.qmp")
                self.control = link.makefile("rw")
                self.control.readline()
                self.ask("qmp_capabilities", {})
            return self.ask(verb, arguments)

    def ask(self, verb, arguments):
        self.control.write(json.dumps({"execute": verb, "arguments": arguments}) + "\n")
        self.control.flush()
        while True:
            answer = json.loads(self.control.readline())
            if "error" in answer:
                raise RuntimeError(f"{verb} {arguments}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]

    def set(self, device, name, value):
        self.command("qom-set", path=f"/machine/peripheral/{device}", property=name, value=value)

    def pull_the_plug(self):
        """SIGKILL: no guest code runs again, nothing of its memory is written."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.log.close()


def raspberry_pi(kernel, initrd, card, forward, sensors, append=""):
    """QEMU's arguments for a Raspberry Pi 3 with TMP105 chips: `sensors` is [(id, bus number, address)]."""
    arguments = ["-M", "raspi3b", "-kernel", kernel.image, "-initrd", initrd,
                 "-dtb", kernel.device_tree(r"bcm2837-rpi-3-b\.dtb"),
                 "-append", f"console=ttyAMA0,115200 console=ttyS1,115200 loglevel=4 panic=-1 {append}",
                 "-drive", f"if=sd,format=raw,file={card}",
                 "-netdev", f"user,id=n0{forward}", "-device", "usb-net,netdev=n0"]
    for name, bus, address in sensors:
        arguments += ["-device", f"tmp105,id={name},bus=i2c-bus.{bus},address={address:#x}"]
    return arguments


def virtual(kernel, initrd, card, forward, sockets, append=""):
    """QEMU's arguments for an arm64 machine without a board; one I2C adapter for each socket of a backend."""
    arguments = ["-M", "virt", "-cpu", "cortex-a53", "-smp", "2", "-m", "512",
                 "-object", "memory-backend-memfd,id=mem,size=512M,share=on", "-numa", "node,memdev=mem",
                 "-kernel", kernel.image, "-initrd", initrd,
                 "-append", f"console=ttyAMA0 loglevel=4 panic=-1 {append}",
                 "-drive", f"if=virtio,format=raw,file={card}",
                 "-netdev", f"user,id=n0{forward}", "-device", "virtio-net-pci,netdev=n0,romfile="]
    for number, path in enumerate(sockets):
        arguments += ["-chardev", f"socket,path={path},id=bus{number}",
                      "-device", f"vhost-user-i2c-pci,chardev=bus{number},id=i2c{number}"]
    return arguments
