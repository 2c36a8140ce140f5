"""bitnet.json: hyperparameters, tensor names and shapes that llama.cpp's own converter gives a BitNet checkpoint.

Run in the repository with its .venv: make_bitnet.py CONVERTER PYTHON, where CONVERTER is convert_hf_to_gguf.py of the
pinned tree and PYTHON an interpreter that has what it imports (torch, transformers).
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parents[1] / "e2e"))


def main(converter: str, python: str) -> None:
    from ternary_models import make

    with tempfile.TemporaryDirectory() as temporary:
        model, output = make(Path(temporary) / "1bitllm", "1bitllm"), Path(temporary) / "x.gguf"
        subprocess.run([python, converter, model.folder, "--outtype", "f32", "--outfile", output], check=True)
        reader = gguf.GGUFReader(output)
        metadata = {name: field.contents() for name, field in reader.fields.items() if name.startswith("bitnet.")}
        tensors = {tensor.name: tensor.shape.tolist()[::-1] for tensor in reader.tensors}
        text = json.dumps({"metadata": metadata, "tensors": dict(sorted(tensors.items()))}, indent=1)
    (FOLDER / "bitnet.json").write_text(text + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
