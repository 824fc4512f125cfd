"""What pip installs from the repo, and versions that appear in several files."""

import importlib.metadata
import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import nano_hindi
from conftest import ROOT, run_command


def requirements(name: str) -> set[str]:
    lines = (line.partition("#")[0].strip() for line in (ROOT / name).read_text(encoding="utf-8").splitlines())
    return {str(Requirement(line)) for line in lines if line}


def sources() -> list[Path]:
    return [path for path in (ROOT / "nano_hindi").rglob("*") if path.suffix in (".py", ".html")]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """Return a folder with what `pip install .` installs, without the dependencies. Nothing is
    downloaded."""
    folder = tmp_path_factory.mktemp("packaging")
    files = [*ROOT.glob("*.*"), ROOT / "LICENSE", *sources(), *(ROOT / "data").glob("*.py"), *(ROOT / "tests").glob("*.py")]
    for path in filter(Path.is_file, files):
        copy = folder / "checkout" / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    words = ["--no-index", "--no-deps", "--no-build-isolation", "--target", folder / "installed", folder / "checkout"]
    done = run_command([sys.executable, "-m", "pip", "install", *words])
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "installed"


def test_pip_installs_the_whole_package_and_nothing_else(installed):
    version = nano_hindi.__version__
    assert {path.name for path in installed.iterdir()} == {"nano_hindi", f"nano_hindi-{version}.dist-info"}
    found = {path.relative_to(installed) for path in installed.glob("nano_hindi/**/*") if path.suffix in (".py", ".html")}
    assert found == {path.relative_to(ROOT) for path in sources()}


def test_installed_package_is_importable_from_any_folder(installed, tmp_path):
    command = "import sys; sys.path.insert(0, sys.argv[1]); import nano_hindi.model; print(nano_hindi.model.__file__)"
    done = run_command([sys.executable, "-I", "-c", command, installed], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()) == installed / "nano_hindi" / "model.py"


def test_metadata_lists_the_dependencies_of_the_requirements_files(installed):
    found = importlib.metadata.Distribution.at(next(installed.glob("*.dist-info")))
    assert found.version == nano_hindi.__version__
    needed = [Requirement(line) for line in found.requires]
    assert {str(requirement) for requirement in needed if "extra" not in str(requirement.marker)} == requirements("requirements.txt")
    for extra in ("test", "serve", "onnx"):
        found = [requirement for requirement in needed if str(requirement.marker) == f'extra == "{extra}"']
        assert {str(requirement).partition(";")[0] for requirement in found} == requirements(f"requirements-{extra}.txt")
        assert requirements(f"requirements-{extra}.txt") <= requirements("requirements-test.txt")
    assert {str(requirement.marker) for requirement in needed if "extra" in str(requirement.marker)} == {
        f'extra == "{extra}"' for extra in ("test", "serve", "onnx")
    }


@pytest.mark.skipif(not shutil.which("git") or not (ROOT / ".git").exists(), reason="needs git and its checkout")
def test_git_ignores_the_default_output_folders_and_nothing_tracked():
    outputs = {"data/train.bin", "data/chat/chat.jsonl", "checkpoints/model.pt", "checkpoints_chat/model.pt"}
    git = ["git", "-c", "safe.directory=*", "-C", ROOT]  # another user may own it, as in a container
    assert set(run_command([*git, "check-ignore", *outputs]).stdout.split()) == outputs
    assert run_command([*git, "ls-files", "--cached", "--ignored", "--exclude-standard"]).stdout == ""


def test_torch_requirements_exclude_2_14():
    """Otherwise pip would install an untested version, with gigabytes of CUDA."""
    matrix = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text(encoding="utf-8"))["jobs"]["tests"]["strategy"]["matrix"]["include"]
    torch = next(Requirement(line).specifier for line in requirements("requirements.txt") if Requirement(line).name == "torch")
    ranges = [torch, *(SpecifierSet(row["torch"]) for row in matrix)]
    assert len(ranges) > 4
    for versions in ranges:
        assert "2.9.0" in versions
        assert not {"2.8.0", "2.14.0", "3.0"} & set(versions.filter(["2.8.0", "2.14.0", "3.0"]))
    assert "2.13.0" in torch


def test_requirements_exclude_versions_that_fail():
    """`generate` of transformers 5.0 to 5.2 cannot continue a cache, and gives other text with
    `prefill_chunk_size`, for every model; kitoken 0.10 gives other ids with Gemma's tokenizers."""
    needed = {Requirement(line).name: Requirement(line).specifier for line in requirements("requirements.txt")}
    assert list(needed["transformers"].filter(["4.56.2", "4.57.1", "5.0.0", "5.1.0", "5.2.0", "5.3.0"])) == ["4.57.1", "5.3.0"]
    assert list(needed["kitoken"].filter(["0.10.1", "0.11.0"])) == ["0.11.0"]


def test_onnx_runtime_requirements_exclude_those_without_weights_of_8_bits():
    """1.22 has them only for x86, and not for exact products: microsoft/onnxruntime issue 24769."""
    needed = {Requirement(line).name: Requirement(line).specifier for line in requirements("requirements-onnx.txt")}["onnxruntime"]
    assert "1.22.1" not in needed
    for path in ("docs/export.md", "nano_hindi/export/model_card.py"):
        named = re.findall(r"need ONNX Runtime (\d+\.\d+)", (ROOT / path).read_text(encoding="utf-8"))
        assert [f">={version}" for version in named] == [str(needed)], path


def test_version_and_date_are_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    latest = re.search(r"^## \[(\d\S*)\] - (\S+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert latest.groups() == (nano_hindi.__version__, str(citation["date-released"]))
    assert citation["version"] == nano_hindi.__version__


def test_pre_commit_ruff_is_within_the_range_of_requirements_test():
    hooks, _ = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    ruff = next(Requirement(line).specifier for line in requirements("requirements-test.txt") if Requirement(line).name == "ruff")
    assert hooks["rev"].removeprefix("v") in ruff
