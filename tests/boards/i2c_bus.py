"""The other end of an emulated I2C adapter: a vhost-user device whose chips can be set, can refuse, and whose bus can hang.

Owns: the vhost-user protocol as far as virtio-i2c needs it (memory map, one queue, kick and call), and TMP102-like chips.
Sources: QEMU's docs/interop/vhost-user.rst; virtio 1.2, section 5.19 (I2C adapter) and 2.7 (split virtqueues).
"""
import mmap, os, select, socket, struct, threading

# Requests of the protocol that need more than an acknowledgement.
GET_FEATURES, SET_MEM_TABLE, SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_BASE, GET_VRING_BASE = 1, 5, 8, 9, 10, 11
SET_VRING_KICK, SET_VRING_CALL, GET_PROTOCOL_FEATURES, GET_QUEUE_NUM = 12, 13, 15, 17
VERSION_1, PROTOCOL_FEATURES, INDIRECT, ZERO_LENGTH = 1 << 32, 1 << 30, 1 << 28, 1 << 0
REPLY, NEEDS_REPLY = 0x5, 0x8
DESCRIPTOR_NEXT, DESCRIPTOR_WRITE, DESCRIPTOR_INDIRECT = 1, 2, 4
STATUS_OK, STATUS_ERROR = 0, 1


class Chip:
    """Registers of a TMP102 and whether it acknowledges."""

    def __init__(self, celsius):
        self.registers, self.pointer, self.refuses, self.reads = {1: b"\x60\xa0", 2: b"\x4b\0", 3: b"\x50\0"}, 0, False, 0
        self.set(celsius)

    def set(self, celsius):
        self.registers[0] = struct.pack(">h", round(celsius * 16) << 4)

    def write(self, data):
        if data:
            self.pointer = data[0]
        if len(data) > 1:
            self.registers[self.pointer] = bytes(data[1:])

    def read(self, count):
        self.reads += 1
        return (self.registers.get(self.pointer, b"\xff") * count)[:count]


class Bus:
    """One adapter: listens at `path` for QEMU, then answers its transfers in a thread of its own."""

    def __init__(self, path, chips):
        self.chips, self.answers = chips, threading.Event()
        self.answers.set()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(1)
        self.regions, self.queue, self.link = [], {}, None
        threading.Thread(target=self.run, daemon=True).start()

    def hang(self):
        """From here on no transfer ends, until recover()."""
        self.answers.clear()

    def recover(self):
        self.answers.set()

    def run(self):
        self.link, _ = self.listener.accept()
        poll = select.epoll()
        poll.register(self.link, select.EPOLLIN)
        try:
            while True:
                for descriptor, _ in poll.poll():
                    if descriptor == self.link.fileno():
                        old = self.queue.get("kick")
                        self.message()
                        new = self.queue.get("kick")
                        if new != old and old is not None:
                            poll.unregister(old)
                        if new != old and new is not None:
                            poll.register(new, select.EPOLLIN)
                    elif descriptor == self.queue.get("kick"):
                        os.eventfd_read(descriptor)
                        self.answers.wait()
                        self.work()
        except (EOFError, ConnectionError):
            self.link.close()

    # -- the protocol

    def receive(self, count):
        data = b""
        while len(data) < count:
            more = self.link.recv(count - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def message(self):
        head, ancillary, _, _ = self.link.recvmsg(12, socket.CMSG_SPACE(64 * 4))
        if not head:
            raise EOFError
        head += self.receive(12 - len(head))
        descriptors = []
        for _, kind, data in ancillary:
            if kind == socket.SCM_RIGHTS:
                descriptors += struct.unpack(f"{len(data) // 4}i", data[:len(data) // 4 * 4])
        request, flags, size = struct.unpack("<III", head)
        answer = self.perform(request, self.receive(size) if size else b"", descriptors)
        if answer is None and flags & NEEDS_REPLY:
            answer = struct.pack("<Q", 0)
        if answer is not None:
            self.link.sendall(struct.pack("<III", request, REPLY, len(answer)) + answer)

    def perform(self, request, body, descriptors):
        if request == GET_FEATURES:
            # Indirect descriptors: QEMU's queue has four entries, and a write with a read after it needs six.
            return struct.pack("<Q", VERSION_1 | PROTOCOL_FEATURES | INDIRECT | ZERO_LENGTH)
        if request == GET_PROTOCOL_FEATURES:
            return struct.pack("<Q", (1 << 0) | (1 << 3))      # several queues, acknowledged requests
        if request == GET_QUEUE_NUM:
            return struct.pack("<Q", 1)
        if request == SET_MEM_TABLE:
            self.regions = []
            for number in range(struct.unpack("<I", body[:4])[0]):
                guest, size, user, offset = struct.unpack("<QQQQ", body[8 + 32 * number:40 + 32 * number])
                self.regions.append((guest, size, user, offset, mmap.mmap(descriptors[number], size + offset)))
                os.close(descriptors[number])
        elif request == SET_VRING_NUM:
            self.queue["size"] = struct.unpack("<II", body[:8])[1]
        elif request == SET_VRING_ADDR:
            _, _, table, used, available, _ = struct.unpack("<IIQQQQ", body)
            self.queue.update(table=table, used=used, available=available)
        elif request == SET_VRING_BASE:
            self.queue["next"] = struct.unpack("<II", body[:8])[1]
        elif request == GET_VRING_BASE:
            self.queue.pop("kick", None)
            return struct.pack("<II", 0, self.queue.get("next", 0))
        elif request == SET_VRING_KICK and descriptors:
            self.queue["kick"] = descriptors[0]
        elif request == SET_VRING_CALL and descriptors:
            self.queue["call"] = descriptors[0]
        return None

    # -- the queue

    def memory(self, address, of_user=False):
        """The mapping that holds an address of the guest (or of QEMU), and the place in it."""
        for guest, size, user, offset, mapping in self.regions:
            base = user if of_user else guest
            if base <= address < base + size:
                return mapping, address - base + offset
        raise EOFError(f"no memory at {address:#x}")

    def work(self):
        """Every request that waits."""
        available, at = self.memory(self.queue["available"], True)
        used, used_at = self.memory(self.queue["used"], True)
        done = False
        while self.queue["next"] != struct.unpack_from("<H", available, at + 2)[0]:
            head = struct.unpack_from("<H", available, at + 4 + 2 * (self.queue["next"] % self.queue["size"]))[0]
            written = self.transfer(self.chain(head))
            index = struct.unpack_from("<H", used, used_at + 2)[0]
            struct.pack_into("<II", used, used_at + 4 + 8 * (index % self.queue["size"]), head, written)
            struct.pack_into("<H", used, used_at + 2, (index + 1) & 0xffff)
            self.queue["next"] = (self.queue["next"] + 1) & 0xffff
            done = True
        if done and "call" in self.queue:
            os.eventfd_write(self.queue["call"], 1)

    def chain(self, number):
        """The descriptors of a request: [(address, length, flags)]."""
        table, at = self.memory(self.queue["table"], True)
        found = []
        while True:
            address, length, flags, following = struct.unpack_from("<QIHH", table, at + 16 * number)
            if flags & DESCRIPTOR_INDIRECT:
                table, at = self.memory(address)
                number = 0
                continue
            found.append((address, length, flags))
            if not flags & DESCRIPTOR_NEXT:
                return found
            number = following

    def transfer(self, descriptors):
        """One message of a transfer: header, data, status. Gives how many bytes it wrote."""
        memory, at = self.memory(descriptors[0][0])
        chip = self.chips.get(struct.unpack_from("<H", memory, at)[0] >> 1)
        acknowledged, written = chip is not None and not chip.refuses, 1
        for address, length, flags in descriptors[1:-1]:
            memory, at = self.memory(address)
            if acknowledged and flags & DESCRIPTOR_WRITE:
                memory[at:at + length] = chip.read(length)
                written += length
            elif acknowledged:
                chip.write(memory[at:at + length])
        memory, at = self.memory(descriptors[-1][0])
        memory[at] = STATUS_OK if acknowledged else STATUS_ERROR
        return written
