"""The GPU checks as part of the suite: all of them where there is a GPU, and a small version
everywhere, to test the checks themselves."""

import ast
import contextlib
import dataclasses
import importlib.machinery
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import additions
import fake_gpu
from conftest import ROOT, arguments, launched, run_command, run_script
from test_loss import gradients_of, make, reference

GPU = ROOT / "tests" / "gpu"


def imported(name: str):
    """Return a script of tests/gpu as a module; `profile` would be the standard library's."""
    spec = importlib.util.spec_from_file_location(f"gpu_{name}", GPU / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def measures(monkeypatch):
    from nano_hindi import loss

    monkeypatch.setattr(sys, "path", [str(GPU), *sys.path])
    monkeypatch.setattr(sys, "argv", [str(GPU / "measures.py"), str(ROOT), "", "cpu", "small", "1", "None"])
    monkeypatch.setattr(loss, "CHUNK_BYTES", dict(loss.CHUNK_BYTES))
    return imported("measures")


@pytest.mark.slow
@pytest.mark.gpu
@pytest.mark.timeout(2000)
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: python tests/gpu/check.py")
def test_gpu_checks_pass():
    done = run_script("tests/gpu/check.py", timeout=1800)
    sys.stdout.write(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("script", ["check.py", "profile.py"])
def test_misspelt_name_of_a_check_is_refused(script):
    done = run_script(f"tests/gpu/{script}", "--device", "cpu", "--small", "--only", "atention")
    assert done.returncode == 2
    assert "begins with atention" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(2000)
def test_gpu_checks_run_on_a_cpu():
    done = run_script("tests/gpu/check.py", "--device", "cpu", "--small", "--updates", "3", timeout=1800)
    verdicts = {row.split("|")[1].strip(): row.split("|")[2].strip() for row in done.stdout.splitlines() if row.startswith("| ")}
    assert done.returncode == 0, done.stdout + done.stderr
    passed = {"attention sdpa", "decoding sdpa", "loss", "loss fp8", "network", "n-grams", "updates", "float16", "resume", "commands"}
    assert {name for name, verdict in verdicts.items() if verdict == "ok"} == passed
    assert {name for name, verdict in verdicts.items() if verdict == "skipped"} == {
        "8 GB, auto",
        "16 GB, 64 at once",
        "hidden waits",
        "memory ends",
        "generation",
    }


@pytest.fixture(scope="module")
def gpu_command(tmp_path_factory):
    """Return the beginning of a command that runs a script with a fake GPU."""
    if sys.platform != "linux" or torch.version.cuda:
        pytest.skip("needs Linux and PyTorch's CPU build")
    try:
        library = fake_gpu.build(tmp_path_factory.mktemp("gpu"))
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"needs a C++ compiler that compiles PyTorch's headers: {getattr(error, 'stderr', error)}")
    return [sys.executable, fake_gpu.__file__, library]


@pytest.mark.slow
def test_fake_gpu_refuses_tensors_of_two_devices(gpu_command, tmp_path):
    script = tmp_path / "add.py"
    script.write_text("import torch\nx = torch.ones(2, device='cuda')\nprint((x + x.cpu().to('cuda')).sum().item())\nx + x.cpu()")
    done = run_command([*gpu_command, script], fork=False)
    assert done.stdout == "4.0\n"
    assert done.stderr.endswith("RuntimeError: aten::add got a tensor of the CPU among those of the GPU\n")


COMMANDS = """
import importlib, json, sys
from nano_hindi.training import estimates
estimates.matmul_flops = lambda *_: 1e12  # seconds on a CPU, for matrices of the size for a GPU
for name, argv in json.loads(sys.argv[1]):
    assert not importlib.import_module(name).main(argv)
"""


@pytest.mark.slow
def test_commands_keep_tensors_of_the_two_devices_apart(gpu_command, data_dir, tmp_path):
    script, run, tuned = tmp_path / "commands.py", tmp_path / "run", tmp_path / "tuned"
    script.write_text(COMMANDS)
    chats = [{"prompt": word, "completion": word * 2} for word in ("एक", "दो", "तीन", "चार")]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    extras = "--device cuda --inference_interval 8 --device_batch_size auto --ngram_buckets 64"
    training = arguments(data_dir, run, *extras.split(), *additions.FLAGS, "--sequence_len", "256")
    commands = [
        ["train", [*training, "--total_tokens", "4096"]],
        ["train", [*training, "--total_tokens", "8192", "--resume", "auto", "--fp8_head", "True"]],
        ["generate", ["--checkpoint", run, "--prompt", "एक", "--num_samples", "2", "--max_tokens", "9", "--device", "cuda"]],
        ["nano_hindi.evaluation.command", ["--checkpoint", run, "--data_dir", data_dir, "--max_bytes", "9000", "--device", "cuda"]],
        ["data.chat", ["--tokenizer", run, "--output_dir", tmp_path, "--source", tmp_path / "chats.jsonl", "--val_fraction", "0.5"]],
        ["finetune", ["--checkpoint", run, "--data_dir", tmp_path, "--checkpoint_dir", tuned, "--device", "cuda", "--epochs", "1"]],
    ]
    done = run_command([*gpu_command, script, json.dumps(commands, default=str)], fork=False, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("on cuda:0 (NVIDIA H200) in bfloat16") == 3


@pytest.mark.slow
def test_gpu_checks_pass_with_a_fake_gpu(gpu_command):
    names = ["loss", "network", "n-grams", "updates", "8 GB", "float16", "resume"]
    done = run_command([*gpu_command, "tests/gpu/check.py", "--small", "--updates", "3", "--only", *names], fork=False)
    assert done.returncode == 0, done.stdout + done.stderr


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip("|\n ").split("|")]


def printed_rows(capfd) -> list[list[str]]:
    return [cells(line) for line in capfd.readouterr().out.splitlines() if line.startswith("| ")]


@pytest.mark.slow
def test_profile_finds_the_slower_loss_of_another_checkout_and_a_cut_call_keeps_its_rows(tmp_path):
    for folder in ("nano_hindi", "tests/gpu", "tests/benchmarks", "tests/support"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    with open(tmp_path / "nano_hindi" / "loss.py", "a", encoding="utf-8") as file:
        file.write("def slower(*arguments, faster=softcapped_cross_entropy, **options):\n    import time\n    time.sleep(0.1)\n")
        file.write("    return faster(*arguments, **options)\nsoftcapped_cross_entropy = slower\n")
    argv = [sys.executable, GPU / "profile.py", "--device", "cpu", "--small", "--only", "head", "updates", "--against", tmp_path]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": ""}
    with launched(argv, fork=False, stdout=subprocess.PIPE, env=env) as process:
        row = next(cells(line) for line in process.stdout if line.startswith("| head | whole loss"))
        process.kill()
        rest = process.stdout.read()
    assert "whole updates" not in rest  # so the row was printed before the call was over
    this, other = (float(cell.split()[0]) for cell in row[2:4])
    assert other > 100, row  # ms
    assert float(row[4]) == pytest.approx(other / this, rel=1e-2, abs=1e-3)


@pytest.mark.slow
def test_all_sections_of_the_profile_print_rows_and_a_failed_measure_hides_no_other(measures, monkeypatch, capfd):
    profile = imported("profile")

    @contextlib.contextmanager
    def in_this_process(args, checkout, section, fraction, deadline):
        with measures.SECTIONS[section](measures.make_lab(torch.device("cpu"), small=True)) as found:
            broken = {"broken": lambda: 1 / 0} if section == "head" else {}

            def measure(name):
                try:
                    return {**broken, **found}[name]()
                except Exception as error:
                    raise profile.MeasureError(f"{type(error).__name__}: {error}") from error

            yield SimpleNamespace(names=[*broken, *found], measure=measure)

    monkeypatch.setattr(profile, "started", in_this_process)
    monkeypatch.setattr(measures.subprocess, "run", lambda *_, **__: None)  # the processes of `start`
    code = profile.main(["--device", "cpu", "--small"])
    rows = printed_rows(capfd)[2:]
    assert [row[:3] for row in rows if "FAILED" in row[2]] == [["head", "broken", "FAILED: ZeroDivisionError: division by zero"]]
    assert code == 1
    assert {row[0] for row in rows if row[1] != "time"} == set(profile.SECTIONS) - {"peer"}


def test_profile_kills_a_worker_at_the_deadline():
    profile = imported("profile")
    args = SimpleNamespace(device="cpu", small=True, peer=None)
    with pytest.raises(profile.MeasureError, match="time was up"), profile.started(args, ROOT, "versions", fraction=1, deadline=0):
        pass


def test_checkouts_are_measured_in_turn_and_must_have_the_same_losses(capfd):
    profile, calls = imported("profile"), []

    def worker(checkout, seconds, losses):
        results = [{"seconds": [s], "losses": [loss]} for s, loss in zip(seconds, losses, strict=True)]
        return SimpleNamespace(names=["updates"], measure=lambda name: calls.append(checkout) or results.pop(0))

    workers = [worker("this", [1, 9, 2], [5.0, 4.0, 3.0]), worker("other", [3, 3, 3], [5.0, 4.0, 3.0])]
    table = profile.Table()
    table.measured("updates", workers, rounds=3)
    assert calls == ["this", "other", "other", "this", "this", "other"]
    assert printed_rows(capfd)[0] == ["updates", "updates", "2000.000 ms (1500.000 to 5500.000)", "3000.000 ms (3000.000 to 3000.000)", "1.500"]
    assert not table.has_failed
    table.measured("updates", [worker("this", [1], [5.0]), worker("other", [1], [5.01])], rounds=1)
    assert table.has_failed
    older = SimpleNamespace(names=[])
    table.measured("updates", [worker("this", [1], [5.0]), older], rounds=1)
    assert printed_rows(capfd)[-1] == ["updates", "updates", "1000.000 ms"]


def test_start_has_an_empty_cache_first_and_then_the_same(measures, monkeypatch):
    found = []

    def run(argv, env, **_):
        folder = Path(env["TORCHINDUCTOR_CACHE_DIR"])
        found.append((argv[3], folder, [path.name for path in folder.iterdir()]))
        (folder / "kernel").touch()

    monkeypatch.setattr(measures.subprocess, "run", run)
    with measures.start(measures.make_lab(torch.device("cpu"), small=True)) as starts:
        for first_update in starts.values():
            first_update()
    (_, cold, nothing), (section, warm, kept) = found
    assert (cold, nothing, kept) == (warm, [], ["kernel"])
    with measures.SECTIONS[section](measures.make_lab(torch.device("cpu"), small=True)):
        pass


def test_kernels_are_told_apart_and_the_gaps_between_them_are_summed(measures):
    names = {
        "Memcpy HtoD (Pinned -> Device)": "memcpy",
        "void pytorch_flash::flash_bwd_dq_dk_dv_loop_kernel<cutlass::bfloat16_t>": "attention",
        "cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16": "attention",
        "nvjet_tst_128x256_64x4_1x2_h_bz_coopA_NTT": "matmul",
        "sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n": "matmul",
        "triton_tem_fused_mm_0": "matmul",
        "triton_red_fused__to_copy_div_exp_mul_sum_tanh_0": "loss elementwise",
        "triton_poi_fused__scaled_dot_product_flash_attention_mm_mul_3": "other elementwise",
        "void at::native::multi_tensor_apply_kernel<FusedAdamMathFunctor<float, 4>>": "optimizer (AdamW)",
        "void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>>": "other elementwise",
        "void (anonymous namespace)::compute_grad_weight<float>": "other",
    }
    for name, kind in names.items():
        assert [of for of, ms in measures.by_class([(0, 1000, name)]).items() if ms] == [kind], name
    # two overlap, one lies inside another, and 3 ms have none
    kernels = [(0, 2000, "nvjet"), (1000, 3000, "nvjet"), (2000, 500, "x_tanh"), (5000, 1000, "nvjet"), (8000, 2000, "y")]
    rows = dict(measures.kernel_rows(kernels, updates=2))
    assert rows["gaps between kernels"] == "1.50 ms, 30.0%"
    assert rows["wall time"] == "5.00 ms, 100.0%"
    assert rows["kernel 1"] == "3.00 ms, 1.5 x nvjet"


def test_the_check_of_the_network_finds_a_nan_of_one_seed(measures, monkeypatch):
    numerics = measures.numerics
    losses = []

    def compile_blocks(net):
        def with_nan(*arguments):
            losses.append(type(net).forward(net, *arguments))
            return losses[-1] * float("nan" if len(losses) == 4 else 1)

        net.forward = with_nan

    monkeypatch.setattr(numerics, "can_compile", lambda device: None)
    monkeypatch.setattr(numerics.GPT, "compile_blocks", compile_blocks)
    lab = dataclasses.replace(measures.make_lab(torch.device("cpu"), small=True), full=True)
    assert "seeds: 2" in numerics.network(lab, 2)
    with pytest.raises(AssertionError, match="seed 1: resid_lambdas nan"):
        numerics.network(lab, 2)
    assert len({loss.item() for loss in losses[:2]}) == 2


# ---- path B of the loss


def relative_errors_of_path_b(scale):
    """Return the relative errors of its loss, dX and dW against the float64 formula of
    test_loss.py. The last chunk, the vocabulary and the width do not fill their last tiles."""
    from nano_hindi import loss

    sys.path.append(str(GPU))
    from path_b import cross_entropy

    V, padding = 1100, 20
    x, weight, targets = make(150, 72, V, padding=padding, ignored=0.2, scale=scale)
    loss.CHUNK_BYTES["cpu"] = 128 * V * 4
    value, again = (cross_entropy(x, weight, targets, reduction="sum", vocab_size=V) for _ in range(2))
    nothing = cross_entropy(x, weight, torch.full_like(targets, -1), vocab_size=V)
    grads = gradients_of(value, x, weight)
    assert all(map(torch.equal, grads, gradients_of(again, x, weight))), "two calls differ"
    assert nothing.item() == 0
    assert not any(grad.any() for grad in gradients_of(nothing, x, weight))
    assert not grads[0][targets == -1].any()
    assert not grads[1][V:].any()
    expected = reference(x, weight, targets, 15.0, V).sum()
    pairs = zip((value, *grads), (expected, *gradients_of(expected, x, weight)), strict=True)
    return [((a - b).norm() / b.norm()).item() for a, b in pairs]


# a standard deviation of the logits of 2.5 and of 25, beyond the cap
@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="needs Triton: pip install triton")
def test_path_b_equals_the_float64_formula_in_tritons_interpreter():
    code = f"import sys; sys.path[:0] = {sys.path}; import test_gpu; print([test_gpu.relative_errors_of_path_b(s) for s in (0.3, 3.0)])"
    done = run_command([sys.executable, "-c", code], env={**os.environ, "TRITON_INTERPRET": "1"})
    assert done.returncode == 0, done.stderr
    errors = ast.literal_eval(done.stdout.splitlines()[-1])
    assert all(error < 2e-6 for of_scale in errors for error in of_scale), errors


def test_profile_does_not_hide_the_one_of_the_standard_library(monkeypatch):
    """torch.compile imports cProfile, which imports profile."""
    monkeypatch.setattr(sys, "path", [str(GPU), *sys.path])
    monkeypatch.delitem(sys.modules, "lab", raising=False)
    import lab  # noqa: F401 - as check.py does

    assert Path(importlib.machinery.PathFinder.find_spec("profile", sys.path).origin).parent != GPU
