#!/usr/bin/env bash
# Everything that wants a GPU, in commands of at most ten minutes each.
#
#   benchmarks/gpu_session.sh build|test|sanitize|bench|frames|all [PEERS]
#
# build     talk3d with kernels for this machine's GPU alone, beside any installation
# test      what is marked gpu
# sanitize  compute-sanitizer's memcheck and racecheck on small cases
# bench     against eager reference, torch.compile and the packages in the folder PEERS; gates, ledger, roofline
# frames    a whole frame, replayed and launched, at batch 1 to 16; training steps; peak memory; a frame's budget
# all       one after another, each as far as it gets
#
# Logs and results go to $OUT, by default the folder gpu-session. Needs torch with CUDA, nvcc, pytest and pytest-benchmark;
# no network. PYTHON chooses the interpreter, TALK3D_SITE the folder of the installation.
set -uo pipefail
cd "$(dirname "$0")/.."
HERE=$PWD
PYTHON=${PYTHON:-python3}
OUT=$(realpath -m "${OUT:-gpu-session}")
SITE=$(realpath -m "${TALK3D_SITE:-$OUT/site}")
LIMIT=${LIMIT:-580} # seconds for a command
export PYTHONUNBUFFERED=1

usage() {
  sed -n '4p' "$0" | sed 's/^# */usage: /' >&2
  exit 2
}
fail() {
  echo "gpu_session: $1" >&2
  exit 1
}

# runs a command, to the end of a log and the screen, no longer than it may take
logged() {
  local name=$1
  shift
  timeout --kill-after=10 "$LIMIT" "$@" 2>&1 | tee -a "$OUT/$name.log"
  local status=${PIPESTATUS[0]}
  [ "$status" -eq 124 ] && echo "gpu_session: $name took longer than $LIMIT seconds" | tee -a "$OUT/$name.log" >&2
  return "$status"
}
# the interpreter with the installed package; away from the sources, whose talk3d/ would hide it
installed() {
  [ -d "$SITE/talk3d" ] || fail "nothing is built in $SITE: run $0 build"
  (cd "$OUT" && PYTHONPATH="$SITE" "$@")
}
needs_gpu() {
  "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null ||
    fail "needs an NVIDIA GPU and torch with CUDA, and $PYTHON finds none"
}

build() {
  local arch
  arch=$("$PYTHON" -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())')
  rm -rf "$SITE"
  TALK3D_BUILD=cuda TORCH_CUDA_ARCH_LIST=$arch MAX_JOBS=${MAX_JOBS:-$(nproc)} logged build \
    "$PYTHON" -m pip install --no-build-isolation --no-deps --no-index --target "$SITE" .
}
tests() {
  installed logged test "$PYTHON" -m pytest -q -p no:cacheprovider --rootdir "$HERE" -c "$HERE/pyproject.toml" \
    -m gpu "$HERE/tests/ops" "$HERE/tests/kernels"
}
sanitize() {
  local sanitizer status=0 tool
  sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
  [ -x "$sanitizer" ] || fail "there is no compute-sanitizer on PATH"
  for tool in memcheck racecheck; do
    LIMIT=$((LIMIT / 2)) installed logged "$tool" "$sanitizer" --tool "$tool" --error-exitcode 1 \
      "$PYTHON" "$HERE/benchmarks/small_cases.py" || status=1
  done
  return $status
}
bench() {
  local status=0 peer
  local peers=(reference compile)
  if [ -n "$1" ]; then for peer in "$1"/*.py; do peers+=("$(basename "$peer" .py)"); done; fi
  LIMIT=$((LIMIT / (${#peers[@]} + 1)))
  for peer in "${peers[@]}"; do
    installed logged bench "$PYTHON" -m pytest -q -p no:cacheprovider --rootdir "$HERE" -c "$HERE/pyproject.toml" \
      "$HERE/benchmarks" --device cuda --peer "$peer" ${1:+--peers "$1"} --ledger \
      --benchmark-json "$OUT/$peer.json" -k "render_rays or sample_triplane" || status=1
  done
  installed logged roofline "$PYTHON" "$HERE/benchmarks/roofline.py" "$OUT/reference.json" || status=1
  cp "$HERE"/benchmarks/results/*.csv "$OUT"/
  return $status
}

frames() {
  installed logged frames "$PYTHON" "$HERE/benchmarks/frames.py" --compile --json "$OUT/frames.json"
}

[ $# -ge 1 ] && [ $# -le 2 ] || usage
peers=${2:+$(realpath -m "$2")}
case $1 in build | test | sanitize | bench | frames | all) ;; *) usage ;; esac
[ -z "$peers" ] || [ -d "$peers" ] || fail "there is no folder $2 with peers"
needs_gpu
mkdir -p "$OUT"
case $1 in
  build) build ;;
  test) tests ;;
  sanitize) sanitize ;;
  bench) bench "$peers" ;;
  frames) frames ;;
  all)
    build || exit
    status=0
    for part in tests sanitize bench frames; do $part "$peers" || status=1; done
    exit $status
    ;;
esac
