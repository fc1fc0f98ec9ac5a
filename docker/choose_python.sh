#!/bin/sh
# Print the name of a Python for which docker/torch.lock can be installed.
#
#   sh docker/choose_python.sh [PYTHON [TORCH_INDEX]]
#
# Without PYTHON the candidates are python3.11, python3.12 and python3.13; the first that fits is
# taken. A Python fits if it runs, can make a virtual environment, and pip finds a wheel of the
# lock's torch for it. TORCH_INDEX is one more index for pip. Messages go to standard error.
set -u
candidates=${1:-python3.11 python3.12 python3.13}
index=${2:-}
torch=$(sed -n 's/^torch==\([^ ]*\).*/\1/p' "$(dirname "$0")/torch.lock")
pip_errors=$(mktemp)
trap 'rm -f "$pip_errors"' EXIT
passed_over=
with_pip=

say() { printf '%s\n' "$*" >&2; }

# Does pip of Python $1 list a wheel of the lock's torch? Further arguments are options of pip.
has_torch() {
    python=$1
    shift
    versions=$("$python" -m pip index versions torch --only-binary :all: --timeout 15 --retries 1 \
        ${index:+--extra-index-url "$index"} "$@" 2>>"$pip_errors" </dev/null \
        | sed -n 's/^Available versions: //p')
    case ", $versions," in *", $torch,"*) return 0 ;; *) return 1 ;; esac
}

# Set `defect` to the reason why Python $1 does not fit; to nothing if it fits.
examine() {
    defect=
    if ! command -v "$1" >/dev/null; then
        defect="it is not installed"
    elif ! "$1" --version >/dev/null 2>&1 </dev/null; then
        defect="$(command -v "$1") does not run"
    elif ! "$1" -c 'import pip, ensurepip' >/dev/null 2>&1 </dev/null; then
        defect="it has no pip or no ensurepip (Debian: python3-pip, $(basename "$1")-venv)"
    else
        with_pip=$1
        has_torch "$1" || defect="pip finds no wheel of torch $torch for it"
    fi
}

say "looking for a Python and a wheel of torch $torch for it"
for candidate in $candidates; do
    examine "$candidate"
    if [ -z "$defect" ]; then
        say "$candidate ($("$candidate" --version 2>&1)) is used$passed_over"
        echo "$candidate"
        exit 0
    fi
    passed_over="$passed_over; $candidate passed over: $defect"
done

say "error: no Python fits docker/torch.lock$passed_over"
grep -v 'neither a file nor a directory\|experimental command' "$pip_errors" | sed 's/^/  pip: /' >&2
remedy="install python3.11 with pip and venv"
if [ -n "$with_pip" ] && has_torch "$with_pip" --python-version 3.11; then
    remedy="pip finds torch $torch for Python 3.11 only: $remedy"
fi
say "$remedy${index:+, or name another TORCH_INDEX than $index}"
[ -n "$index" ] || say "or tell make where wheels for other versions are: make TORCH_INDEX=https://download.pytorch.org/whl/cpu"
exit 1
