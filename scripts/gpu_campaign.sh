#!/usr/bin/env bash
# As much of the paper's tables, in the full budget, as fits into some minutes of a rented GPU. What
# was done is packed at the end; started again with that, the campaign goes on where it stopped.
#
#   scripts/gpu_campaign.sh --minutes M [--jobs N] [FLAGS of python -m complexnn.campaign]
#
# Settings, from the environment:
#   DATA_ARCHIVE  archives to unpack into data/, with colons between: data/cifar10.tar.xz:... Of one
#                 that was split (.aa, .ab, ...) the name without that. Data sets that are not in data/
#                 are left out of the campaign.
#   RUNS_ARCHIVE  what was packed the last time; default: OUT/runs.tar
#   OUT           where runs are packed; default: runs/gpu-out
#   OUT_MB        megabytes that they may take together, in pieces of 16 at most; default: 62
#   SPARE         seconds at the end, to save states and pack; default: 60
#   COMMANDS      a file of other commands, whose runs lie below runs/
#   AS_IT_IS=1    installs nothing: for machines without a network; PYTHON names the interpreter
#
# Networks of this size keep a GPU waiting for their launches, so several share it: N is 4, less on a
# device of under 16 GB.
set -euo pipefail
SECONDS=0
source "$(dirname "$0")/environment.sh"
source scripts/budget.sh --gpu

spare=${SPARE:-60}

fail() {
    echo "error: $1" >&2
    exit 2
}

minutes= jobs=
flags=()
while (($#)); do
    case $1 in
    --minutes | --jobs)
        [[ -n ${2:-} ]] || fail "$1 needs a number"
        printf -v "${1#--}" %s "$2"
        shift
        ;;
    *) flags+=("$1") ;;
    esac
    shift
done
[[ $minutes =~ ^[0-9]+$ ]] && ((60 * 10#$minutes > 2 * spare)) ||
    fail "say how many whole minutes there are, more than $((2 * spare / 60)): --minutes M"
out=${OUT:-runs/gpu-out}
mkdir -p "$out" runs logs data

unpack() { # unpack ARCHIVE FOLDER: whole or in pieces; what is there already stays as it is, and a
    # file gets its name when all of it is there
    local pieces=("$1")
    [[ -f $1 ]] || pieces=("$1".??)
    [[ -f ${pieces[0]} ]] || fail "no archive $1, nor pieces $1.aa, ..."
    mkdir -p "$2"
    cat "${pieces[@]}" | "$interpreter" -c "
import os, sys, tarfile
name, folder = sys.argv[1:]
def aside(member, folder):
    member = tarfile.data_filter(member, folder)
    return member.replace(name=member.name + '.part', deep=False) if member.isfile() else member
try:
    with tarfile.open(fileobj=sys.stdin.buffer, mode='r|*') as archive:
        for member in archive:
            path = os.path.join(folder, member.name)
            if member.isfile() and os.path.exists(path):
                continue
            archive.extract(member, folder, filter=aside)
            if member.isfile():
                os.replace(path + '.part', path)
except tarfile.TarError as error:
    sys.exit(f'error: {name} is damaged, or a piece of it is missing: {error}')" "$1" "$2" || exit 2
}

unpack_data() { # what is not there yet, and nothing by halves
    local archive name entry archives
    IFS=: read -r -a archives <<<"${DATA_ARCHIVE:-}"
    for archive in ${archives[@]+"${archives[@]}"}; do
        name=$(basename "$archive")
        [[ -e data/${name%%.*} ]] && continue
        rm -rf data/unpacking
        unpack "$archive" data/unpacking
        for entry in data/unpacking/*; do # its name need not be the archive's
            [[ -e data/${entry##*/} ]] || mv "$entry" data/
        done
        rm -rf data/unpacking
    done
}

commands() { # of data sets that are there
    if [[ -n ${COMMANDS:-} ]]; then
        cat "$COMMANDS"
        return
    fi
    local absent=(-e '^report')
    [[ -e data/cifar10 || -e data/cifar-10-batches-py ]] || absent+=(-e /cifar10/)
    [[ -e data/cifar100 || -e data/cifar-100-python ]] || absent+=(-e /cifar100)
    [[ -e data/celeba ]] || absent+=(-e /celeba/)
    [[ -e data/CUB_200_2011 ]] || absent+=(-e /cub200/)
    scripts/reproduce.sh --paper --gpu --list | grep -v "${absent[@]}" -e fashion-mnist || true
}

at_once() { # each has a context of its own, and up to 4 GB in all
    "$interpreter" -c "
import torch
gpu = torch.cuda.is_available()
print(max(1, min(4, int(torch.cuda.mem_get_info()[1] / 4e9))) if gpu else 1)"
}

finished() { [[ -f $1/results.jsonl ]] && grep -Eq '"name": ?"task"' "$1/results.jsonl"; }

# The files to pack, the most precious first: what is known, states of what is under way, weights of
# what is done, the small ones first.
precious() {
    find runs -name config.json -o -name log.jsonl -o -name results.jsonl
    find logs -name '*.log'
    find runs -path '*/state/latest.safetensors' | while read -r state; do
        finished "$(dirname "$(dirname "$state")")" || echo "$state"
    done
    find runs -name model.safetensors -exec du -k {} + | sort -n | cut -f 2-
}

pack() { # beside what was packed the last time, which goes when all of it is there
    local room=$((1000000 * ${OUT_MB:-62} - 10240)) size file
    rm -rf "$out/packing"
    mkdir "$out/packing"
    precious | while read -r file; do
        size=$(($(wc -c <"$file") + 1024))
        if ((size <= room)); then
            room=$((room - size))
            echo "$file"
        else
            echo "no room for $file: OUT_MB is ${OUT_MB:-62}" >&2
        fi
    done >"$out/packing/packed.txt"
    tar -c -T "$out/packing/packed.txt" | split -b 16000000 - "$out/packing/runs.tar."
    rm -f "$out"/runs.tar "$out"/runs.tar.??
    mv "$out"/packing/* "$out"
    rmdir "$out/packing"
    echo "packed $(wc -l <"$out/packed.txt") files into $out"
}

unpack_data
last=${RUNS_ARCHIVE:-$out/runs.tar}
if [[ -n ${RUNS_ARCHIVE:-} || -f $last || -f $last.aa ]]; then
    unpack "$last" .
fi
list=$(commands)
[[ -n $list ]] ||
    fail "none of cifar10, cifar100, celeba is in data/: put one there, or name it in DATA_ARCHIVE"
jobs=${jobs:-$(at_once)}
status=0
hours=$(awk "BEGIN { print (60 * $minutes - $spare - $SECONDS) / 3600 }")
# In a group of its own, so that each signal reaches it once: through us, who pack when it has ended.
set -m
"$interpreter" -m complexnn.campaign --available --hours "$hours" --jobs "$jobs" \
    ${flags[@]+"${flags[@]}"} <<<"$list" &
child=$!
set +m
for name in INT TERM HUP; do
    trap "kill -s $name $child 2>/dev/null || true" $name
done
wait $child || status=$?
while kill -0 $child 2>/dev/null; do # a signal ended the wait, not the campaign
    status=0
    wait $child || status=$?
done
trap '' INT TERM HUP
pack
exit $status
