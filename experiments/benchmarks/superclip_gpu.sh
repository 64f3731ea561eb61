#!/bin/sh
# What SuperCLIP costs and gives on one GPU: `sh experiments/benchmarks/superclip_gpu.sh OUT`, in a checkout.
# Trains ViT-S/16 at 96 px in bfloat16, in one process of torchrun (NCCL), on shapes and, where HEADWORD_DATA
# names a folder that has it, on flickr8k; then times the step and the token loss.
set -eu
out=$1

for data in shapes:size=96 ${HEADWORD_DATA:+"$HEADWORD_DATA/data/flickr8k/captions.jsonl"}; do
  case $data in
    shapes*) name=shapes steps=3000 options= ;;
    *) name=flickr8k steps=1000 options="--set split=train --eval-data $data --set eval_split=test" ;;
  esac
  for method in clip superclip; do
    for batch in 256 512 1024; do
      torchrun --nproc-per-node 1 -m headword train --data "$data" $options --method $method \
        --model ViT-S-16 --image-size 96 --batch-size $batch --steps $steps --workers 8 \
        --device cuda --dtype bfloat16 --resume auto --out "$out/$name-$method-b$batch"
    done
  done
done

for batch in 256 1024; do
  python -m experiments superclip-step --model ViT-S-16 --batch $batch --device cuda --dtype bfloat16
done
python -m experiments token-loss-memory --batch 4096 --device cuda --dtype bfloat16
