"""Emulated boards: a QEMU machine with a console, a control socket and a way to pull its plug; and what it boots from.

Owns: QEMU's command line, the disk, the control protocol. Needs what tests/boards/fetch put into a folder.
"""
import atexit, json, os, re, signal, socket, subprocess, sys, threading, time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "cross"))
from initrd import Kernel, initial_file_system

MODULES_PI = ("i2c-bcm2835", "i2c-dev", "bcm2835", "sdhci-iproc", "mmc_block", "crc32c_generic", "ext4", "dwc2", "usbnet", "cdc_ether", "rndis_host")
MODULES_VIRT = ("virtio_pci", "virtio_blk", "virtio_net", "i2c-dev", "crc32c_generic", "ext4")


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
        # A rig that fails leaves no machine behind.
        atexit.register(self.pull_the_plug)

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
