#!/bin/sh
# Runs inside the image, started by a unit that the rig adds: what only a process on the board can do and time. Says it on the console.
say() { echo "RIG: $*" >/dev/console; }
main() { systemctl show -p MainPID --value quorate; }
active() { [ "$(systemctl show -p ActiveState --value quorate)" = active ]; }
seconds() { cut -d' ' -f1 /proc/uptime; }
# Waits until another process than $1 is the service, and gives the seconds since $2.
back() {
    while pid=$(main) && { [ "$pid" = "$1" ] || [ "$pid" = 0 ] || ! active; }; do sleep 0.2; done
    echo "$2 $(seconds)" | awk '{ printf "%.1f", $2 - $1 }'
}

until active; do sleep 0.5; done
pid=$(main)
say "active after $(seconds) s, user $(stat -c %U /proc/"$pid"), $(grep -E 'NoNewPrivs|Seccomp:' /proc/"$pid"/status | tr -s '\t\n' ' ')"
say "data $(df -m /data | awk 'NR == 2 { print $2 }') MiB, root $(findmnt -n -o FSTYPE / || echo '?'), failed units: $(systemctl --failed --no-legend --plain | awk '{ print $1 }' | tr '\n' ' ')"
# The rig takes its time with the endpoint and the broker.
sleep 15
at=$(seconds); pid=$(main); kill -9 "$pid"
say "killed: back after $(back "$pid" "$at") s"
sleep 5
at=$(seconds); pid=$(main); kill -STOP "$pid"
say "stopped: back after $(back "$pid" "$at") s"
sleep 5
echo 'nonsense = 1' >>/run/quorate-settings/quorate.toml
# A start by hand counts anew.
systemctl restart quorate
sleep 15
say "refused: state $(systemctl show -p ActiveState --value quorate), status $(systemctl show -p ExecMainStatus --value quorate), restarts $(systemctl show -p NRestarts --value quorate)"
sed -i '$d' /run/quorate-settings/quorate.toml
systemctl reset-failed quorate
systemctl start quorate
until active; do sleep 0.5; done
pid=$(main)
say "memory: PSS $(awk '/^Pss:/ { print $2 }' /proc/"$pid"/smaps_rollup) kB, private dirty $(awk '/^Private_Dirty:/ { print $2 }' /proc/"$pid"/smaps_rollup) kB"
say "end"
