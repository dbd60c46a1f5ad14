#!/bin/sh
# The C sources under ThreadSanitizer, AddressSanitizer and UndefinedBehaviorSanitizer; `make sanitize`.
#
#     tests/csrc/run_sanitizers.sh PYTHON [PYTEST ARGUMENTS ...]
#
# Everything is built into a temporary folder; the extension in the tree is not touched.
set -eu

python=$1
shift
root=$(cd "$(dirname "$0")/../.." && pwd)
csrc=$root/channels/csrc
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

stress() { # NAME COMPILER-FLAGS...
    name=$1
    shift
    gcc -std=c11 -O1 -g -Wall -Wextra "$@" -I"$csrc" "$root/tests/csrc/stress.c" \
        "$csrc/ring.c" "$csrc/arena.c" "$csrc/process.c" "$csrc/reason.c" "$csrc/waiting.c" -pthread -o "$name"
    gcc -std=c11 -O1 -g -Wall -Wextra "$@" -I"$csrc" "$root/tests/csrc/collective_stress.c" \
        "$csrc/collective.c" "$csrc/collective_rounds.c" "$csrc/collective_moves.c" "$csrc/collective_kernels.c" \
        "$csrc/process.c" "$csrc/reason.c" "$csrc/waiting.c" -pthread -o "collective-$name"
}

# Some kernels place memory where ThreadSanitizer does not expect it; without address space randomisation it fits.
fixed=""
if setarch -R true 2>/dev/null; then fixed="setarch -R"; fi

echo "== stress.c and collective_stress.c under ThreadSanitizer"
stress stress-thread -fsanitize=thread
TSAN_OPTIONS=halt_on_error=1 $fixed ./stress-thread 64 1500 1
TSAN_OPTIONS=halt_on_error=1 $fixed ./collective-stress-thread 100 500 1

echo "== stress.c and collective_stress.c under AddressSanitizer and UndefinedBehaviorSanitizer"
stress stress-address -fsanitize=address,undefined -fno-sanitize-recover=all
./stress-address 64 3000 2
./collective-stress-address 100 1000 2

echo "== the extension under AddressSanitizer and UndefinedBehaviorSanitizer"
# A second tree of links, first on the import path, whose extension is the sanitized one.
mkdir tree tree/channels
for package in runtime dagc tests; do ln -s "$root/$package" "tree/$package"; done
for file in "$root"/channels/*; do
    case $file in *.so | */__pycache__) ;; *) ln -s "$file" tree/channels/ ;; esac
done
suffix=$("$python" -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')
include=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
gcc -std=c11 -O1 -g -Wall -shared -fPIC -fsanitize=address,undefined -fno-sanitize-recover=all \
    -I"$include" "$csrc"/*.c -pthread -o "tree/channels/_ring$suffix"

# Leaks are not looked for: the interpreter itself never frees all it has. PYTHONMALLOC: so that each object is a block.
export LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)"
export ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1
export PYTHONMALLOC=malloc PYTHONDONTWRITEBYTECODE=1 PYTHONPATH="$work/tree"
cd tree
"$python" -c 'import channels._ring as r; assert r.__file__.startswith("'"$work"'"), r.__file__'
if [ $# -eq 0 ]; then
    set -- "$root/tests/conformance/test_channels.py" "$root/tests/unit/test_shm_memory.py" \
        "$root/tests/integration/test_shm_processes.py" "$root/tests/conformance/test_communicators.py" \
        "$root/tests/unit/test_communicators.py" "$root/tests/integration/test_communicators.py"
fi
"$python" -m pytest -q -p no:cacheprovider -c "$root/pyproject.toml" --rootdir "$root" -o "pythonpath=$work/tree" "$@"
