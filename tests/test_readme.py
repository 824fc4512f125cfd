"""Every bash command of the README and of the guides in docs/ runs as it is written, one after the
other, in a fresh copy of the repo.

What would take hours is shortened by flags appended to the command; the hub is that of
tests/support/hub.py.
"""

import dataclasses
import json
import os
import re
import shlex
import shutil
import sys
import unicodedata
from collections import defaultdict
from pathlib import Path

import pytest
import torch

import forked
import standin
from conftest import ROOT, run_command
from hub import Hub, make_sangraha

README = (ROOT / "README.md").read_text(encoding="utf-8")
RECORDS = {"RESULTS", "LOG"}  # dated records: their commands may be outdated
# training.md first: it resumes the README's run, whose data data.md replaces
GUIDES = sorted((path for path in ROOT.glob("docs/*.md") if path.stem not in RECORDS), key=lambda path: (path.stem != "training", path.stem))
PAGES = [ROOT / "README.md", *GUIDES]
OTHERS = [ROOT / "README.hi.md", ROOT / "CONTRIBUTING.md"]
BASH = [
    command
    for page in PAGES
    for block in re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    for line in block.splitlines()
    if (command := line.split("  #")[0].strip()) and not command.startswith("#")
]
TINY = (
    "--n_layer 2 --n_head 2 --n_kv_head 1 --n_embd 32 --sequence_len 800 --batch_size 2 --gradient_accumulation_steps 1 --total_tokens 3200 --eval_tokens 800 "
    "--inference_interval 0 --device cpu --no_compile --checkpoint_dir {checkpoints}"
)
# what shortens a command to seconds: flags appended to it, or no command in its place, with the
# reason
BEHIND = {
    "bash run_training.sh sample": "--total_tokens 8192 --no_compile --device cpu",  # the whole preset, as a user runs it
    "bash run_training.sh": TINY.format(checkpoints="checkpoints/launched"),
    "python train.py --init_from": TINY.format(checkpoints="checkpoints/continued"),
    "train.py": TINY.format(checkpoints="checkpoints"),
    "python data/chat.py": "--max_conversations 60 --val_fraction 0.2",
    "python finetune.py": "--epochs 1 --inference_interval 0 --device cpu",
}
INSTEAD = {
    "python -m nano_hindi.eval --checkpoint checkpoints_chat --questions 300": "python -m nano_hindi.eval --checkpoint checkpoints_chat --questions 3",
    "pip install -r requirements-onnx.txt": None,  # the tests have these packages
    "bash run_tests.sh": None,  # already running
    "python tests/gpu/check.py": None,  # needs a GPU
    "bash tests/export_tools/run.sh": None,  # installs packages
    "pip install -r requirements-serve.txt": None,  # the tests have these packages
    "python serve.py --checkpoint checkpoints": None,  # runs until Ctrl-C; see test_serve.py
    "bash setup_env.sh && source venv/bin/activate": None,  # the tests use their own environment
}


def small(command: str) -> str:
    """Return `command` with the flags that shorten it."""
    for start, words in BEHIND.items():
        if command.startswith(start) or (start == "train.py" and " train.py " in command):
            return f"{command} {words}"
    return command


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """Return a fresh copy of the repo in a folder with a space in its name; its venv is the
    environment of these tests."""
    folder = tmp_path_factory.mktemp("read me") / "nano_hindi"
    folder.mkdir()
    for path in [
        *ROOT.glob("*.*"),
        ROOT / "LICENSE",
        *ROOT.glob("nano_hindi/**/*.py"),
        *ROOT.glob("data/*.py"),
        *ROOT.glob("examples/*.py"),
        *ROOT.glob("tests/**/*.py"),
    ]:
        if path.is_file():
            (folder / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder / path.relative_to(ROOT))
    (folder / "venv" / "bin").mkdir(parents=True)
    python = folder / "venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    shutil.copy(folder / "requirements.txt", folder / "venv" / ".requirements")
    texts = standin.documents(600)
    (folder / "stories.txt").write_text("\n<|endoftext|>\n".join(texts[:300]), encoding="utf-8")
    (folder / "more.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[300:]), encoding="utf-8")
    standin.make_tokenizer(folder / "path" / "to" / "tokenizer")
    return folder


def test_two_commands_come_first():
    assert BASH[:2] == ["bash run_training.sh sample", "bash run_tests.sh"]
    assert README.index("```bash") < 200


def fork_from_now_on(checkout: Path, environment: dict[str, str], folder: Path) -> None:
    """Let the next commands find PyTorch imported already. The first one, which runs four scripts,
    has started new interpreters."""
    environment["PYTHONUTF8"] = "1"  # which run_training.sh sets
    server = forked.Process.start_server(environment)
    forked.write_python(checkout / "venv" / "bin" / "python", server)
    forked.write_python(folder / "python", server)
    (folder / "torchrun").write_text(f'#!/bin/sh\nexec {shlex.quote(str(folder / "python"))} -m torch.distributed.run "$@"\n')
    (folder / "torchrun").chmod(0o755)
    environment["PATH"] = f"{folder}{os.pathsep}{environment['PATH']}"


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_every_bash_command_works(checkout, tmp_path):
    """In the order of PAGES: a command may use the output of earlier ones."""
    repos = {
        "datasets/ai4bharat/sangraha": make_sangraha(tmp_path / "sangraha", [standin.documents(900, seed) for seed in range(4)]),
        "sarvamai/sarvam-1": standin.make_tokenizer(tmp_path / "sarvam-1"),
    }
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_") and name != "VENV"}
    ran = []
    with Hub(repos) as hub:
        environment |= hub.environment(tmp_path / "home") | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
        }
        (tmp_path / "bin").mkdir()
        for command in BASH:
            command = INSTEAD.get(command, small(command))
            if command is None:
                continue
            if command.startswith("python data/download.py"):
                command += " --overwrite"  # an earlier command left another corpus there
            if "--config 25m" in command and "--resume" not in command and "--dry_run" not in command:
                shutil.rmtree(checkout / "checkpoints")
            done = run_command(["bash", "-c", command], cwd=checkout, env=environment, timeout=1200)
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
            assert "Traceback" not in done.stderr, command
            ran.append(command)
            if len(ran) == 1 and sys.platform == "linux":
                fork_from_now_on(checkout, environment, tmp_path / "bin")
    assert len(ran) >= 10
    assert any("torchrun" in command for command in ran)


def test_every_file_named_in_the_pages_exists():
    text = "\n".join(page.read_text(encoding="utf-8") for page in (*PAGES, *OTHERS))
    named = set(re.findall(r"(?:nano_hindi|data|docs|tests)/[\w/]+\.(?:py|md|sh)|\w+\.(?:sh|bat)\b", text))
    assert len(named) > 20
    for name in named:
        assert (ROOT / name).is_file(), name


PROGRAMS = [path for folder in ("*", "data/*", "examples/**/*", "nano_hindi/**/*", "tests/[bg]*/*") for path in ROOT.glob(f"{folder}.py")]
FLAGS_OF_OTHERS = {
    *("nnodes", "nproc_per_node", "max_restarts", "rdzv_backend", "rdzv_endpoint"),  # torchrun
    *("model", "model_args", "tasks", "include_path", "apply_chat_template", "system_instruction", "num_fewshot", "gen_kwargs"),  # lm_eval
    *("directory", "bind"),  # python -m http.server
    "fast",  # run_tests.sh
}


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=lambda page: page.name)
def test_every_flag_named_in_a_page_exists(page):
    from nano_hindi.config import FINETUNE, GPTConfig, TrainConfig
    from nano_hindi.inference.settings import Settings

    generated = {field.name for cls in (GPTConfig, TrainConfig, Settings) for field in dataclasses.fields(cls)} | FINETUNE.keys()
    written = {flag for path in PROGRAMS for flag in re.findall(r'"--([a-z]\w*)"', path.read_text(encoding="utf-8"))}
    named = set(re.findall(r"(?<![\w-])--([a-z]\w*)", page.read_text(encoding="utf-8")))
    assert sorted(named - generated - written - FLAGS_OF_OTHERS) == []


def test_every_flag_of_a_command_is_named_in_a_page():
    """Except for those of the recipe and of the network, which `--help` explains."""
    pages = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    commands = [path for path in PROGRAMS if "tests" not in path.relative_to(ROOT).parts and path.name != "setup_env.py"]  # which has flags of pip
    flags = {flag: path.name for path in commands for flag in re.findall(r'"--([a-z]\w*)"', path.read_text(encoding="utf-8"))}
    assert not {flag: program for flag, program in flags.items() if not re.search(rf"--{flag}\b", pages)}


def test_every_name_in_contributing_is_in_the_code():
    text = re.sub(r"```.*?```", "", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    code = "".join(path.read_text(encoding="utf-8") for path in (*PROGRAMS, *ROOT.glob("tests/**/*.py"), ROOT / "pyproject.toml"))
    assert not [name for name in re.findall(r"`([A-Za-z_]\w*)`", text) if name not in code]


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of the headings of `page`."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "page", [*PAGES, *OTHERS, ROOT / "CHANGELOG.md", *(ROOT / "docs" / f"{name}.md" for name in sorted(RECORDS))], ids=lambda page: page.name
)
def test_every_relative_link_has_a_target(page):
    for path, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", page.read_text(encoding="utf-8")):
        target = page.parent / path if path else page
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"


def test_hindi_for_readers_has_one_spelling_of_nuktas():
    spellings = defaultdict(set)
    for name in ("README.hi.md", "nano_hindi/serving/page.html", "examples/web/index.html"):
        for word in re.findall(r"[\u0900-\u0963]+", unicodedata.normalize("NFD", (ROOT / name).read_text(encoding="utf-8"))):
            spellings[word.replace("\u093c", "")].add(word)
    assert [words for words in spellings.values() if len(words) > 1] == []


def test_every_source_on_the_hub_has_a_row_in_its_guide_and_a_maker():
    from nano_hindi.chat.sources import HUB_SOURCES
    from nano_hindi.corpus.sources import HUB_FOLDERS, MAKERS

    assert {folder.dataset for folder in HUB_FOLDERS.values()} == MAKERS.keys(), "a model card names the maker of each data set"
    for page, names in ((ROOT / "docs" / "data.md", HUB_FOLDERS), (ROOT / "docs" / "chat.md", HUB_SOURCES)):
        rows = re.findall(r"^\| `([\w-]+)`.* \|$", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert not (missing := names.keys() - {*rows}), f"add a row for {', '.join(sorted(missing))} to the table of sources in docs/{page.name}"


def test_help_and_guides_name_every_kind_of_file():
    from nano_hindi.chat.sources import FORMATS
    from nano_hindi.corpus.documents import _FORMATS, FILES

    guide = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    [chat_row] = re.findall(r"^\| a file \|.*$", (ROOT / "docs" / "chat.md").read_text(encoding="utf-8"), re.MULTILINE)
    for kind in (*_FORMATS, ".parquet"):
        assert kind in FILES, f"name {kind} in FILES of nano_hindi/corpus/documents.py"
        assert f"| a `{kind}` file |" in guide, f"add a row for {kind} files to docs/data.md"
    for kind in FORMATS:
        assert f"`{kind}`" in chat_row, f"name {kind} in docs/chat.md"


def test_help_and_guide_name_every_learning_rate_schedule():
    from nano_hindi.config import LR_SCHEDULES, TrainConfig

    help_text = next(field.metadata["help"] for field in dataclasses.fields(TrainConfig) if field.name == "lr_schedule")
    guide = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    for name in LR_SCHEDULES:
        assert name in help_text, f"describe {name} in the help of lr_schedule in config.py"
        assert f"`--lr_schedule {name}`" in guide, f"describe {name} in docs/training.md"


def test_hardware_guide_names_every_attention_backend():
    from nano_hindi.attention_backends import LOADERS

    [row] = re.findall(r"^\| `NANO_HINDI_ATTENTION=.*$", HARDWARE, re.MULTILINE)
    assert not (missing := LOADERS.keys() - re.findall(r"\w+", row)), f"name {', '.join(missing)} in docs/hardware.md"


def preset_row(name: str) -> str:
    """Return the row of a preset in the README's table."""
    from nano_hindi.config import get_config, get_train_config
    from nano_hindi.model import GPT

    config, tokens = get_config(name), get_train_config(name).total_tokens
    with torch.device("meta"):
        n = GPT(config).num_params()

    def millions(count: int) -> str:
        return f"{count / 1e6:.1f} M" if count else "none"

    budget = f"{tokens / 1e9:.3g} B" if tokens >= 1e9 else f"{tokens / 1e6:.3g} M"
    ratios = ("for trying things out", "") if name == "tiny" else (f"{tokens / n['total']:.1f}", f"{tokens / n['blocks']:.1f}")
    shape = f"`{name}`", config.n_layer, config.n_embd, f"{config.n_head} / {config.n_kv_head}"
    counts = (millions(count) for count in (n["blocks"], n["wte"] + n["lm_head"], n["value_embeds"], n["total"]))
    return f"| {' | '.join(map(str, (*shape, *counts, budget, *ratios)))} |".replace("  ", " ")


def test_presets_in_the_readme_match_the_code():
    from nano_hindi.config import PRESETS

    rows, expected = re.findall(r"^\| `\w+` \| \d.*$", README, re.MULTILINE), [preset_row(name) for name in PRESETS]
    assert rows == expected, "the rows of the presets in the README should be\n" + "\n".join(expected)


HARDWARE = (ROOT / "docs" / "hardware.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_memory_in_the_hardware_guide_matches_the_code():
    from nano_hindi.config import PRESETS, get_config
    from nano_hindi.model import GPT
    from nano_hindi.training.memory import activation_bytes, state_bytes

    expected = []
    for name in [name for name in PRESETS if name != "tiny"]:
        with torch.device("meta"):
            fixed = state_bytes(GPT(get_config(name)))
        sizes = fixed, *(activation_bytes(get_config(name), dtype) for dtype in (torch.float32, torch.bfloat16))
        expected.append(f"| `{name}` | {' | '.join(f'{size / 1e9:.2f} GB' for size in sizes)} |")
    rows = re.findall(r"^\| `\w+` .* GB \|$", HARDWARE, re.MULTILINE)
    assert rows == expected, "the rows of the presets in docs/hardware.md should be\n" + "\n".join(expected)


def test_times_in_the_hardware_guide_match_the_code():
    from nano_hindi.config import get_config, get_train_config
    from nano_hindi.model import GPT
    from nano_hindi.training.estimates import EXPECTED_UTILIZATION, PEAK_TFLOPS

    seconds = {"minutes": 60, "hours": 3600, "days": 86400}
    names = re.findall(r"`(\w+)`, [\d.]+ [MB]", HARDWARE)
    rows = re.findall(r"^\| ((?:RTX )?\w+)(?: \(float16\))? \| (.*(?:hours|days)) \|$", HARDWARE, re.MULTILINE)
    assert len(names) * len(rows) == 30
    for gpu, cells in rows:
        for name, cell in zip(names, cells.split(" | "), strict=True):
            with torch.device("meta"):
                flops = get_train_config(name).total_tokens * GPT(get_config(name)).flops_per_token()
            number, unit = cell.split()
            time = flops / (EXPECTED_UTILIZATION * PEAK_TFLOPS[gpu] * 1e12) / seconds[unit]
            assert number == f"{time:.{len(number.partition('.')[2])}f}", f"{name} on {gpu}: {time:.2f} {unit}"
