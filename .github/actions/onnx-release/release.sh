#!/usr/bin/env bash
# Export, verify, compare with the last release, bill of materials, push: what action.yml runs, and any other CI may.
# It needs optimum-htp[bom] installed, and MODEL and REPO set. Without HF_TOKEN nothing is pushed.
set -euo pipefail

: "${MODEL:?name the model to export}" "${REPO:?name the repo that it is released in}"
output=${OUTPUT:-release}
files=$output/model
last=$output/last
summary=${GITHUB_STEP_SUMMARY:-/dev/null}

step() { printf '\n== %s\n' "$*"; }

step "Export $MODEL"
optimum-cli export htp --model "$MODEL" --task "${TASK:-auto}" --verify-hub "$files"

step "Verify, weights included"
optimum-cli htp verify --weights "$files" | tee -a "$summary"

step "Compare with the last release"
rm -rf "$last"
if [ -z "${HF_TOKEN:-}" ]; then unset HF_TOKEN; fi
if hf download "$REPO" --include '*.onnx' '*.onnx_data' --local-dir "$last" >/dev/null 2>"$output/download.log"; then
  differs=0
  while IFS= read -r -d '' file; do
    name=${file#"$files"/}
    [ -f "$last/$name" ] || { echo "$name is new"; continue; }
    optimum-cli htp compare "$last/$name" "$file" --atol "${ATOL:-1e-4}" --rtol "${RTOL:-1e-3}" \
      -o "$output/compare-${name//\//-}.md" || differs=$?
    if [ "$differs" -gt 1 ]; then exit "$differs"; fi
    cat "$output/compare-${name//\//-}.md" >>"$summary"
  done < <(find "$files" -name '*.onnx' -print0 | sort -z)
  if [ "$differs" -ne 0 ] && [ "${ALLOW_DIFFERENCES:-false}" != true ]; then
    echo "It differs from the last release by more than the tolerances allow. Set ALLOW_DIFFERENCES=true to push it." >&2
    exit 1
  fi
elif grep -qE 'Repository Not Found|404' "$output/download.log"; then
  echo "$REPO has no release yet"
else
  cat "$output/download.log" >&2
  exit 1
fi

step "Bill of materials"
optimum-cli htp bom "$files" -o "$output/bom.cdx.json"

if [ -z "${HF_TOKEN:-}" ]; then
  echo "There is no HF_TOKEN: nothing is pushed"
  exit 0
fi
step "Push to $REPO"
optimum-cli htp push "$files" "$REPO" | tee -a "$summary"
