"""Install requirements.txt into the virtual environment of the Python that runs this, with the
PyTorch build that fits the machine. setup_env.sh and setup_env.bat make that environment and call
this; it uses only the standard library.

Exit codes: 0 ready, 1 this Python does not fit, 3 no virtual environment or too long a path, 4 pip
failed or a file cannot be written, 5 the packages do not import, 130 Ctrl-C.
"""

from __future__ import annotations

import filecmp
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent
REQUIREMENTS = ROOT / "requirements.txt"
PYTORCH_INDEX = "https://download.pytorch.org/whl/"
DRIVERS = "https://www.nvidia.com/drivers"
VC_RUNTIME = "https://aka.ms/vs/17/release/vc_redist.x64.exe"
PYTHON_ORG = "https://www.python.org/downloads/windows/"
AGAIN = "then run this again"
LONGEST_PATH = 259  # characters of a file's path on Windows, unless it allows long paths
LONGEST_WHEEL_PATH = 167  # a licence in torch-2.13.0.dist-info; relative to site-packages
VENDORS = {"0x10de": "an NVIDIA GPU", "0x1002": "an AMD GPU", "0x8086": "an Intel GPU"}  # PCI ids


class Gpu(NamedTuple):
    driver: int  # major version of the NVIDIA driver
    capability: int  # compute capability times ten


class Build(NamedTuple):
    """A build of PyTorch, and the GPUs and NVIDIA drivers it works with."""

    name: str
    driver: int
    windows_driver: int
    first: int  # compute capability times ten
    last: int

    def fits(self, capability: int) -> bool:
        return self.first <= capability <= self.last


# Best first. Architectures: https://github.com/pytorch/pytorch/issues/178665 and /172352 (cu128
# ends at torch 2.11). Drivers: each CUDA's own, except that any CUDA 12.x runs from 525 on, on
# Windows 528: https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html
BUILDS = (Build("cu130", 580, 580, 75, 999), Build("cu128", 570, 570, 75, 129), Build("cu126", 525, 528, 50, 99))
FULL_DRIVER = 560  # with an older one, cu126 cannot compile PTX


class SetupError(Exception):
    """An exit code and a line that says what is wrong and what to do."""

    def __init__(self, code: int, message: str):
        super().__init__(message)
        self.code = code


# ---- which PyTorch


def nvidia_gpus() -> list[Gpu] | None:
    """Return the GPUs that nvidia-smi names, None if it is missing or silent.

    An old driver does not know compute_cap and answers with a sentence, which names no GPU.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, "--query-gpu=driver_version,compute_cap", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=120,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    found = [re.fullmatch(r"(\d+)\.[\d.]+, *(\d+)\.(\d)", line.strip()) for line in done.stdout.splitlines()]
    return [Gpu(int(match[1]), int(match[2] + match[3])) for match in found if match] if done.stdout.strip() else None


def video_cards() -> list[str]:
    """Return what the system calls its video cards, of NVIDIA, AMD and Intel alone."""
    if sys.platform == "win32":
        return registered_cards()
    cards = [device.parent for device in Path("/sys/bus/pci/devices").glob("*/class") if device.read_text().startswith("0x03")]
    return [VENDORS[vendor] for card in sorted(cards) if (vendor := (card / "vendor").read_text().strip()) in VENDORS]


def registered_cards() -> list[str]:
    """Return the names of the video cards in the registry of Windows."""
    import winreg

    adapters, names = r"SYSTEM\CurrentControlSet\Control\Class\{4d36e968-e325-11ce-bfc1-08002be10318}", []
    for number in range(16):
        try:
            with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, rf"{adapters}\{number:04}") as key:
                names.append(str(winreg.QueryValueEx(key, "DriverDesc")[0]))
        except OSError:
            continue
    return [name for name in dict.fromkeys(names) if re.search("nvidia|amd|radeon|intel", name, re.IGNORECASE)]


def choose_build(gpus: Sequence[Gpu] | None, cards: Sequence[str], is_windows: bool) -> tuple[str, list[str]]:
    """Return the name of the build for the GPUs of `nvidia_gpus` and the cards of `video_cards`,
    and notices for the user.

    The build fits all GPUs. If none does, it fits the most capable one.
    """
    cpu = "the CPU build of PyTorch"
    update = f"update the NVIDIA driver from {DRIVERS}, delete venv and run this again to use the GPU fully"
    if not gpus:
        nvidia = next((card for card in cards if "nvidia" in card.lower()), None)
        if nvidia or gpus is not None:
            return "cpu", [f"nvidia-smi lists no usable GPU{f', but there is {nvidia}' if nvidia else ''}: {cpu}; if there is a GPU, {update}"]
        return "cpu", [f"{card} cannot be used, training needs an NVIDIA GPU: {cpu}, which is many times slower" for card in cards[:1]]
    driver, capabilities = gpus[0].driver, sorted({gpu.capability for gpu in gpus})
    for wanted in (capabilities, capabilities[-1:]):
        for build in BUILDS:
            if driver >= (build.windows_driver if is_windows else build.driver) and all(map(build.fits, wanted)):
                notices = [f"driver {driver} is old, {build.name} may run with limits; {update}"] if driver < FULL_DRIVER else []
                left_out = [number for number in capabilities if not build.fits(number)]
                if left_out:
                    notices.append(f"no build fits all GPUs here: {build.name} leaves those of compute capability {_dotted(left_out)} out")
                return build.name, notices
    if capabilities[-1] < min(build.first for build in BUILDS):
        return "cpu", [f"a GPU of compute capability {_dotted(capabilities[-1:])} is too old for PyTorch: {cpu}"]
    return "cpu", [f"driver {driver} is too old for the GPU: {cpu}; {update}"]


def _dotted(capabilities: Sequence[int]) -> str:
    return ", ".join(f"{number // 10}.{number % 10}" for number in capabilities)


def index_options(build: str, system: str) -> list[str]:
    """Return pip's options for the index that has `build`. PyPI has cu130 for Linux, and the only
    one for macOS."""
    if system == "Linux" and build == "cpu":  # 2.x+cpu is newer than 2.x; without that index, pip takes PyPI's: no retries and their warnings
        return ["--retries", "0", "--extra-index-url", PYTORCH_INDEX + build]
    is_on_pypi = system not in ("Windows", "Linux") or (system == "Linux" and build == "cu130")
    return [] if is_on_pypi else ["--index-url", PYTORCH_INDEX + build]


# ---- what stops an installation before it begins


def check_python(built_for: str, machine: str, is_64_bit: bool) -> None:
    """Raise SetupError if there are no packages for this Python: it is 32-bit, or one for
    Windows on ARM or an Intel Mac.

    On Windows `machine` is the CPU even for an emulated Python, so `built_for` counts, the platform
    of sysconfig; that of a Python for both kinds of Mac says nothing, so there `machine` counts.
    """
    if not is_64_bit:
        raise SetupError(1, f"this Python is 32-bit, and PyTorch needs 64-bit: install the 64-bit Python from {PYTHON_ORG}, delete venv, {AGAIN}")
    if built_for.startswith("macosx") and machine == "x86_64":
        raise SetupError(
            1,
            f"there is no PyTorch for Intel Macs: use Linux in a virtual machine, or another computer; on Apple silicon use an arm64 Python, delete venv, {AGAIN}",
        )
    if built_for == "win-arm64":
        raise SetupError(
            1,
            f"there is no pyarrow for the ARM64 Python: install the 64-bit one (AMD64) from {PYTHON_ORG}, which Windows on ARM runs, delete venv, {AGAIN}",
        )


def check_path_lengths(site_packages: str, allows_long_paths: bool) -> None:
    """Raise SetupError if the longest path of the packages would be too long for Windows."""
    excess = len(site_packages) + 1 + LONGEST_WHEEL_PATH - LONGEST_PATH
    if excess > 0 and not allows_long_paths:
        raise SetupError(
            3, f"the path of this folder is {excess} characters too long for the packages: move it, for example to C:\\nano_hindi, {AGAIN}"
        )


def allows_long_paths() -> bool:
    """Return whether this Windows allows paths of more than 259 characters."""
    if sys.platform != "win32":
        return True
    import winreg

    try:
        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, r"SYSTEM\CurrentControlSet\Control\FileSystem") as key:
            return bool(winreg.QueryValueEx(key, "LongPathsEnabled")[0])
    except OSError:
        return False


# ---- the installation


def install(venv: Path, system: str) -> None:
    """Install the packages and check that they import. Raises SetupError."""
    check_python(sysconfig.get_platform(), platform.machine(), sys.maxsize > 2**32)
    if system == "Windows":
        check_path_lengths(str(venv / "Lib" / "site-packages"), allows_long_paths())
    options, name = torch_options(system)
    torch = next(line.split()[0] for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines() if re.match(r"torch\b", line))
    print(f"setup: installing PyTorch, {name}", flush=True)
    pip("--no-deps", *options, torch)
    print("setup: installing the other packages", flush=True)
    pip("--requirement", str(REQUIREMENTS.relative_to(ROOT)))
    if system == "Windows" and not importlib.metadata.version("torch").endswith("+cpu"):  # on a CPU, torch.compile needs Visual Studio's cl instead
        install_triton()
    check_imports(system)


def torch_options(system: str) -> tuple[list[str], str]:
    """Return pip's options for PyTorch, and the name of the build. Prints notices."""
    if url := os.environ.get("TORCH_INDEX_URL"):
        return ["--index-url", url], f"from {url}"
    build, notices = choose_build(nvidia_gpus(), video_cards(), system == "Windows")
    for notice in notices:
        print(f"notice: {notice}", file=sys.stderr, flush=True)
    options, name = index_options(build, system), "the CPU build" if build == "cpu" else f"for {build}"
    return options, name if options else "the default build"


def pip(*arguments: str, quiet: bool = False) -> None:
    """Run `pip install`. Prints errors, and on a terminal the progress of the downloads too."""
    flags = [] if sys.stdout.isatty() and not quiet else ["-qq"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", *flags, "--disable-pip-version-check", *arguments],
        cwd=ROOT,
        stderr=subprocess.DEVNULL if quiet else None,
    )
    if done.returncode != 0:
        raise SetupError(4, f"pip could not install the packages (its reason is above): check the connection and the free disk space, {AGAIN}")


def install_triton() -> None:
    """Install Triton for Windows, of the minor version that this torch was released with:
    .ci/docker/triton_version.txt of pytorch."""
    version = {"2.9": "3.5", "2.10": "3.6", "2.11": "3.6"}.get(".".join(importlib.metadata.version("torch").split(".")[:2]), "3.7")
    try:
        pip(f"triton-windows=={version}.*", quiet=True)
    except SetupError:
        print(f"notice: triton-windows {version} could not be installed: training runs without torch.compile, more slowly", flush=True)


CHECK = """
import pyarrow, torch, transformers
cuda = getattr(torch, 'cuda', None)
print('setup: torch', torch.__version__, 'on', cuda.get_device_name() if cuda and cuda.is_available() else 'CPU')
"""


def check_imports(system: str) -> None:
    """Import the packages in a new process. Raises SetupError if that fails."""
    done = subprocess.run([sys.executable, "-c", CHECK], cwd=ROOT, stderr=subprocess.PIPE, text=True, encoding="utf-8", errors="replace")
    if done.returncode == 0:
        return
    print(done.stderr, end="", file=sys.stderr, flush=True)
    if system == "Windows" and re.search(r"WinError (126|1114)|c10\.dll", done.stderr):
        raise SetupError(5, f"the Microsoft Visual C++ runtime, which PyTorch needs, is missing or too old: install {VC_RUNTIME}, {AGAIN}")
    raise SetupError(5, "the packages are installed but do not work (the reason is above): delete venv and run this again")


def main() -> int:
    venv = Path(sys.executable).parent.parent  # not sys.prefix, whose symbolic links are resolved
    stamp = venv / ".requirements"  # a copy of requirements.txt, written last: without it, the setup is not finished
    try:
        if not any((venv / name).exists() for name in ("pyvenv.cfg", "conda-meta")):
            raise SetupError(3, f"{venv} is not a virtual environment: start setup_env.sh or setup_env.bat, with VENV unset or naming a new folder")
        if stamp.exists() and filecmp.cmp(REQUIREMENTS, stamp, shallow=False):
            return 0
        stamp.unlink(missing_ok=True)
        install(venv, platform.system())
        shutil.copyfile(REQUIREMENTS, stamp)
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.code
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}: check the permissions and the free disk space, {AGAIN}", file=sys.stderr)
        return 4
    except KeyboardInterrupt:
        print("setup: stopped; run this again to continue", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    if sys.argv[1:]:  # --help, or what it would ignore
        print(__doc__)
        sys.exit(0 if sys.argv[1] in ("-h", "--help") else 2)
    sys.exit(main())
