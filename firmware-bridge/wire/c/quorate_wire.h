/* The wire protocol of Quorate for a firmware in C or C++; see docs/wire.md. Version 1.
 *
 * Give it one function that writes bytes to the serial line; feed it every byte that arrives. It allocates nothing and
 * needs about 600 bytes. A test of the crate quorate-wire compiles this file and reads what it writes.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0 */
#ifndef QUORATE_WIRE_H
#define QUORATE_WIRE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define QW_VERSION 1
#define QW_PAYLOAD_BYTES_MAX 240
#define QW_ENCODED_BYTES_MAX 254
#define QW_SAMPLES_MAX 56
#define QW_NAME_BYTES_MAX 32

/* Kinds of messages. */
#define QW_HELLO 0x01
#define QW_SAMPLES 0x02
#define QW_HEARTBEAT 0x03
#define QW_ANSWER 0x04
#define QW_ASK_HELLO 0x81
#define QW_HOST_HEARTBEAT 0x82
#define QW_REQUEST 0x83

/* Capabilities, as bits. */
#define QW_CAN_SET_PERIOD 1u
#define QW_CAN_SELF_TEST 2u
#define QW_CAN_REBOOT 4u

/* Status of a block of samples; anything but good has no samples. */
enum qw_status {
  QW_GOOD, QW_NO_ACKNOWLEDGE, QW_BUS_ERROR, QW_TIMEOUT, QW_CHECKSUM,
  QW_NOT_READY, QW_OPEN_CIRCUIT, QW_SHORT_CIRCUIT, QW_SATURATED
};
/* Answers to a request. */
enum qw_answer { QW_DONE, QW_UNKNOWN, QW_REFUSED, QW_FAILED };
/* Commands of a request. */
enum qw_command { QW_SET_PERIOD = 1, QW_SELF_TEST = 2, QW_REBOOT = 3 };

typedef struct {
  void (*write)(const uint8_t *bytes, size_t length); /* to the line */
  uint16_t session;                                   /* another one at every start */
  uint32_t sequence;
  uint8_t in[QW_ENCODED_BYTES_MAX];
  size_t in_length;
  uint8_t in_oversized;
} qw_link;

/* What qw_receive found. */
typedef struct {
  uint8_t kind;      /* QW_ASK_HELLO, QW_HOST_HEARTBEAT or QW_REQUEST; 0 for nothing */
  uint16_t request;  /* QW_REQUEST: its number, for the answer */
  uint8_t command;   /* QW_REQUEST: what to do */
  uint8_t channel;   /* QW_SET_PERIOD */
  uint32_t period_us; /* QW_SET_PERIOD */
} qw_message;

static inline uint32_t qw_crc32(const uint8_t *bytes, size_t length) {
  uint32_t crc = 0xFFFFFFFFu;
  while (length--) {
    crc ^= *bytes++;
    for (int bit = 0; bit < 8; bit++) crc = (crc >> 1) ^ (0xEDB88320u & (0u - (crc & 1u)));
  }
  return ~crc;
}

static inline uint8_t *qw_put(uint8_t *at, uint64_t number, int bytes) {
  while (bytes--) { *at++ = (uint8_t)number; number >>= 8; }
  return at;
}

static inline uint64_t qw_get(const uint8_t *at, int bytes) {
  uint64_t number = 0;
  while (bytes--) number = number << 8 | at[bytes];
  return number;
}

/* Frames a payload that stands at frame + 8 and writes it. */
static inline void qw_send(qw_link *link, uint8_t kind, uint8_t *frame, size_t payload_length) {
  uint8_t out[QW_ENCODED_BYTES_MAX];
  size_t end = 8 + payload_length, code_at = 0, length = 1;
  uint8_t code = 1;
  frame[0] = QW_VERSION;
  frame[1] = kind;
  qw_put(frame + 2, link->session, 2);
  qw_put(frame + 4, ++link->sequence, 4);
  qw_put(frame + end, qw_crc32(frame, end), 4);
  for (size_t at = 0; at < end + 4; at++) {
    if (frame[at]) { out[length++] = frame[at]; code++; }
    if (!frame[at] || code == 0xFF) { out[code_at] = code; code_at = length++; code = 1; }
  }
  out[code_at] = code;
  out[length++] = 0;
  link->write(out, length);
}

static inline void qw_hello(qw_link *link, uint32_t capabilities, uint8_t channels, uint64_t device_us, const char *name) {
  uint8_t frame[8 + 14 + QW_NAME_BYTES_MAX + 4], *at = frame + 8;
  size_t length = strlen(name);
  if (length > QW_NAME_BYTES_MAX) length = QW_NAME_BYTES_MAX;
  at = qw_put(at, capabilities, 4);
  *at++ = channels;
  at = qw_put(at, device_us, 8);
  *at++ = (uint8_t)length;
  memcpy(at, name, length);
  qw_send(link, QW_HELLO, frame, 14 + length);
}

/* At most QW_SAMPLES_MAX samples; the first was taken at device_us, each further one period_us later. */
static inline void qw_samples(qw_link *link, uint8_t channel, enum qw_status status, uint64_t device_us, uint32_t period_us,
                              const float *samples, size_t count) {
  uint8_t frame[8 + QW_PAYLOAD_BYTES_MAX + 4], *at = frame + 8;
  if (status != QW_GOOD) count = 0;
  if (count > QW_SAMPLES_MAX) count = QW_SAMPLES_MAX;
  *at++ = channel;
  *at++ = (uint8_t)status;
  at = qw_put(at, 0, 2);
  at = qw_put(at, device_us, 8);
  at = qw_put(at, status == QW_GOOD ? period_us : 0, 4);
  for (size_t i = 0; i < count; i++) {
    uint32_t bits;
    memcpy(&bits, samples + i, 4);
    at = qw_put(at, bits, 4);
  }
  qw_send(link, QW_SAMPLES, frame, 16 + 4 * count);
}

static inline void qw_heartbeat(qw_link *link, uint64_t device_us, uint32_t dropped) {
  uint8_t frame[8 + 12 + 4];
  qw_put(qw_put(frame + 8, device_us, 8), dropped, 4);
  qw_send(link, QW_HEARTBEAT, frame, 12);
}

static inline void qw_answer(qw_link *link, uint16_t request, enum qw_answer answer) {
  uint8_t frame[8 + 3 + 4];
  qw_put(qw_put(frame + 8, request, 2), answer, 1);
  qw_send(link, QW_ANSWER, frame, 3);
}

/* Takes one byte of the line. Anything that is corrupt or unknown is nothing. */
static inline qw_message qw_receive(qw_link *link, uint8_t byte) {
  qw_message none = {0, 0, 0, 0, 0}, found = none;
  uint8_t *in = link->in;
  size_t from = 0, to = 0, length = link->in_length;
  if (byte) {
    if (length < sizeof link->in) in[link->in_length++] = byte; else link->in_oversized = 1;
    return none;
  }
  link->in_length = 0;
  if (link->in_oversized) { link->in_oversized = 0; return none; }
  while (from < length) {
    uint8_t code = in[from++];
    if (from + code - 1 > length) return none;
    for (uint8_t i = 1; i < code; i++) in[to++] = in[from++];
    if (code != 0xFF && from < length) in[to++] = 0;
  }
  if (to < 12 || in[0] != QW_VERSION || qw_get(in + to - 4, 4) != qw_crc32(in, to - 4)) return none;
  length = to - 12;
  found.kind = in[1];
  if (found.kind == QW_ASK_HELLO || found.kind == QW_HOST_HEARTBEAT) return length == 0 ? found : none;
  if (found.kind != QW_REQUEST || length < 3) return none;
  found.request = (uint16_t)qw_get(in + 8, 2);
  found.command = in[10];
  if (found.command == QW_SET_PERIOD) {
    if (length != 8) return none;
    found.channel = in[11];
    found.period_us = (uint32_t)qw_get(in + 12, 4);
  } else if (length != 3) {
    return none;
  }
  return found;
}

#endif
