#!/usr/bin/env bash
# Build the project's default model from the shared films: `make default-model` calls this.
#
#   configs/default-model.sh IMAGES.CSV FOLDER
#
# Every step goes on where it was killed; one that is done is left as it is. Two lanes run side by side,
# one core each, so that sums have one order and the same machine comes to the same weights.
set -euo pipefail

table=${1:?give the table of the shared films, e.g. ../shared/data/images.csv}
runs=${2:?give the folder of the runs, e.g. runs/default-model}
bin=${BIN:-.venv/bin}
configs=$(dirname "$0")
export TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1 TF_CPP_MIN_LOG_LEVEL=2

if [[ ! -f $table ]]; then
  echo "The shared films are missing: there is no $table. They are no part of the repository; if yours lie elsewhere," >&2
  echo "say so: make default-model FILMS=/path/to/data/images.csv" >&2
  exit 2
fi
mkdir -p "$runs/manifests"
manifest() { echo "$runs/manifests/$1.csv"; }
say() { printf '%(%H:%M:%S)T %s\n' -1 "$*" >&2; }

# train VERB NAME MANIFEST RECIPE [OPTION ...]: one run, with its lane's cache
train() {
  local verb=$1 name=$2 cases=$3 recipe=$4
  shift 4
  say "$name"
  "$bin/cxr" train "$verb" "$(manifest "$cases")" -o "$runs/$name" --recipe "$configs/default-model-$recipe.toml" \
    --cache "$runs/cache-$lane" "$@"
}

# The first phase: normal against abnormal. The folds' trunks have not seen the source that is held out.
trunks() {
  train pretrain trunk-nih trunk-nih trunk --set stages.0.epochs=12
  train pretrain trunk-kermany trunk-kermany trunk --set stages.0.epochs=5 --set stages.0.batch_norm_momentum=0.9
}

trunk() {
  train pretrain trunk-112 trunk trunk
  train finetune trunk-224 trunk trunk-224 --from "$runs/trunk-112"
}

# The folds: which way of the second phase does best on a pair of sources that neither phase has seen?
folds() {
  local pair
  for pair in hannover-nih cxnet-kermany hannover-kermany cxnet-nih; do
    local known=trunk-nih
    [[ $pair == *-nih ]] && known=trunk-kermany
    train finetune "fold-$1-$pair" "fold-$pair" "$1" --from "$runs/$known" --set pixels.size=112
    "$bin/cxr" train evaluate "$runs/fold-$1-$pair" > "$runs/fold-$1-$pair/figures.txt"
  done
}

# settle RUN: 8-bit kernels, calibrated anew; the form that is shipped, and that every figure below is of
settle() {
  say "$1, in 8 bits"
  [[ -f $runs/$1-8/fingerprint.json ]] || "$bin/cxr" train quantise "$runs/$1" -o "$runs/$1-8" --cache "$runs/cache-$lane"
}

# judge NAME FILE: figures of predictions, at the thresholds of the 8-bit model
judge() {
  "$bin/cxr" train evaluate "$1" --operating-point "$2/operating_point.json" -o "$3" --name "$4"
}

# pack RUN NAME: a package whose failed gates are accepted openly: a DEMONSTRATION MODEL
pack() {
  say "package $2"
  local registry=$runs/registry-$2 accepted=() gate fingerprint
  [[ -d $runs/$1/package ]] || "$bin/cxr" train package "$runs/$1" --cache "$runs/cache-$lane" \
    --note "$configs/default-model-${1%-8}-note.md"
  for gate in patients_disjoint auc calibration subgroups blanked_lungs; do accepted+=(--accept-gate "$gate"); done
  [[ -e $runs/shipped/$2 ]] && return  # promoted again, it would say another time
  mkdir -p "$registry"
  fingerprint=$(CXR_DATA_DIR=$registry "$bin/cxr" model promote "$runs/$1/package" "${accepted[@]}" --json \
    --reason "research default, trained on public films whose class is nearly their source: docs/default-model.md" |
    "$bin/python" -c 'import json, sys; print(json.load(sys.stdin)["fingerprint"])')
  mkdir -p "$runs/shipped"
  ln -sfn "../registry-$2/models/$fingerprint" "$runs/shipped/$2"
}

"$bin/python" -m training.shipped.manifests "$table" "$runs/manifests"
set -m # each lane is a group of processes, which ends with this script however that ends
trap 'for lane in $(jobs -p); do kill -- "-$lane" 2>/dev/null; done' EXIT
(lane=a; trunk) &
(
  lane=b
  trunks
  folds conv5
  say "the heads alone"
  [[ -f $runs/default-heads.json ]] || "$bin/python" -m training.shipped.compare_heads "$runs"
) &
wait -n
wait -n
set +m

# The choice stands in configs/default-model-covid.toml; from here on nothing is chosen. Both cores.
lane=a
export TF_NUM_INTRAOP_THREADS=2
train finetune covid covid covid --from "$runs/trunk-224"
settle covid
train finetune four four four --from "$runs/trunk-224"
settle four
say "the external test"
for each in covid four; do
  [[ -f $runs/$each-8/cohen.csv ]] ||
    "$bin/cxr" train predict "$runs/$each-8" "$(manifest cohen)" -o "$runs/$each-8/cohen.csv" --cache "$runs/cache-a"
  judge "$runs/$each-8/cohen.csv" "$runs/$each-8" "$runs/$each-8/cohen" "Cohen: COVID-19 against other pneumonia"
done
pack covid-8 covid19
pack four-8 four-class
say "the packages are $runs/shipped/covid19 and $runs/shipped/four-class"
