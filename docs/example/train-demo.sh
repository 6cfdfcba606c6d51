#!/usr/bin/env bash
# The whole path on real public films, small enough for two cores: index, split, audit, cache, pretrain, fine-tune,
# evaluate, package, promote; the running service then scores a radiograph that is sent to it. Nothing of it is for
# clinical use: in these films class and source nearly coincide, and the gates say so.
#
#   docs/example/train-demo.sh            or: make train-demo
#
# DEMO_DATA     folder with images.csv, images/ and dicom/        (default: ../shared/data beside the checkout)
# DEMO_FOLDER   where everything is written; must not exist      (default: var/train-demo)
# DEMO_SETS     further overrides of both recipes, KEY=VALUE, one a word
# DEMO_PORT     port of the demonstration's service              (default: 11199)
set -euo pipefail
cd "$(dirname "$0")/../.."

data=$(realpath -m "${DEMO_DATA:-../shared/data}")
out=$(realpath -m "${DEMO_FOLDER:-var/train-demo}")
port=${DEMO_PORT:-11199}
cxr=${CXR:-$PWD/.venv/bin/cxr}
film=$data/dicom/chest_frontal/nema_RG1_J2KI.dcm
before=$PWD/docs/example/frontal.dcm

for needed in "$data/images.csv" "$data/images" "$film"; do
  if [[ ! -e $needed ]]; then
    echo "The demonstration needs labelled films: $needed is not there. Point DEMO_DATA to a folder with images.csv" \
         "(columns file, finding, view, patient_id, source_dataset, ...), images/ and dicom/chest_frontal/." >&2
    exit 2
  fi
done
if [[ -e $out ]]; then
  echo "$out exists: remove it, or name another folder with DEMO_FOLDER." >&2
  exit 2
fi
mkdir -p "$out/reports"

say() { # a command as one would type it, then what it does
  printf '\n\033[1m$ %s\033[0m\n' "${*//$PWD\//}" >&2
  "$@"
}

# 64 x 64 pixels, random weights, 600 images an epoch: minutes, not hours.
more=()
for each in ${DEMO_SETS:-}; do more+=(--set "$each"); done
small=(--set pixels.size=64)
pretrain=("${small[@]}" --set stages.1.epochs=4 --set stages.1.images_per_epoch=600 --set stages.1.learning_rate=1e-3
  --set 'task.labels={abnormal=["covid19","bacterial_pneumonia","viral_pneumonia","other_pneumonia","other"]}'
  "${more[@]}")
finetune=("${small[@]}" --set 'task.negative=["*","other"]' --set stages.0.epochs=1 --set stages.1.epochs=3 --set stages.1.images_per_epoch=600
  --set stages.1.learning_rate=3e-4 "${more[@]}")

# A service of its own, running from the start with the model that it has without being given one.
cat >"$out/cxr.toml" <<TOML
data_dir = "$out/var"
[listener]
port = $port
[worker]
poll_s = 0.2
[[destinations]]
name = "reports"
kind = "folder"
address = "$out/reports"
TOML
service() { "$cxr" --config "$out/cxr.toml" "$@"; }
"$cxr" --config "$out/cxr.toml" serve >"$out/service.log" 2>&1 &
serving=$!
trap 'kill $serving 2>/dev/null || true; wait $serving 2>/dev/null || true' EXIT

until (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
  kill -0 $serving || { tail -5 "$out/service.log" >&2; exit 1; }
  sleep 0.5
done
say "$cxr" send "$before" --to "127.0.0.1:$port"

say "$cxr" train index csv "$data" -o "$out/manifest.csv" --table images.csv --column path=file --column label=finding \
  --column source=source_dataset --where is_frontal=yes --where label_conflict=no
say "$cxr" train split "$out/manifest.csv" --fractions 0.6,0.2,0.2 \
  --train-only "COVID-CXNet COVID-19 CXR collection (Haghanifar et al. 2020)"
say "$cxr" train audit "$out/manifest.csv" -o "$out" --plots --no-files
say "$cxr" train cache "$out/manifest.csv" -o "$out/cache" --recipe default-pretrain \
  --set weights.source=random "${small[@]}" "${more[@]}"
say "$cxr" train pretrain "$out/manifest.csv" -o "$out/pretrain" --cache "$out/cache" --weights random "${pretrain[@]}"
say "$cxr" train finetune "$out/manifest.csv" -o "$out/finetune" --from "$out/pretrain" --cache "$out/cache" \
  "${finetune[@]}"
say "$cxr" train evaluate "$out/finetune" --replicates 500 --gallery
say "$cxr" train package "$out/finetune" --cache "$out/cache" --replicates 500
sed -n '1,8p' "$out/finetune/package/MODEL_CARD.md"

# The gates, which these films do not pass: what is refused is shown, then accepted openly, by name.
package=$out/finetune/package
if ! say "$cxr" --config "$out/cxr.toml" model promote "$package" --reason "to see it run" 2>"$out/refusal.txt"; then
  cat "$out/refusal.txt" >&2
  accepted=()
  for gate in $(grep -oE 'gate [a-z_]+:' "$out/refusal.txt" | sed -E 's/gate ([a-z_]+):/\1/' | sort -u); do
    accepted+=(--accept-gate "$gate")
  done
  say "$cxr" --config "$out/cxr.toml" model promote "$package" "${accepted[@]}" \
    --reason "demonstration on public films, whose class and source nearly coincide"
fi

# One radiograph had been scored before the promotion; the next is scored by the new model, and the service never stopped.
finished() { service audit list --json | grep -cE '"state": *"reported"' || true; }
wait_for_reports() {
  for _ in $(seq 600); do
    [[ $(finished) -ge $1 ]] && return
    kill -0 $serving || { tail -5 "$out/service.log" >&2; exit 1; }
    sleep 1
  done
  echo "The service has not reported $1 image(s) in 10 minutes; its log: $out/service.log" >&2
  exit 1
}
say "$cxr" send "$film" --to "127.0.0.1:$port"
wait_for_reports 2
say "$cxr" --config "$out/cxr.toml" audit list
find "$out/reports" -type f -name '*.dcm' -newer "$out/refusal.txt" | head -1
kill $serving || true
wait $serving || true
echo "Done in ${SECONDS} s. The run's folder: $out/finetune; the service's: $out/var; reports: $out/reports" >&2
