#!/bin/sh
# From a folder of photos to a served pair: sh examples/photos/run.sh PHOTOS
set -eu
photos=$1
here=$(dirname "$0")

branchynet attach "$here/model.py:lite0" --new-classifier --data "$photos" --mean 0.5 --std 0.5 \
    --epochs 10 --calibration-images 800 --out lite0
branchynet calibrate --artifact lite0 --data "$photos" --tolerated-loss 0.02 --out lite0
branchynet train --bottleneck --artifact lite0 --cut 1 --data "$photos"
branchynet evaluate lite0 --data "$photos"

branchynet cloud --artifact lite0 &
branchynet edge --artifact lite0 --cloud 127.0.0.1:8011 --codec bottleneck &
trap 'kill $(jobs -p)' EXIT
branchynet classify "$photos/test"
