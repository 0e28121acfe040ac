#!/usr/bin/env bash
# Everything that wants a GPU, in commands of at most ten minutes each.
#
#   benchmarks/gpu_session.sh build|test|sanitize|bench|frames|all [PEERS]
#
# build     talk3d with kernels for this machine's GPU alone, beside any installation
# test      what is marked gpu, and what runs Triton kernels
# sanitize  compute-sanitizer's memcheck, racecheck and synccheck on small cases
# bench     against eager reference, torch.compile and the packages in the folder PEERS; gates, ledger, roofline
# frames    a whole frame, replayed and launched, at batch 1 to 16; training steps; peak memory; a frame's budget, and
#           the roofline of its stages
# all       one after another, each as far as it gets: tests, bench, frames, sanitize
#
# Logs and results go to $OUT, by default the folder gpu-session. Needs torch with CUDA, nvcc, pytest and pytest-benchmark;
# no network. PYTHON chooses the interpreter, TALK3D_SITE the folder of the installation, by default gpu-session/site.
set -uo pipefail
cd "$(dirname "$0")/.."
HERE=$PWD
PYTHON=${PYTHON:-python3}
OUT=$(realpath -m "${OUT:-gpu-session}")
SITE=$(realpath -m "${TALK3D_SITE:-gpu-session/site}")
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

# runs a command, to the end of a log and the screen, no longer than it may take; interrupted, pytest writes what it has
logged() {
  local name=$1
  shift
  timeout --signal=INT --kill-after=15 "$LIMIT" "$@" 2>&1 | tee -a "$OUT/$name.log"
  local status=${PIPESTATUS[0]}
  if [ "$status" -eq 124 ] || [ "$status" -eq 137 ]; then
    echo "gpu_session: $name took longer than $LIMIT seconds" | tee -a "$OUT/$name.log" >&2
  fi
  return "$status"
}
# the interpreter with the installed package; away from the sources, whose talk3d/ would hide it
installed() {
  if [ ! -d "$SITE/talk3d" ]; then
    echo "gpu_session: nothing is built in $SITE: run $0 build" >&2
    return 1
  fi
  (cd "$OUT" && PYTHONPATH="$SITE" "$@")
}
has() {
  "$PYTHON" -c "import $1" 2>/dev/null
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
  local options=(-p no:cacheprovider -p no:benchmark --tb=short -rfE --durations=5 --continue-on-collection-errors)
  # hundreds of Triton kernels are compiled, each in a second or two: by several processes, which share Triton's cache
  has xdist && options+=(-n "$(($(nproc) < 8 ? $(nproc) : 8))" --dist worksteal)
  # a kernel that never ends must not take the other tests' results along
  has pytest_timeout && options+=(--timeout 150 --timeout-method thread)
  OMP_NUM_THREADS=2 installed logged test "$PYTHON" -m pytest -q "${options[@]}" --rootdir "$HERE" -c "$HERE/pyproject.toml" -m gpu \
    "$HERE/tests/ops" "$HERE/tests/kernels" "$HERE/tests/models" "$HERE/tests/bench/test_meter.py"
}
sanitize() {
  local sanitizer status=0 tool options
  sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
  if [ ! -x "$sanitizer" ]; then
    echo "gpu_session: there is no compute-sanitizer on PATH" >&2
    return 1
  fi
  for tool in memcheck racecheck synccheck; do
    # our kernels alone; torch asks for symbols that need not be there, and reaches the GPU after more than 10 seconds
    options=(--tool "$tool" --kernel-name kns=talk3d --report-api-errors no --launch-timeout 120 --error-exitcode 1)
    LIMIT=$((LIMIT / 3)) installed logged sanitize "$sanitizer" "${options[@]}" \
      "$PYTHON" "$HERE/benchmarks/small_cases.py" || status=1
  done
  return $status
}
# PEER SECONDS FILTER [PEERS]
against() {
  LIMIT=$2 installed logged bench "$PYTHON" -m pytest -q -p no:cacheprovider --rootdir "$HERE" -c "$HERE/pyproject.toml" \
    "$HERE/benchmarks" --device cuda --peer "$1" ${4:+--peers "$4"} --ledger --benchmark-json "$OUT/$1.json" -k "$3"
}
bench() {
  local status=0 file others=()
  if [ -n "$1" ]; then others=("$1"/*.py); fi
  local share=$((LIMIT / (5 + ${#others[@]})))
  against reference $((3 * share)) "render_rays or sample_triplane" || status=1
  installed logged bench "$PYTHON" "$HERE/benchmarks/roofline.py" "$OUT/reference.json" || status=1
  # the two cases that have gates: every other one compiles for a minute
  against compile $((2 * share)) "render_rays_forward and not backward and not min_weight" || status=1
  for file in "${others[@]}"; do
    against "$(basename "$file" .py)" "$share" "render_rays or sample_triplane" "$1" || status=1
  done
  find "$HERE"/benchmarks/results -name '*.csv' ! -name 'cpu-*' ! -name kernels.csv -exec cp {} "$OUT"/ \;
  return $status
}

frames() {
  local status=0
  # torch.compile comes last and may take all the time there is: what was found before is in the file then
  LIMIT=$((LIMIT - 60)) installed logged frames "$PYTHON" "$HERE/benchmarks/frames.py" --compile --json "$OUT/frames.json" ||
    status=1
  LIMIT=60 installed logged frames "$PYTHON" "$HERE/benchmarks/stages.py" "$OUT/frames.json" || status=1
  return $status
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
    for part in tests bench frames sanitize; do $part "$peers" || status=1; done
    exit $status
    ;;
esac
