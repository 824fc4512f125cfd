"""The launchers: the .sh files and setup_env.py run with stand-ins for Python and nvidia-smi; the
.bat files are checked as text, and run under Wine where RUN_BAT names a program that does so
(`RUN_BAT=../shared/windows/run_bat.sh`, called as run_bat.sh [--venv] [--env K=V] [--json FILE]
FOLDER FILE.bat ARGUMENTS)."""

import contextlib
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

import setup_env
from conftest import PATIENCE, ROOT, launched, run_command, wait_until

BATCH_FILES = sorted(path for path in ROOT.rglob("*.bat") if not {"venv", ".venv", "site-packages"} & set(path.parts))
SCRIPTS = ("setup_env.py", "train.py", "generate.py", "serve.py", "data/download.py", "data/preprocess.py")
POSIX = pytest.mark.skipif(os.name == "nt", reason="the .sh launchers are for Linux and macOS")
TORCH = next(line.split()[0] for line in (ROOT / "requirements.txt").read_text().splitlines() if line.startswith("torch"))  # with its versions
WHL = "https://download.pytorch.org/whl/"

# Logs its arguments, copies itself to make a "venv", and exits with the code that FAKE_RC gives for
# the command ("train=130 pip=1"). A real Python runs setup_env.py, and calls this one from there.
FAKE_PYTHON = r"""#!/bin/bash
case "$*" in
    --version) echo "${FAKE_VERSION-Python 3.11.9}"; exit ;;
    "-m venv "*) key=venv ;;
    "-m pip "*) key=pip ;;
    "-m "*) key=$2 ;;
    "-c import os, signal"*) shift 2; exec REAL_PYTHON -c 'import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])' "$0" "$@" ;;
    "-c import pip"*) key=works ;;
    "-c import ensurepip"*) key=ensurepip ;;
    "-c import starlette"*) key=page ;;
    -c*) key=import ;;
    setup_env.py) exec REAL_PYTHON -c 'import sys, setup_env; sys.executable = sys.argv[1]; setup_env.video_cards = lambda: []; sys.exit(setup_env.main())' "$0" ;;
    *) key=${1##*/} key=${key%.py} ;;
esac
{ printf '%s\x1f' "$0" "$@"; echo; } | tr -d '\n' >>"$FAKE_LOG"; echo >>"$FAKE_LOG"
[ "$PYTHONUTF8" = 1 ] || echo "PYTHONUTF8 is not set" >&2
[ "$key" != "${FAKE_HANG-}" ] || { trap 'echo saved; kill $!; exit 143' TERM; trap 'kill $!; [ "$FAKE_END" != signal ] || { trap - INT; kill -INT $$; }; exit 130' INT; sleep 9999 >&- 2>&- & touch "$FAKE_LOG.hangs"; wait; }
for rule in ${FAKE_RC-}; do [ "${rule%=*}" != "$key" ] || { echo "stub $key fails"; exit "${rule#*=}"; }; done
[ "$key" != venv ] || { rm -rf "${@: -1}" && mkdir -p "${@: -1}/bin" && cp "$0" "${@: -1}/bin/python" && touch "${@: -1}/pyvenv.cfg"; }
""".replace("REAL_PYTHON", shlex.quote(sys.executable))


class Machine:
    """A copy of the launchers in a folder with a difficult name, and a PATH with only a few tools
    and what a test adds."""

    TOOLS = ("bash", "dirname", "cmp", "cp", "ls", "rm", "uname", "mkdir", "tr", "touch", "sleep")

    def __init__(self, folder: Path):
        self.repo, self.bin, self.log = folder / "my & (own) it's नैनो", folder / "bin", folder / "log"
        self.repo.mkdir()
        self.bin.mkdir()
        for path in [*ROOT.glob("*.sh"), *ROOT.glob("requirements*.txt"), ROOT / "setup_env.py"]:
            shutil.copy(path, self.repo)
        for tool in self.TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool))
        self.put(FAKE_PYTHON, self.bin / "python3")

    def put(self, script: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(script, encoding="utf-8")
        path.chmod(0o755)

    def gpus(self, *lines: str) -> None:
        wanted = "--query-gpu=driver_version,compute_cap --format=csv,noheader"
        answer = "\n".join(f"echo '{line}'" for line in lines)
        self.put(f'#!/bin/bash\n[ "$*" = "{wanted}" ] || exit 9\n{answer}\n', self.bin / "nvidia-smi")

    def make(self, *names: str) -> None:
        for name in names:
            (self.repo / name).parent.mkdir(parents=True, exist_ok=True)
            (self.repo / name).write_text("made by the test\n")

    def start(self, script: str, *arguments: str, shell: str = "bash", **env: str) -> contextlib.AbstractContextManager[subprocess.Popen]:
        self.log.write_text("")
        return launched(
            [shell, self.repo / script, *arguments],
            cwd=self.bin,  # never the repo's folder
            env={"PATH": str(self.bin), "HOME": str(self.bin), "LC_ALL": "C.UTF-8", "FAKE_LOG": str(self.log), **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, script: str, *arguments: str, **env: str) -> tuple[int, str, str]:
        """Return exit code, stdout and stderr."""
        with self.start(script, *arguments, **env) as process:
            out, err = process.communicate(timeout=PATIENCE)
        return process.returncode, out, err

    def run_to_its_hang(self, number: int, script: str, **env: str) -> tuple[int, str, str]:
        """Do the same, and send the signal `number` to the whole session, as a terminal does, when
        it reaches FAKE_HANG."""
        with self.start(script, **env) as process:
            wait_until(self.log.with_name("log.hangs").exists, env["FAKE_HANG"])
            os.killpg(process.pid, number)
            out, err = process.communicate(timeout=PATIENCE)
        return process.returncode, out, err

    def calls(self) -> list[list[str]]:
        """Return the arguments of every call of Python, except those that ask for its version."""
        return [line.split("\x1f")[1:-1] for line in self.log.read_text(encoding="utf-8").splitlines()]

    def scripts(self) -> list[list[str]]:
        return [call for call in self.calls() if call[0].endswith(".py")]


@pytest.fixture
def machine(tmp_path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def ready(machine) -> Machine:
    """Return a machine with an environment."""
    assert machine.run("setup_env.sh")[0] == 0
    return machine


# ---- setup_env.sh


@POSIX
def test_first_setup_makes_the_environment_and_a_second_does_nothing(machine):
    code, out, err = machine.run("setup_env.sh")
    assert (code, err) == (0, "")
    assert all(line.startswith("setup: ") for line in out.splitlines())
    asked = [call[:3] for call in machine.calls()]
    assert [call for call in asked if call[0] == "-m"] == [["-m", "venv", "--clear"], *[["-m", "pip", "install"]] * 2]
    assert (machine.repo / "venv/.requirements").read_bytes() == (ROOT / "requirements.txt").read_bytes()
    assert machine.run("setup_env.sh") == (0, "", "")
    assert [call[0] for call in machine.calls()] == ["-c"], "a second start calls pip or makes something"


@POSIX
@pytest.mark.parametrize(
    "damage", ["empty folder", "python is no program", "python is gone", "other requirements", "no stamp", "conda", "python lost pip"]
)
def test_damaged_or_outdated_environment_is_repaired(ready, damage):
    venv, env = ready.repo / "venv", {}
    if damage == "empty folder":
        shutil.rmtree(venv)
        venv.mkdir()
    elif damage == "python is no program":
        (venv / "bin/python").write_text("half a program")
    elif damage == "python is gone":
        (venv / "bin/python").unlink()
        (venv / "bin/python").symlink_to("/usr/bin/python3.0")
    elif damage == "other requirements":
        (venv / ".requirements").write_text("torch\n")
    elif damage in ("no stamp", "conda"):
        (venv / ".requirements").unlink()
        if damage == "conda":  # an environment of conda that VENV names
            (venv / "pyvenv.cfg").rename(venv / "conda-meta")
    else:
        env = {"FAKE_RC": "works=1"}
    code, _, err = ready.run("setup_env.sh", **env)
    assert (code, err) == (0, "")
    made = ["-m", "venv"] in [call[:2] for call in ready.calls()]
    assert made == (damage not in ("other requirements", "no stamp", "conda"))
    assert sum(call[:2] == ["-m", "pip"] for call in ready.calls()) == 2
    assert (venv / ".requirements").exists()


@POSIX
@pytest.mark.parametrize("file", ["a.jpg", ".hidden", "pyvenv.cfg", ".requirements"])
def test_setup_replaces_no_files_in_a_folder_that_it_did_not_make(machine, file):
    """Not even an environment of the user's own, in which it once installed the packages."""
    machine.make(f"my photos/{file}")
    code, _, err = machine.run("setup_env.sh", VENV="my photos")
    assert (code, machine.calls()) == (3, [])
    assert err.startswith("error: VENV=my photos has files but no Python")
    assert (machine.repo / "my photos" / file).exists()


@POSIX
@pytest.mark.parametrize("finished", [False, True])
def test_setup_replaces_an_environment_of_its_own_that_lost_its_python(machine, finished):
    assert machine.run("setup_env.sh", VENV="my venv", FAKE_RC="" if finished else "pip=1")[0] == (0 if finished else 4)
    (machine.repo / "my venv/bin/python").unlink()
    assert machine.run("setup_env.sh", VENV="my venv")[0] == 0
    assert (machine.repo / "my venv/.requirements").exists()


@POSIX
def test_killed_setup_continues_at_the_next_start(machine):
    machine.run_to_its_hang(signal.SIGKILL, "setup_env.sh", FAKE_HANG="pip")
    assert (machine.repo / "venv/bin/python").exists()
    assert not (machine.repo / "venv/.requirements").exists()
    code, out, _ = machine.run("setup_env.sh")
    assert code == 0
    assert "installing PyTorch" in out
    assert (machine.repo / "venv/.requirements").exists()


@POSIX
def test_ctrl_c_during_setup_is_not_reported_as_a_pip_failure(machine):
    code, _, err = machine.run_to_its_hang(signal.SIGINT, "run_training.sh", FAKE_HANG="pip")
    assert (code, err) == (130, "setup: stopped; run this again to continue\n")
    assert not (machine.repo / "venv/.requirements").exists()


@POSIX
@pytest.mark.parametrize(
    ("env", "code", "message"),
    [
        ({"FAKE_VERSION": "Python 3.9.18"}, 1, "Python 3.9.18 is too old"),
        ({"FAKE_VERSION": "Python 2.7.18"}, 1, "Python 2.7.18 is too old"),
        ({"FAKE_VERSION": "Python 3.15.0"}, 1, "Python 3.15.0 is too new for PyTorch: use Python 3.10 to 3.14"),
        ({"PYTHON": "/no where/python or python3"}, 1, "/no where/python or python3 does not start a Python"),
        ({"FAKE_RC": "venv=1 ensurepip=1"}, 3, "apt install python3-venv"),
        ({"FAKE_RC": "venv=1"}, 3, "stub venv fails"),
        ({"FAKE_RC": "pip=1"}, 4, "pip could not install"),
        ({"FAKE_RC": "import=1"}, 5, "do not work"),
    ],
)
def test_each_setup_failure_has_its_exit_code_and_a_one_line_error_and_no_stamp(machine, env, code, message):
    got, _, err = machine.run("setup_env.sh", **env)
    assert got == code
    assert message in err
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    assert not (machine.repo / "venv/.requirements").exists()
    assert machine.run("run_training.sh", **env)[0] == code, "run_training returns the same code"
    assert not machine.scripts()


@POSIX
def test_without_python_the_error_says_what_to_install(machine):
    (machine.bin / "python3").unlink()
    code, _, err = machine.run("setup_env.sh")
    assert code == 1
    assert "there is no Python here: install Python 3.10 to 3.14" in err


@POSIX
def test_newer_python_is_found_beside_one_that_is_too_old(machine):
    machine.put("#!/bin/bash\necho Python 3.8.10\n", machine.bin / "python3")
    machine.put(FAKE_PYTHON, machine.bin / "python3.12")
    code, out, _ = machine.run("setup_env.sh")
    assert code == 0
    assert "with python3.12" in out


@POSIX
@pytest.mark.parametrize(("script", "arguments"), [("setup_env.sh", ()), ("run_training.sh", ("sample", "--dry_run")), ("chat.sh", ("no model",))])
def test_launcher_started_with_sh_is_run_by_bash(machine, script, arguments):
    code, out, err = machine.run(script, *arguments)
    calls = machine.calls()
    shutil.rmtree(machine.repo / "venv", ignore_errors=True)
    assert machine.run(script, *arguments, shell="/bin/sh") == (code, out, err)
    assert machine.calls() == calls
    assert "not found" not in err


# ---- which PyTorch

AMD, INTEL, NVIDIA = "AMD Radeon RX 7600", "Intel(R) UHD Graphics", "NVIDIA GeForce RTX 5090"
# output of nvidia-smi, the other video cards, the build to install, a word of each notice
GPUS = [
    (["580.65, 8.9"], [], "cu130", []),
    (["581.15, 12.0"], [INTEL], "cu130", []),
    (["595.02, 7.5"], [], "cu130", []),
    (["579.99, 8.9"], [], "cu128", []),
    (["570.133.20, 7.5"], [], "cu128", []),
    (["572.83, 12.0"], [], "cu128", []),
    (["569.99, 8.6"], [], "cu126", []),
    (["560.35.03, 9.0"], [], "cu126", []),
    (["581.15, 6.1"], [], "cu126", []),
    (["572.83, 7.0"], [], "cu126", []),
    (["581.15, 5.0"], [], "cu126", []),
    (["551.23, 8.6"], [], "cu126", ["update the NVIDIA driver"]),
    (["528.33, 9.0"], [], "cu126", ["update the NVIDIA driver"]),
    (["566.36, 12.0"], [], "cpu", ["update the NVIDIA driver"]),
    (["522.06, 8.6"], [], "cpu", ["update the NVIDIA driver"]),
    (["470.256.02, 3.5"], [], "cpu", ["compute capability 3.5 is too old for PyTorch"]),
    (["581.15, 8.6", "581.15, 12.0"], [], "cu130", []),
    (["581.15, 12.0", "581.15, 6.1"], [], "cu130", ["no build fits all GPUs here: cu130 leaves those of compute capability 6.1 out"]),
    (["566.36, 12.0", "566.36, 8.6"], [], "cpu", ["update the NVIDIA driver"]),
    (["572.83, 6.1", "572.83, 8.6"], [], "cu126", []),
    (['Field "compute_cap" is not a valid field to query.'], [], "cpu", ["no usable GPU"]),
    (["NVIDIA-SMI has failed because it could not talk to the NVIDIA driver."], [], "cpu", ["no usable GPU"]),
    (["581.15, [N/A]"], [INTEL], "cpu", ["no usable GPU"]),
    ([], [], "cpu", []),
    ([], [AMD, INTEL], "cpu", ["AMD Radeon RX 7600 cannot be used, training needs an NVIDIA GPU"]),
    ([], [INTEL], "cpu", [r"Intel.R. UHD Graphics cannot be used"]),
    ([], [INTEL, NVIDIA], "cpu", ["there is NVIDIA GeForce RTX 5090.*update the NVIDIA driver"]),
]


def index_options(call: list[str]) -> list[str]:
    """Return the words between --no-deps and the name of torch: the index it is installed from."""
    assert call[-1] == TORCH
    return call[call.index("--no-deps") + 1 : -1]


@pytest.mark.parametrize(("lines", "cards", "build", "notices"), GPUS)
def test_driver_and_compute_capability_choose_the_build(lines, cards, build, notices, monkeypatch):
    monkeypatch.setattr(setup_env.shutil, "which", lambda name: name if lines else None)
    monkeypatch.setattr(setup_env.subprocess, "run", lambda *_, **__: SimpleNamespace(stdout="\n".join(lines)))
    for is_windows in (False, True):
        name, said = setup_env.choose_build(setup_env.nvidia_gpus(), cards, is_windows)
        assert name == build
        assert all(re.search(pattern, notice) for pattern, notice in zip(notices, said, strict=True))


def test_oldest_driver_for_cuda_12_depends_on_the_system():
    gpus = [setup_env.Gpu(driver=526, capability=86)]
    assert [setup_env.choose_build(gpus, [], is_windows)[0] for is_windows in (False, True)] == ["cu126", "cpu"]


@pytest.mark.parametrize("build", ["cu130", "cu128", "cu126", "cpu"])
def test_each_system_has_its_index(build):
    assert setup_env.index_options(build, "Windows") == ["--index-url", WHL + build]
    expected = {"cu130": [], "cpu": ["--retries", "0", "--extra-index-url", WHL + "cpu"]}.get(build, ["--index-url", WHL + build])
    assert setup_env.index_options(build, "Linux") == expected
    assert setup_env.index_options(build, "Darwin") == []


@POSIX
def test_setup_installs_the_chosen_build_and_prints_its_notices(machine):
    machine.gpus("551.23, 6.1", "551.23, 8.6")
    code, out, err = machine.run("setup_env.sh")
    assert code == 0
    assert "setup: installing PyTorch, for cu126" in out
    torch, others = (call for call in machine.calls() if call[:2] == ["-m", "pip"])
    assert index_options(torch) == ["--index-url", WHL + "cu126"]
    assert others[-2:] == ["--requirement", "requirements.txt"]
    assert re.fullmatch("notice: driver 551 is old, .*\n", err)


# ---- what stops the setup of a beginner's Windows before anything is installed


def test_python_without_packages_is_refused_before_the_download():
    for built_for, machine in [("win-amd64", "AMD64"), ("win-amd64", "ARM64"), ("macosx-11.0-universal2", "arm64"), ("linux-x86_64", "x86_64")]:
        setup_env.check_python(built_for, machine, True)
    with pytest.raises(setup_env.SetupError, match=r"32-bit.*install the 64-bit Python"):
        setup_env.check_python("win32", "x86", False)
    with pytest.raises(setup_env.SetupError, match="ARM64 Python: install the 64-bit one"):
        setup_env.check_python("win-arm64", "ARM64", True)
    for built_for in ("macosx-10.13-universal2", "macosx-11.0-x86_64"):
        with pytest.raises(setup_env.SetupError, match=r"no PyTorch for Intel Macs.*arm64 Python"):
            setup_env.check_python(built_for, "x86_64", True)


@pytest.mark.parametrize(
    ("torch", "triton"), [("2.13.0+cpu", []), ("2.13.0+cu130", ["triton-windows==3.7.*"]), ("2.9.1+cu126", ["triton-windows==3.5.*"])]
)
def test_emulated_python_on_windows_on_arm_is_accepted_and_triton_is_for_gpus(torch, triton, tmp_path, monkeypatch):
    installed = []
    monkeypatch.setattr(setup_env.platform, "machine", lambda: "ARM64")  # since Python 3.12 the CPU's, not Python's own
    monkeypatch.setattr(setup_env.sysconfig, "get_platform", lambda: "win-amd64")
    monkeypatch.setattr(setup_env.importlib.metadata, "version", lambda name: torch)
    monkeypatch.setattr(setup_env, "nvidia_gpus", lambda: None)
    monkeypatch.setattr(setup_env, "pip", lambda *arguments, quiet=False: installed.append(arguments[-1]))
    monkeypatch.setattr(setup_env, "check_imports", lambda system: None)
    monkeypatch.setattr(setup_env, "allows_long_paths", lambda: True)
    setup_env.install(tmp_path, "Windows")
    assert installed == [TORCH, "requirements.txt", *triton]


def test_folder_too_deep_for_the_longest_file_is_refused_unless_windows_allows_long_paths():
    longest = "x" * setup_env.LONGEST_WHEEL_PATH
    fits = "C:\\" + "d" * 65 + r"\venv\Lib\site-packages"
    assert len(rf"{fits}\{longest}") == 259  # what Windows opens
    setup_env.check_path_lengths(fits, allows_long_paths=False)
    with pytest.raises(setup_env.SetupError, match=r"2 characters too long.*move it, for example to"):
        setup_env.check_path_lengths("dd" + fits, allows_long_paths=False)
    setup_env.check_path_lengths("dd" + fits, allows_long_paths=True)


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (r'OSError: [WinError 126] The specified module could not be found. Error loading "C:\v\c10.dll"', "Visual C.. runtime.*vc_redist.x64.exe"),
        ("ImportError: cannot import name 'x'", "delete venv"),
    ],
)
def test_missing_visual_c_runtime_is_named_with_its_link(failure, message, monkeypatch, capsys):
    monkeypatch.setattr(setup_env, "CHECK", f"raise SystemExit({failure!r})")
    with pytest.raises(setup_env.SetupError, match=message) as raised:
        setup_env.check_imports("Windows")
    assert raised.value.code == 5
    assert failure in capsys.readouterr().err


@POSIX
def test_launchers_ignore_what_other_programs_set_for_python_and_pip(machine):
    """pip would install elsewhere, and with PYTHONHOME no Python starts."""
    other = '[ "$2" != pip ] || '  # only pip reads the last three
    names = {"PYTHONHOME": "", "PYTHONPATH": "", "PIP_TARGET": other, "PIP_PREFIX": other, "PIP_USER": other}
    checks = [f'{skip}[ "${{{name}:-0}}" = 0 ] || {{ echo {name} >&2; exit 99; }}' for name, skip in names.items()]
    (machine.bin / "python3").unlink()
    machine.put(FAKE_PYTHON.replace("#!/bin/bash", "\n".join(["#!/bin/bash", *checks])), machine.bin / "python3")
    machine.make("checkpoints/model.pt")
    for script in ("setup_env.sh", "run_training.sh", "chat.sh", "run_tests.sh"):
        code, out, err = machine.run(script, FAKE_RC="page=1", **dict.fromkeys(names, "/nowhere"))
        assert (code, err) == (0, "")
        assert "cannot be installed" not in out


@POSIX
def test_torch_index_url_overrides_the_gpu(machine):
    machine.gpus("522.06, 8.9")
    code, _, err = machine.run("setup_env.sh", TORCH_INDEX_URL="https://mirror/a b?x=1&y=2")
    assert (code, err) == (0, "")
    torch = next(call for call in machine.calls() if call[-1] == TORCH)
    assert index_options(torch) == ["--index-url", "https://mirror/a b?x=1&y=2"]


# ---- run_training.sh

CHECK, DOWNLOAD, PREPROCESS = ["train.py", "--dry_run"], ["data/download.py"], ["data/preprocess.py"]
TRAIN, GENERATE = ["train.py", "--resume", "auto"], ["generate.py", "--checkpoint", "checkpoints"]


@POSIX
def test_first_start_downloads_prepares_trains_and_prints_samples(machine):
    code, out, err = machine.run("run_training.sh")
    assert (code, err) == (0, "")
    assert machine.scripts() == [CHECK, DOWNLOAD, PREPROCESS, TRAIN, GENERATE]
    assert "training: samples of checkpoints" in out


@POSIX
def test_sample_runs_offline_in_its_own_folders(ready):
    words = ["--config", "tiny", "--data_dir", "data/sample", "--checkpoint_dir", "checkpoints/sample"]
    assert ready.run("run_training.sh", "sample", "--total_tokens", "1000")[0] == 0
    assert ready.scripts() == [
        ["train.py", *words, "--total_tokens", "1000", "--dry_run"],
        ["data/download.py", "--source", "sample", "--output_dir", "data/sample/raw"],
        ["data/preprocess.py", "--input", "data/sample/raw/hindi_corpus.txt", "--output_dir", "data/sample", "--train_tokenizer", "4096"],
        ["train.py", *words, "--resume", "auto", "--total_tokens", "1000"],
        ["generate.py", "--checkpoint", "checkpoints/sample"],
    ]


@POSIX
@pytest.mark.parametrize(
    ("there", "made"),
    [
        (["data/raw/hindi_corpus.txt"], [CHECK, PREPROCESS]),
        (["data/raw/hindi_corpus.txt.tmp", "data/raw/metadata.txt"], [CHECK, DOWNLOAD, PREPROCESS]),
        (["data/raw/hindi_corpus.txt", "data/raw/metadata.txt", "data/train.bin", "data/val.bin"], [CHECK, PREPROCESS]),
        (["data/train.bin", "data/val.bin", "data/preprocess_meta.txt"], []),
        (["data/sample/preprocess_meta.txt"], [CHECK, DOWNLOAD, PREPROCESS]),
    ],
)
def test_only_complete_data_is_reused(ready, there, made):
    ready.make(*there)
    assert ready.run("run_training.sh")[0] == 0
    assert ready.scripts() == [*made, TRAIN, GENERATE]


@POSIX
@pytest.mark.parametrize("word", ["", "Sample", "samples", "total_tokens=5"])
def test_unknown_word_ends_before_anything_is_installed(machine, word):
    code, out, err = machine.run("run_training.sh", word)
    assert (code, out, machine.calls()) == (2, "", [])
    assert err.startswith(f'error: unknown argument "{word}": write sample')


@POSIX
@pytest.mark.parametrize("there", [[], ["data/raw/hindi_corpus.txt"]])
def test_wrong_flag_ends_before_the_download_and_the_tokenizing(ready, there):
    ready.make(*there)
    assert ready.run("run_training.sh", "--total_tokns", "5", FAKE_RC="train=2")[0] == 2
    assert ready.scripts() == [["train.py", "--total_tokns", "5", "--dry_run"]]


@POSIX
@pytest.mark.parametrize("key", ["download", "preprocess", "train", "generate"])
def test_first_failure_ends_the_script_with_its_exit_code(ready, key):
    if key in ("train", "generate"):
        ready.make("data/preprocess_meta.txt")
    code, _, _ = ready.run("run_training.sh", FAKE_RC=f"{key}=2")
    assert code == 2
    assert ready.scripts()[-1][0].endswith(f"{key}.py")


@POSIX
@pytest.mark.parametrize("key", ["download", "train", "generate"])
def test_sigterm_of_the_script_alone_reaches_what_runs(ready, key):
    if key != "download":
        ready.make("data/preprocess_meta.txt")
    with ready.start("run_training.sh", FAKE_HANG=key) as process:
        wait_until(ready.log.with_name("log.hangs").exists, key)
        process.terminate()
        out, _ = process.communicate(timeout=PATIENCE)  # to the end of all that hold the pipe
    assert (process.returncode, out.splitlines()[-1]) == (143, "saved")
    assert ready.scripts()[-1][0].endswith(f"{key}.py")


@POSIX
@pytest.mark.parametrize("end", ["code", "signal"])
def test_ctrl_c_lets_training_stop_itself_and_says_how_to_continue(ready, end):
    ready.make("data/preprocess_meta.txt")
    code, out, _ = ready.run_to_its_hang(signal.SIGINT, "run_training.sh", FAKE_HANG="train", FAKE_END=end)
    assert code == 130
    assert out.splitlines()[-1] == "training: stopped; run this again to continue"
    assert ready.scripts() == [TRAIN]


@POSIX
def test_further_arguments_are_passed_to_train_py_unchanged(ready):
    ready.make("data/preprocess_meta.txt")
    words = ["--note", "a  b & c", "", "*", "$HOME", "--x=it's", "नमस्ते"]
    assert ready.run("run_training.sh", *words)[0] == 0
    assert ready.scripts()[0] == [*TRAIN, *words]


@POSIX
@pytest.mark.parametrize("form", [["--checkpoint_dir", "out & x"], ["--checkpoint_dir=out & x"]])
@pytest.mark.parametrize("mode", [[], ["sample"]])
def test_samples_use_the_checkpoint_dir_of_the_run(ready, form, mode):
    ready.make("data/preprocess_meta.txt", "data/sample/preprocess_meta.txt")
    assert ready.run("run_training.sh", *mode, *form)[0] == 0
    assert ready.scripts()[-1] == ["generate.py", "--checkpoint", "out & x"]


@POSIX
@pytest.mark.parametrize("form", [["--data_dir", "my data"], ["--data_dir=my data"], ["--data_dir", "news=0.6", "stories=0.4"]])
@pytest.mark.parametrize("mode", [[], ["sample"]])
def test_a_given_data_dir_is_used_and_never_created(ready, form, mode):
    """If something is missing in it, train.py says so."""
    assert ready.run("run_training.sh", *mode, *form)[0] == 0
    assert [call[0] for call in ready.scripts()] == ["train.py", "generate.py"]


@POSIX
@pytest.mark.parametrize("word", ["--dry_run", "--help", "-h"])
def test_neither_data_nor_samples_without_training(ready, word):
    assert ready.run("run_training.sh", "sample", word)[0] == 0
    assert [call[0] for call in ready.scripts()] == ["train.py"]


@POSIX
@pytest.mark.parametrize("script", sorted(path.name for path in ROOT.glob("*.sh")))
@pytest.mark.parametrize("word", ["--help", "-h"])
def test_help_needs_no_environment(machine, script, word):
    code, out, err = machine.run(script, word)
    assert (code, err, machine.calls()) == (0, "", [])
    assert out.startswith(f"usage: bash {script}")


@POSIX
def test_run_tests_makes_its_environment_with_setup_env(machine):
    assert machine.run("run_tests.sh", "tests/test_x.py", VENV="its own")[0] == 0
    assert machine.calls()[-1] == ["-m", "pytest", "tests/test_x.py"]
    assert (machine.repo / "its own/.requirements").exists()


@POSIX
def test_run_tests_without_arguments_lints_first_and_runs_all_tests(ready):
    assert ready.run("run_tests.sh")[0] == 0
    *_, lint, style, imports, types, tests = ready.calls()
    assert imports[0] == "-c"
    assert "importlinter" in imports[1]
    assert [lint, style, types] == [["-m", "ruff", "check", "."], ["-m", "ruff", "format", "--check", "."], ["-m", "mypy"]]
    assert tests == ["-m", "pytest", "--numprocesses", "auto", "--dist", "loadfile", "--no-loadscope-reorder"]


@POSIX
def test_run_tests_installs_the_test_requirements_once(ready):
    install = ["-m", "pip", "install", "-qq", "--disable-pip-version-check", "--requirement", "requirements-test.txt"]
    assert ready.run("run_tests.sh", "tests/test_x.py", FAKE_RC="pip=1")[0] == 1
    for again in (False, True):
        assert ready.run("run_tests.sh", "tests/test_x.py")[0] == 0
        assert [call for call in ready.calls() if call[:2] == ["-m", "pip"]] == ([] if again else [install])
    (ready.repo / "requirements-test.txt").write_text("pytest\n")
    assert ready.run("run_tests.sh", "tests/test_x.py")[0] == 0
    assert install in ready.calls()


@POSIX
@pytest.mark.parametrize(
    ("words", "lint", "chosen"),
    [
        (["--fast"], True, ["-m", "not slow"]),
        (["--fast", "tests/test_x.py"], False, ["-m", "not slow", "tests/test_x.py"]),
        (["tests/test_x.py", "-k", "a or b"], False, ["tests/test_x.py", "-k", "a or b"]),
    ],
)
def test_run_tests_fast_and_selections(ready, words, lint, chosen):
    assert ready.run("run_tests.sh", *words)[0] == 0
    assert [call[1] for call in ready.calls() if call[:2] == ["-m", "ruff"]] == ["ruff"] * (2 * lint)
    assert any("importlinter" in call[-1] for call in ready.calls()) == lint
    assert (["-m", "mypy"] in ready.calls()) == lint
    tests = ready.calls()[-1]
    assert tests[: 2 + len(chosen)] == ["-m", "pytest", *chosen]
    assert tests[2 + len(chosen) :] == (["--numprocesses", "auto", "--dist", "loadfile", "--no-loadscope-reorder"] if lint else [])


@POSIX
@pytest.mark.parametrize("key", ["ruff", "import", "mypy"])
def test_run_tests_stops_at_lint_errors(ready, key):
    assert ready.run("run_tests.sh", FAKE_RC=f"{key}=1")[0] == 1
    assert not any(call[:2] == ["-m", "pytest"] for call in ready.calls())


# ---- chat.sh


@POSIX
def test_chat_needs_a_model_and_takes_that_of_the_chat_first(machine):
    code, _, err = machine.run("chat.sh")
    assert (code, machine.calls()) == (2, [])
    assert "there is no trained model" in err
    for file, folder in (("checkpoints/sample/checkpoint_step9.pt", "checkpoints/sample"), ("checkpoints/model.pt", "checkpoints")):
        machine.make(file)
        assert machine.run("chat.sh", "terminal")[0] == 0
        assert machine.scripts() == [["generate.py", "--checkpoint", folder, "--interactive"]]
    machine.make("my & model/model.pt")
    assert machine.run("chat.sh", "terminal", "my & model")[0] == 0
    assert machine.scripts() == [["generate.py", "--checkpoint", "my & model", "--interactive"]]
    machine.make("checkpoints_chat/model.pt")
    assert machine.run("chat.sh")[0] == 0
    assert machine.scripts() == [["serve.py", "--checkpoint", "checkpoints_chat", "--port", "0", "--open"]]


@POSIX
@pytest.mark.parametrize("words", [["Terminal"], [""], ["--port", "9000"], ["checkpoints", "--temperature", "1"]])
def test_unknown_word_ends_chat_before_anything_is_installed(machine, words):
    machine.make("checkpoints/model.pt")
    code, _, err = machine.run("chat.sh", *words)
    assert (code, machine.calls()) == (2, [])
    assert err.startswith(f'error: "{" ".join(words)}" is not the folder of a trained model')


@POSIX
@pytest.mark.parametrize("fails", [False, True])
def test_chat_installs_what_the_page_needs_or_runs_in_the_terminal(ready, fails):
    ready.make("checkpoints/model.pt")
    code, out, _ = ready.run("chat.sh", FAKE_RC="page=1 pip=1" if fails else "page=1")
    assert code == 0
    assert ["-m", "pip", "install", "-qq", "--disable-pip-version-check", "--requirement", "requirements-serve.txt"] in ready.calls()
    assert [call[0] for call in ready.scripts()] == ["generate.py" if fails else "serve.py"]
    assert ("the chat is in this terminal" in out) == fails


@POSIX
def test_ctrl_c_while_chat_installs_the_page_starts_no_chat(ready):
    ready.make("checkpoints/model.pt")
    assert ready.run_to_its_hang(signal.SIGINT, "chat.sh", FAKE_HANG="pip", FAKE_RC="page=1")[0] == 130
    assert ready.scripts() == []


# ---- the batch files, run under Wine

wine = pytest.mark.skipif("RUN_BAT" not in os.environ, reason="needs Wine: RUN_BAT=.../run_bat.sh runs the batch files")


def run_batch(folder: Path, file: str, *arguments: str, options: Sequence[str] = ()) -> tuple[int, str, list[list[str]]]:
    """Return exit code, output, and the arguments of every call of Python but those that ask for
    its version."""
    result = folder.with_name("result.json")
    run_command([os.environ["RUN_BAT"], *options, "--env", "NO_PAUSE=1", "--json", result, folder, file, *arguments])
    ran = json.loads(result.read_text(encoding="utf-8"))
    return ran["exit"], ran["out"], [call["args"] for call in ran["calls"] if call["args"][-1] != "--version"]


@pytest.fixture
def windows(tmp_path) -> Path:
    """Return a folder with the files that the batch files call."""
    folder = tmp_path / "project"
    (folder / "data").mkdir(parents=True)
    for name in (*(path.name for path in BATCH_FILES), "requirements.txt", "requirements-serve.txt", *SCRIPTS):
        shutil.copy(ROOT / name, folder / name)
    return folder


MADE = [["-m", "venv", "--clear", "venv"], ["setup_env.py"]]


@pytest.mark.wine
@wine
@pytest.mark.parametrize(
    ("options", "code", "message", "calls"),
    [
        ([], 0, "making venv with python, once", MADE),
        (["--py-launcher"], 0, "making venv with py -3, once", [["-3", *MADE[0]], MADE[1]]),
        (["--py-version", "3.9.18"], 1, "error: Python 3.9 is too old", []),
        (["--py-version", "2.7.18"], 1, "error: Python 2.7 is too old", []),
        (["--py-version", "3.15.0a2"], 1, "error: Python 3.15 is too new for PyTorch: install Python 3.10 to 3.14", []),
        (["--python", "none"], 1, "error: there is no Python here", []),
        (["--venv-rc", "1"], 3, "error: no virtual environment in venv", MADE[:1]),
        (["--rc", "setup_env=4"], 4, "", MADE),
        (["--env", r"PYTHON=C:\no where\python.exe"], 1, r'error: PYTHON="C:\no where\python.exe" does not start a Python', []),
        (["--env", "PYTHON=  "], 0, "making venv with python, once", MADE),
    ],
)
def test_setup_bat_finds_a_suitable_python_or_says_what_to_install(windows, options, code, message, calls):
    got, output, called = run_batch(windows, "setup_env.bat", options=options)
    assert (got, called) == (code, calls)
    assert message in output
    assert output.count("error:") == (code in (1, 3))


@pytest.mark.wine
@wine
@pytest.mark.parametrize(("word", "code"), [("--help", 0), ("/?", 0), ("3.12", 2)])
def test_setup_bat_prints_its_usage_instead_of_ignoring_an_argument(windows, word, code):
    got, output, called = run_batch(windows, "setup_env.bat", word)
    assert (got, called) == (code, [])
    assert output.startswith("usage: setup_env.bat")


@pytest.mark.wine
@wine
@pytest.mark.parametrize("how", ["pyenv", "PYTHON", "quoted PYTHON"])
def test_setup_bat_starts_a_python_bat_and_a_python_in_a_folder_with_any_name(windows, how):
    shim = windows / "a^b & 100%x"
    shim.mkdir()
    (shim / "python.bat").write_bytes(b'@"..\\py\\python.exe" %*\r\n')
    path = r"%~dp0a^b & 100%%x"
    setting = {"pyenv": f'set "PATH={path};%SystemRoot%\\system32"', "PYTHON": f'set "PYTHON={path}\\python.bat"'}.get(
        how, f'set PYTHON="{path}\\python.bat"'
    )
    (windows / "start.bat").write_bytes(f"@echo off\r\n{setting}\r\ncall setup_env.bat\r\n".encode())
    code, output, called = run_batch(windows, "start.bat", options=["--name", "it's ^ & !x! p"])
    assert (code, called) == (0, MADE), output


@pytest.mark.wine
@wine
@pytest.mark.parametrize("words", [[""], ["Sample"], ["samples"], ["total_tokens=5"]])
def test_unknown_word_ends_run_training_bat_before_anything_is_installed(windows, words):
    code, output, called = run_batch(windows, "run_training.bat", *words)
    assert (code, called) == (2, [])
    assert f'error: unknown argument "{words[0]}": write sample' in output


@pytest.mark.wine
@wine
def test_run_training_bat_checks_the_flags_before_the_download(windows):
    sample = [r"--data_dir", r"data\sample", "--checkpoint_dir", r"checkpoints\sample"]
    code, _, called = run_batch(windows, "run_training.bat", "sample", "--note", "a  b", "", "--x=1", options=["--venv", "--rc", "train=2"])
    assert (code, called[-1]) == (2, ["train.py", "--config", "tiny", *sample, "--note", "a  b", "", "--x=1", "--dry_run"])


@pytest.mark.wine
@wine
@pytest.mark.parametrize(
    ("words", "passed", "checkpoints"),
    [
        (["--checkpoint_dir", "my out\\"], ["--checkpoint_dir", r"my out\."], r"my out\."),
        (["--checkpoint_dir=out\\", "--x"], [r"--checkpoint_dir=out\.", "--x"], r"out\."),
        (["--checkpoint_dir", "C:\\", "--x", "a & b"], ["--checkpoint_dir", r"C:\.", "--x", "a & b"], r"C:\."),
        (["--checkpoint_dir", r"my\out", "", "--x=1"], ["--checkpoint_dir", r"my\out", "", "--x=1"], r"my\out"),
        (["--data_dir", "my data\\", "--x"], ["--data_dir", r"my data\.", "--x"], "checkpoints"),
    ],
)
def test_run_training_bat_takes_folders_that_end_in_a_backslash(windows, words, passed, checkpoints):
    options = ["--venv", "--file", r"data\preprocess_meta.txt"]
    code, output, called = run_batch(windows, "run_training.bat", *words, options=options)
    assert (code, called[-2:]) == (0, [["train.py", "--resume", "auto", *passed], ["generate.py", "--checkpoint", checkpoints]]), output


@pytest.mark.wine
@wine
@pytest.mark.parametrize(("model", "passed"), [("my model\\", r"my model\."), ("my model", "my model")])
@pytest.mark.parametrize("mode", [[], ["terminal"]])
def test_chat_bat_takes_a_folder_that_ends_in_a_backslash(windows, mode, model, passed):
    code, output, called = run_batch(windows, "chat.bat", *mode, model, options=["--venv", "--file", r"my model\model.pt"])
    last = ["generate.py", "--checkpoint", passed, "--interactive"] if mode else ["serve.py", "--checkpoint", passed, "--port", "0", "--open"]
    assert (code, called[-1]) == (0, last), output


@pytest.mark.wine
@wine
def test_chat_bat_talks_to_the_chat_model_first(windows):
    code, output, called = run_batch(windows, "chat.bat", options=["--venv"])
    assert (code, called) == (2, [])
    assert "there is no trained model" in output
    for words in (["Terminal"], ["checkpoints", "--temperature"]):
        code, output, called = run_batch(windows, "chat.bat", *words, options=["--venv", "--file", r"checkpoints\model.pt"])
        assert (code, called) == (2, [])
        assert "is not the folder of a trained model" in output
    models = ["--file", r"checkpoints\sample\checkpoint_step9.pt", "--file", r"checkpoints_chat\model.pt"]
    _, _, called = run_batch(windows, "chat.bat", options=["--venv", *models])
    assert called[-1] == ["serve.py", "--checkpoint", "checkpoints_chat", "--port", "0", "--open"]
    _, _, called = run_batch(windows, "chat.bat", "terminal", options=["--venv", *models[:2]])
    assert called[-1] == ["generate.py", "--checkpoint", r"checkpoints\sample", "--interactive"]


@pytest.mark.wine
@wine
@pytest.mark.parametrize("file", [path.name for path in BATCH_FILES])
def test_batch_file_opened_inside_a_zip_says_to_extract_it(windows, file):
    alone = windows / "zip"
    alone.mkdir()
    shutil.copy(ROOT / file, alone)
    code, output, called = run_batch(alone, file)
    assert (code, called) == (6, [])
    assert "extract all of it first" in output
    assert r"network folder \\..., copy it to a drive" in output


# ---- the batch files, checked as text


def test_batch_files_exist():
    assert {path.name for path in BATCH_FILES} >= {"setup_env.bat", "run_training.bat", "chat.bat"}


@pytest.fixture(params=BATCH_FILES, ids=lambda path: path.name)
def batch(request) -> list[str]:
    """Return the lines of a batch file, without line ends."""
    raw = request.param.read_bytes()
    assert raw.isascii(), "cmd reads a batch file in the console's code page"
    assert raw.endswith(b"\r\n")
    assert raw.count(b"\n") == raw.count(b"\r\n") == raw.count(b"\r"), "with bare line feeds cmd misses labels"
    return [line.strip() for line in raw.decode().splitlines()]


def commands(lines: list[str]) -> list[str]:
    return [line for line in lines if line and not line.startswith("rem ")]


RUNS = re.compile(r'^("%py%"|cmd /d /s /c "%base%|call "[^"]+"|copy|py\b|python)')


def test_batch_file_sets_utf8_before_the_first_python_and_keeps_exclamation_marks(batch):
    lines = commands(batch)
    assert lines[:4] == ["@echo off", "setlocal EnableExtensions DisableDelayedExpansion", "chcp 65001 >nul 2>nul", 'cd /d "%~dp0"']
    assert lines[4] == 'set "PYTHONUTF8=1"'


def test_batch_file_saves_every_exit_code_at_once_and_exits_with_it(batch):
    lines = commands(batch)
    ran = [number for number, line in enumerate(lines) if RUNS.match(line)]
    assert ran
    for number in ran:
        assert lines[number + 1] == 'set "rc=%errorlevel%"', f"after: {lines[number]}"
    assert [line for line in lines if re.search(r"\bexit\b(?!\()", line) and "sys.exit" not in line] == ["exit /b %rc%"]
    assert not any("||" in line or "&&" in line for line in lines)


def test_run_training_bat_stops_at_the_first_failure():
    """A folder that train.py refuses is not passed to generate.py."""
    lines = commands((ROOT / "run_training.bat").read_text().splitlines())
    ran = [number for number, line in enumerate(lines) if RUNS.match(line)]
    assert [re.search(r"\w+\.\w+", lines[number].replace("%~dp0", ""))[0] for number in ran] == [
        "setup_env.bat", "train.py", "download.py", "preprocess.py", "train.py", "generate.py",
    ]  # fmt: skip
    for number, following in itertools.pairwise(ran):
        assert 'if not "%rc%"=="0" goto end' in lines[number:following]


def test_batch_file_calls_the_python_of_its_venv_by_path_and_never_activates(batch):
    lines = commands(batch)
    assert 'set "py=%~dp0venv\\Scripts\\python.exe"' in lines
    assert not any("activate" in line.lower() for line in lines)
    assert not any(re.search(r'(?<!")%py%|%py%(?!")', line) for line in lines), "the path may have spaces"


def test_batch_file_has_no_blocks_and_every_label_is_defined_and_used(batch):
    lines = commands(batch)
    assert not any(line.endswith("(") or line.startswith(")") for line in lines), "a ) in an echo would end a block"
    labels = [line[1:].lower() for line in lines if line.startswith(":")]
    used = {word.lower() for line in lines for word in re.findall(r"(?:goto|call) :?([a-z_]\w*)", line)} - {"eof"}
    assert len(labels) == len(set(labels))
    assert used == set(labels)


def test_batch_file_waits_for_a_key_in_one_place_and_only_where_allowed(batch):
    lines = commands(batch)
    pauses = [line for line in lines if line.endswith("pause") and "rem" not in line]
    assert len(pauses) == 1
    assert pauses[0].startswith("if ")
    assert lines[lines.index(pauses[0]) + 1] == "exit /b %rc%"
    assert any('"%NO_PAUSE%"=="1"' in line for line in lines)
