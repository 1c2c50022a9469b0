/* A firmware on a computer, for tests and as an example: three channels on the serial line that is named.
 * Channel 0 counts, channel 1 stands at 21.5, channel 2 is an open circuit.
 *
 * usage: reference_firmware DEVICE [SESSION]
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0 */
#define _DEFAULT_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "quorate_wire.h"

static int line;
static void write_line(const uint8_t *bytes, size_t length) {
  while (length > 0) {
    ssize_t written = write(line, bytes, length);
    if (written <= 0) exit(1);
    bytes += written;
    length -= (size_t)written;
  }
}

static uint64_t clock_us(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

#define CAPABILITIES (QW_CAN_SET_PERIOD | QW_CAN_REBOOT)

int main(int count, char **arguments) {
  qw_link link = {write_line, 1, 0, {0}, 0, 0};
  struct termios settings;
  if (count < 2 || (line = open(arguments[1], O_RDWR | O_NOCTTY)) < 0) return 2;
  if (count > 2) link.session = (uint16_t)atoi(arguments[2]);
  if (tcgetattr(line, &settings) == 0) {
    cfmakeraw(&settings);
    tcsetattr(line, TCSANOW, &settings);
  }
  uint64_t start = clock_us(), sampled = 0, beaten = 0, heard = start;
  uint32_t period_us = 10000;
  float counter = 0;
  qw_hello(&link, CAPABILITIES, 3, 0, "reference 1.0");
  for (;;) {
    struct pollfd ready = {line, POLLIN, 0};
    if (poll(&ready, 1, 2) > 0) {
      uint8_t bytes[256];
      ssize_t length = read(line, bytes, sizeof bytes);
      if (length <= 0) return 0;
      for (ssize_t i = 0; i < length; i++) {
        qw_message message = qw_receive(&link, bytes[i]);
        if (message.kind) heard = clock_us();
        if (message.kind == QW_ASK_HELLO) qw_hello(&link, CAPABILITIES, 3, clock_us() - start, "reference 1.0");
        if (message.kind != QW_REQUEST) continue;
        if (message.command == QW_SET_PERIOD && message.period_us >= 1000) {
          period_us = message.period_us;
          qw_answer(&link, message.request, QW_DONE);
        } else if (message.command == QW_REBOOT) {
          qw_answer(&link, message.request, QW_DONE);
          link.session++;
          link.sequence = 0;
          start = clock_us();
          sampled = beaten = 0;
          counter = 0;
          qw_hello(&link, CAPABILITIES, 3, 0, "reference 1.0");
        } else {
          qw_answer(&link, message.request, message.command == QW_SET_PERIOD ? QW_REFUSED : QW_UNKNOWN);
        }
      }
    }
    uint64_t now = clock_us() - start;
    if (now - beaten >= 500000) { beaten = now; qw_heartbeat(&link, now, 0); }
    /* The watchdog of this side: nobody listens. */
    if (clock_us() - heard > 3000000) continue;
    if (now - sampled >= period_us) {
      float still = 21.5f;
      sampled = now;
      qw_samples(&link, 0, QW_GOOD, now, period_us, &counter, 1);
      qw_samples(&link, 1, QW_GOOD, now, period_us, &still, 1);
      qw_samples(&link, 2, QW_OPEN_CIRCUIT, now, 0, NULL, 0);
      counter += 1;
    }
  }
}
