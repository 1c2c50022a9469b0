# Sourced. An apt with a state of its own, so that packages of other architectures and suites can be fetched and unpacked
# while nothing of the system's apt changes.

# The mirror that this machine uses for suites that match the pattern; empty when there is none.
mirror_of() {
    local pattern=$1 found
    found=$(cat /etc/apt/sources.list.d/*.sources 2>/dev/null |
        awk -v pattern="$pattern" '/^URIs:/ { uri = $2 } /^Suites:/ && $0 ~ pattern { print uri; exit }')
    [ -n "$found" ] || found=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null |
        awk -v pattern="$pattern" '/^deb / && $0 ~ pattern { for (i = 2; i <= NF; i++) if ($i ~ /:\/\//) { print $i; exit } }')
    echo "$found"
}

# own_apt FOLDER ARCHITECTURE... reads lines `URI SUITE COMPONENT...` from standard input (no pipe: it sets
# APT_CONFIG for what follows) and fetches their lists. Later lines are preferred.
own_apt() {
    local folder=$1 line suite=
    shift
    mkdir -p "$folder/lists/partial" "$folder/cache/archives/partial"
    : >"$folder/status"
    : >"$folder/sources.list"
    while read -r line; do
        echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $line" >>"$folder/sources.list"
        suite=$(echo "$line" | cut -d' ' -f2)
    done
    {
        echo "Dir::Etc::sourcelist \"$folder/sources.list\";"
        echo "Dir::Etc::sourceparts \"-\";"
        echo "Dir::State::lists \"$folder/lists\";"
        echo "Dir::State::status \"$folder/status\";"
        echo "Dir::Cache \"$folder/cache\";"
        echo "APT::Sandbox::User \"root\";"
        echo "APT::Default-Release \"$suite\";"
        printf 'APT::Architectures {'
        printf ' "%s";' "$@"
        echo ' };'
    } >"$folder/apt.conf"
    export APT_CONFIG=$folder/apt.conf
    apt-get update -q >/dev/null
}

# The first dependency of package $1 whose name matches $2: names of kernels and run-time libraries carry versions.
dependency() {
    apt-cache depends "$1" | awk -v wanted="$2" '$1 == "Depends:" && $2 ~ wanted { print $2; exit }'
}
