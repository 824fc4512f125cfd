"""Put a page that runs an ONNX export in the browser into its folder, with the two libraries that
the page needs. Afterwards the folder needs no network, only a file server:

python -m nano_hindi.export --checkpoint checkpoints --output_dir my_onnx --format onnx
python examples/web/prepare.py my_onnx
python -m http.server --directory my_onnx --bind 127.0.0.1
"""

import argparse
import base64
import hashlib
import http.client
import io
import tarfile
import urllib.request
from pathlib import Path

# of each package: its address, its SHA-512 (from the registry), and the files that the page needs
LIBRARIES = {
    "onnxruntime-web/-/onnxruntime-web-1.30.0.tgz": (
        "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
        ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"),
    ),
    "@huggingface/tokenizers/-/tokenizers-0.2.0.tgz": (
        "LidMHe1FpcSYH4vcSjXooda34pC0M8m1gmDOv7SQi6Iv+ib1zX7J3sHBCC9/3FPCkn2k1b55FneVqMRxrr99pg==",
        ("tokenizers.min.mjs",),
    ),
}


def fetch(folder: Path, registry: str) -> None:
    """Put the files of LIBRARIES that are missing into `folder`."""
    for address, (digest, names) in LIBRARIES.items():
        if all((folder / name).is_file() for name in names):
            continue
        try:
            with urllib.request.urlopen(f"{registry}/{address}", timeout=60) as answer:
                package = answer.read()
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise SystemExit(f"error: cannot fetch {registry}/{address}: {error}") from None
        if base64.b64encode(hashlib.sha512(package).digest()).decode() != digest:
            raise SystemExit(f"error: {registry}/{address} is not the file that it should be; nothing was kept of it")
        with tarfile.open(fileobj=io.BytesIO(package)) as archive:
            for name in names:
                part = folder / f"{name}.part"
                part.write_bytes(archive.extractfile(f"package/dist/{name}").read())
                part.replace(folder / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("folder", type=Path, help="folder written by export --format onnx")
    parser.add_argument("--registry", default="https://registry.npmjs.org", metavar="URL", help="address of the npm registry or of a mirror")
    args = parser.parse_args()
    if not (args.folder / "model.onnx").is_file():
        raise SystemExit(f"error: there is no model.onnx in {args.folder}: write one with python -m nano_hindi.export --format onnx")
    fetch(args.folder, args.registry.rstrip("/"))
    (args.folder / "index.html").write_bytes(Path(__file__).with_name("index.html").read_bytes())
    print(f'python -m http.server --directory "{args.folder}" --bind 127.0.0.1\nThen open http://127.0.0.1:8000')


if __name__ == "__main__":
    main()
