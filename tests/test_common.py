"""Devices, and that no command loads torch before it has parsed its flags."""

import pytest

from conftest import run_script
from nano_hindi import common
from nano_hindi.errors import UserError


def test_missing_device_is_refused():
    import torch

    with pytest.raises(UserError, match="use cpu or cuda"):
        common.pick_device("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="--device cpu"):
            common.pick_device("cuda")


@pytest.mark.parametrize(("maker", "expected"), [("GenuineIntel", True), ("AuthenticAMD", False)])
def test_maker_of_the_cpu_comes_from_linux_or_the_name_that_windows_gives_it(tmp_path, monkeypatch, maker, expected):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nvendor_id\t: {maker}\nmodel name\t: नाम\n", encoding="utf-8")
    monkeypatch.setattr("platform.processor", lambda: f"Family 6 Model 142 Stepping 12, {maker}")
    assert common.is_intel_cpu(cpuinfo) is common.is_intel_cpu(tmp_path / "missing") is expected


@pytest.mark.parametrize(
    "script", ["train.py", "finetune.py", "generate.py", "serve.py", "nano_hindi/eval.py", "data/download.py", "data/preprocess.py"]
)
def test_help_imports_no_heavy_library(script):
    """Start-up below a second, checked without a clock: none of the slow packages is loaded."""
    code = f"import runpy, sys; sys.argv = [{script!r}, '--help']\ntry: runpy.run_path({script!r}, run_name='__main__')\nexcept SystemExit: pass\n"
    code += "print(sorted({'torch', 'transformers', 'datasets', 'pyarrow', 'matplotlib', 'wandb'} & set(sys.modules)))"
    output = run_script("-c", code)
    assert output.stdout.splitlines()[-1] == "[]", output.stderr
    assert "usage:" in output.stdout
