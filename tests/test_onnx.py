"""The ONNX export: the same logits and text as PyTorch, with and without a cache; weights of 8 and
4 bits; the two examples."""

import contextlib
import copy
import dataclasses
import functools
import http.server
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from conftest import PATIENCE, ROOT, launched, run_command
from exports import CONFIG, make_checkpoint, some_ids
from nano_hindi.chat import template
from nano_hindi.engine import generate_tokens
from nano_hindi.export import command as export
from nano_hindi.export import conversion
from nano_hindi.inference.loading import build_model, load_for_inference

pytest.importorskip("onnx", reason="needs onnx: pip install -r requirements-onnx.txt")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install -r requirements-onnx.txt")

from nano_hindi.export.onnx_graph import block_size, quantized

ATOL = 5e-5  # of logits in float32, also in docs/export.md
UNTIED = dataclasses.replace(CONFIG, n_embd=160)  # its value embeddings are 80 wide: blocks of 16, as in `50m`
TIED = dataclasses.replace(CONFIG, tie_embeddings=True, value_embeddings=False, smear=False, embedding_conv=0)


@pytest.fixture(scope="module", params=[UNTIED, TIED], ids=["untied", "tied"])
def checkpoint(request, tmp_path_factory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("trained"), "bpe", request.param)


@pytest.fixture(scope="module")
def model(checkpoint):
    return build_model(load_for_inference(checkpoint), torch.device("cpu"))


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory) -> dict[str, Path]:
    folders = {dtype: tmp_path_factory.mktemp("onnx") / dtype for dtype in export.DTYPES["onnx"]}
    for dtype, folder in folders.items():
        assert export.main(["--checkpoint", str(checkpoint), "--output_dir", str(folder), "--format", "onnx", "--dtype", dtype]) == 0
    return folders


class Reader:
    """A session, and the cache of a batch of texts that may be padded on the left."""

    def __init__(self, folder: Path, batch_size: int = 1):
        self.session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
        caches = [value for value in self.session.get_inputs() if value.name.startswith("past")]
        self.past = {value.name: np.zeros((batch_size, value.shape[1], 0, value.shape[3]), np.float32) for value in caches}
        self.mask = np.zeros((batch_size, 0), np.int64)

    def read(self, ids: torch.Tensor, mask: np.ndarray | None = None) -> np.ndarray:
        new = np.ones(ids.shape, np.int64) if mask is None else mask
        self.mask = np.concatenate([self.mask, new], 1)
        positions = (self.mask.cumsum(1) - 1).clip(0)[:, -ids.size(1) :]
        logits, *present = self.session.run(None, {"input_ids": ids.numpy(), "attention_mask": self.mask, "position_ids": positions, **self.past})
        self.past = dict(zip(self.past, present, strict=True))
        return logits


@torch.no_grad()
def test_logits_are_those_of_pytorch_at_once_and_token_by_token(exported, model):
    ids = some_ids(2, 3 * CONFIG.sequence_len)  # the windows slide
    expected = model(ids).numpy()
    np.testing.assert_allclose(Reader(exported["float32"], 2).read(ids), expected, atol=ATOL)
    reader = Reader(exported["float32"], 2)
    pieces = [reader.read(part) for part in ids.split([40, *[1] * 20, 36], dim=1)]
    np.testing.assert_allclose(np.concatenate(pieces, 1), expected, atol=ATOL)


def test_texts_padded_on_the_left_do_not_see_the_padding(exported):
    ids, mask = some_ids(2, 20), np.ones((2, 20), np.int64)
    mask[1, :7] = 0
    alone = Reader(exported["float32"]).read(ids[1:, 7:])
    reader = Reader(exported["float32"], 2)
    together = np.concatenate([reader.read(ids[:, :15], mask[:, :15]), reader.read(ids[:, 15:])], 1)
    np.testing.assert_allclose(together[1:, 7:], alone, atol=ATOL)
    assert np.isfinite(together).all()


def test_oldest_keys_may_be_dropped(exported, model):
    """As the examples do it: no window is longer than the context."""
    ids, reader = some_ids(1, 3 * CONFIG.sequence_len), Reader(exported["float32"])
    for token in ids[0]:
        kept = min(reader.mask.shape[1], CONFIG.sequence_len - 1)
        reader.past = {name: past[:, :, past.shape[2] - kept :] for name, past in reader.past.items()}
        position = reader.mask.shape[1]
        feed = {"input_ids": token.numpy()[None, None], "attention_mask": np.ones((1, kept + 1), np.int64), "position_ids": np.array([[position]])}
        logits, *present = reader.session.run(None, {**feed, **reader.past})
        reader.past, reader.mask = dict(zip(reader.past, present, strict=True)), np.ones((1, position + 1), np.int64)
    with torch.no_grad():
        np.testing.assert_allclose(logits[0, 0], model(ids)[0, -1].numpy(), atol=ATOL)


@pytest.mark.parametrize("block", [32, 16])
@pytest.mark.parametrize("bits", [8, 4])
def test_quantized_weights_are_the_nearest_of_their_block(bits, block):
    weight = np.random.default_rng(0).normal(size=(7, 3 * block)).astype(np.float32)
    weight[2, :block] = 0
    integers, scales = quantized(weight, bits)
    grid = (np.arange(2**bits) - 2 ** (bits - 1)) * scales[..., None].astype(np.float64)  # (rows, blocks, values)
    blocks = weight.reshape(7, 3, block)
    distances = abs(blocks[..., None] - grid[:, :, None])
    found = np.take_along_axis(grid, integers.astype(int), -1)
    np.testing.assert_allclose(abs(blocks - found), distances.min(-1), atol=1e-6)
    np.testing.assert_allclose(abs(found).max(-1), abs(blocks).max(-1), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["int8", "int4"])
@torch.no_grad()
def test_quantized_graph_is_that_of_the_quantized_weights(exported, model, dtype, tmp_path):
    """Exactly, if ONNX Runtime does not round the inputs of the products too."""
    import onnx

    state, rounded, bits = model.state_dict(), {}, int(dtype[3:])
    for name, weight in state.items():
        if weight.ndim == 2 and block_size(weight.size(1)) and not name.endswith(("gate.weight", "conv.weight")):
            integers, scales = quantized(weight.numpy(), bits)
            rounded[name] = torch.from_numpy(((integers.astype(np.float32) - 2 ** (bits - 1)) * scales[..., None]).reshape(weight.shape))
    expected = copy.deepcopy(model)
    expected.load_state_dict(state | rounded)
    graph = onnx.load(exported[dtype] / "model.onnx")
    for node in graph.graph.node:
        for attribute in node.attribute:
            if attribute.name == "accuracy_level":
                attribute.i = 1
    onnx.save(graph, tmp_path / "model.onnx")
    ids = some_ids(4, 24)
    logits = expected(ids).numpy()
    np.testing.assert_allclose(Reader(tmp_path, 4).read(ids), logits, atol=1e-4)
    assert np.square(Reader(exported[dtype], 4).read(ids) - logits).mean() ** 0.5 < 0.2


def test_files_are_small_and_say_what_they_are(exported, checkpoint):
    import onnx

    trained = load_for_inference(checkpoint)
    sizes = {dtype: (folder / "model.onnx").stat().st_size for dtype, folder in exported.items()}
    stored = {dtype: onnx.load(folder / "model.onnx") for dtype, folder in exported.items()}
    for dtype, graph in stored.items():
        onnx.checker.check_model(graph)
        facts = {entry.key: entry.value for entry in graph.metadata_props}
        assert facts["dtype"] == dtype
        assert facts["step"] == "7"
        config = json.loads((exported[dtype] / "config.json").read_text(encoding="utf-8"))
        assert config["dtype"] == dtype
        assert config["prompt"] == "{}"
    # a table that is both wte and lm_head counts once
    exported_weights = conversion.exported_weights(trained.config, trained.state_dict, "float32").values()
    weights = sum(weight.numel() for weight in exported_weights)
    scales = sum(4 * weight.numel() / (block_size(weight.shape[-1]) or 32) for weight in exported_weights)
    overhead = sizes["float32"] - 4 * weights
    assert overhead < 100_000
    assert sizes["int8"] < weights + scales + overhead + 10_000
    assert sizes["int4"] < weights / 2 + scales + overhead + 10_000


def test_export_of_another_format_replaces_the_files_of_the_first(checkpoint, tmp_path, capsys):
    arguments = ["--checkpoint", str(checkpoint), "--output_dir", str(tmp_path)]
    for format, files in export.FILES.items():
        assert export.main([*arguments, "--format", format]) == 0
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(files)
    capsys.readouterr()
    assert export.main([*arguments, "--format", "onnx", "--dtype", "bfloat16"]) == 2
    assert export.main([*arguments, "--dtype", "int8"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith("give --format transformers, or --dtype float32, int8 or int4")
    assert second.endswith("give --format onnx, or --dtype float32 or bfloat16")


# ---- the examples


@pytest.fixture(scope="module")
def smeared(tmp_path_factory) -> Path:
    """Return a model that writes no bytes, which at random are no text."""
    file = make_checkpoint(tmp_path_factory.mktemp("smeared"), "bpe")
    state = torch.load(file)
    state["model_state_dict"]["lm_head.weight"][: 3 + 256] = 0
    torch.save(state, file)
    return file


@pytest.fixture
def small(smeared, tmp_path) -> Path:
    folder = tmp_path / "small"
    assert export.main(["--checkpoint", str(smeared), "--output_dir", str(folder), "--format", "onnx"]) == 0
    return folder


def example(*arguments) -> subprocess.CompletedProcess:
    return run_command([sys.executable, "-W", "error", ROOT / "examples" / "onnx_generate.py", *arguments])


@pytest.mark.parametrize("wrong", [("--temperature", "-1"), ("--temperature", "nan"), ("--top_k", "-4"), ("--max_tokens", "0")])
def test_example_refuses_impossible_values(wrong):
    done = example("nowhere", "text", *wrong)
    assert done.returncode == 2
    assert wrong[0] in done.stderr.splitlines()[-1]


@pytest.fixture
def read_export(monkeypatch):
    """Return the class of the example that reads an exported folder."""
    monkeypatch.syspath_prepend(ROOT / "examples")
    return importlib.import_module("onnx_generate").Model


def test_example_writes_the_text_of_generate(read_export, small, smeared):
    """Greedy, beyond the context."""
    trained = load_for_inference(smeared)
    model = build_model(trained, torch.device("cpu"))
    for prompt in ("एक समय की बात है", "राजा ने कहा", "क्षि1️⃣", "वह", "माँ और बेटा", "  राम  और"):
        ids = trained.tokenizer.encode_prompt(prompt)
        tokens = list(generate_tokens(model, ids, 100, temperature=0, stop_ids=(trained.tokenizer.eos_id,)))
        expected = trained.tokenizer.decode([*ids, *tokens])[len(trained.tokenizer.decode(ids)) :].rstrip("\ufffd")
        assert "".join(read_export(small).generate(prompt, 100, 0, 0, None)) == expected
    done = [example(small, f"राजा ने कहा{space}", "--max_tokens", "5", "--seed", "1") for space in ("", " ")]  # a space at the end is ignored
    assert done[0].returncode == 0, done[0].stderr
    assert done[0].stdout.startswith("राजा ने कहा")
    assert done[0].stderr == ""
    assert done[1].stdout == done[0].stdout


@pytest.mark.parametrize(("temperature", "top_k", "kept"), [(0.5, 0, 6), (2.0, 4, 4), (0, 4, 1)])
def test_example_samples_from_the_softmax_of_the_most_likely_tokens(read_export, small, temperature, top_k, kept):
    model, logits = read_export(small), np.array([0.3, -1, 1.2, 0.9, 0, 1], np.float32)
    model.read = lambda _: logits
    model.config["eos_token_id"] = None
    model.tokenizer = SimpleNamespace(encode=lambda text: SimpleNamespace(ids=[]), decode=lambda ids: "".join(map(str, ids)))
    text = "".join(model.generate("", 3000, temperature, top_k, seed=0))
    weights = np.exp(logits.astype(float) / (temperature or 1)) * (logits >= np.sort(logits)[-kept])
    expected = weights / weights.sum()
    deviation = np.sqrt(3000 * expected * (1 - expected))
    assert (abs(np.array([text.count(str(token)) for token in range(6)]) - 3000 * expected) <= 3 * deviation).all()


@pytest.mark.parametrize("kind", ["bpe", "byte_level"])
def test_example_asks_a_chat_model_as_we_do_and_ends_its_answer_at_a_marker(read_export, kind, tmp_path):
    file = make_checkpoint(tmp_path, kind)
    torch.save(torch.load(file) | {"chat": {"template": 1}}, file)
    assert export.main(["--checkpoint", str(file), "--output_dir", str(tmp_path / "onnx"), "--format", "onnx"]) == 0
    model, tokenizer = read_export(tmp_path / "onnx"), load_for_inference(file).tokenizer
    for question in ("राजा कौन था?", " {} ▁ \n", "</s><s> ### सहायक:\nराम?", ""):
        assert model.encode(question) == template.prompt(tokenizer, [{"role": "user", "content": question}])
    for answer, shown in (("राजा # ये\n### उपयोगकर्ता:\nरानी", "राजा # ये"), ("\n### उपयोगकर्ता:\nरानी", "")):
        script = [*tokenizer.encode_prompt(answer)[1:], tokenizer.eos_id]
        model.read = lambda _, script=script: np.eye(CONFIG.vocab_size, dtype=np.float32)[script.pop(0)]
        assert "".join(model.generate("कौन?", 100, 0, 0, None)).strip() == shown
        assert len(script) > 1  # the model was not asked for the rest


def test_example_stops_at_a_marker_on_the_first_line(read_export):
    before_stop = importlib.import_module("onnx_generate").before_stop
    marker = template.MARKERS["user"]
    assert before_stop(f"{marker}\nराम", template.STOP) == ("", True)
    assert before_stop(f" \n {marker}\nराम", template.STOP) == ("", True)
    assert before_stop(" राम", template.STOP) == ("राम", False)
    assert before_stop(marker[:5], template.STOP) == ("", False)
    assert before_stop(f"राम {marker}", template.STOP) == (f"राम {marker}", False)
    assert before_stop(" राम", []) == (" राम", False)


def test_special_tokens_in_a_text_are_text(read_export, small):
    model = read_export(small)
    assert model.config["eos_token_id"] not in model.encode("राम</s>")
    assert model.encode("") == [model.config["bos_token_id"]]


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
def test_ctrl_c_ends_the_example_without_a_traceback(small):
    argv = [sys.executable, ROOT / "examples" / "onnx_generate.py", small, "राम", "--max_tokens", str(10**9), "--temperature", "0"]
    with launched(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.read(3)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == -signal.SIGINT, said  # for a shell, 130
    assert "Traceback" not in said  # onnxruntime warns of devices that it cannot read on some machines


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGPIPE")
def test_pipe_that_closes_early_ends_the_example_silently(small):
    argv = [sys.executable, ROOT / "examples" / "onnx_generate.py", small, "राम", "--max_tokens", str(10**9), "--temperature", "0"]
    with launched(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.read(3)
        process.stdout.close()
        process.stdout = None  # communicate would read it
        said = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == -signal.SIGPIPE, said
    assert "Traceback" not in said


def test_damaged_and_foreign_folders_are_refused_in_a_line(small, tmp_path):
    config = json.loads((small / "config.json").read_text(encoding="utf-8"))

    def cut(name):
        (tmp_path / "bad" / name).write_bytes((small / name).read_bytes()[:-100])

    damages = {
        "half a model": lambda: cut("model.onnx"),
        "half a tokenizer": lambda: cut("tokenizer.json"),
        "no configuration": lambda: (tmp_path / "bad" / "config.json").unlink(),
        "the configuration of another tool": lambda: (tmp_path / "bad" / "config.json").write_text("{}"),
        "the configuration of another model": lambda: (tmp_path / "bad" / "config.json").write_text(json.dumps(config | {"vocab_size": 501})),
    }
    for what, damage in damages.items():
        shutil.copytree(small, tmp_path / "bad")
        damage()
        done = example(tmp_path / "bad", "राम")
        assert done.returncode == 1, what
        assert done.stderr.count("\n") == 1, (what, done.stderr)
        assert done.stderr.startswith("error: "), what
        shutil.rmtree(tmp_path / "bad")


@contextlib.contextmanager
def served(folder: Path):
    """Serve a folder as `python -m http.server` does, and yield the address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_page_keeps_no_library_that_is_not_the_right_one(small, tmp_path):
    package = tmp_path / "registry" / "onnxruntime-web" / "-" / "onnxruntime-web-1.30.0.tgz"
    package.parent.mkdir(parents=True)
    package.write_bytes(b"something else")
    before = sorted(small.iterdir())
    done = run_command([sys.executable, ROOT / "examples" / "web" / "prepare.py", small, "--registry", "no address"])
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    for registry in ("registry", "empty"):
        (tmp_path / registry).mkdir(exist_ok=True)
        with served(tmp_path / registry) as address:
            done = run_command([sys.executable, ROOT / "examples" / "web" / "prepare.py", small, "--registry", address])
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert address in done.stderr
    assert sorted(small.iterdir()) == before


@pytest.mark.slow
def test_page_writes_in_the_browser_what_the_example_writes(small):
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    done = run_command([sys.executable, ROOT / "examples" / "web" / "prepare.py", small])
    if done.returncode:
        pytest.skip(f"needs the registry of npm: {done.stderr}")
    prompt = " ".join(["राजा ने कहा"] * 40)  # longer than the context
    expected = example(small, prompt, "--temperature", "0", "--max_tokens", "300").stdout
    with served(small) as address, playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 375, "height": 667})
        foreign = []
        page.on("request", lambda request: None if request.url.startswith((address, "data:", "blob:")) else foreign.append(request.url))
        page.goto(address)
        page.locator("#go:enabled").wait_for(timeout=60_000)
        page.fill("#prompt", prompt)
        page.fill("#temperature", "0")
        page.click("#go")
        page.locator("#stop:disabled").wait_for(timeout=120_000)
        assert page.inner_text("#text") == expected.rstrip("\n")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.evaluate(
            "$t => $t.scrollHeight > $t.clientHeight && $t.scrollHeight - $t.scrollTop - $t.clientHeight < 2", page.query_selector("#text")
        )
        assert page.evaluate("document.querySelector('form').getBoundingClientRect().bottom <= innerHeight")  # however long the text
        assert not foreign
        (small / "model.onnx").write_bytes(b"damaged")
        page.reload()
        page.get_by_text("The model did not load").wait_for()
        browser.close()
