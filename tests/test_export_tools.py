"""The exported model in TRL, PEFT and ONNX, against our own model.

`bash tests/export_tools/run.sh` makes environments with these packages, and transformers 4 and 5,
and runs these tests there.
"""

import dataclasses
import importlib.util
import math

import pytest
import torch
import transformers

import standin
from exports import ATOL, CONFIG, LogitsOnly, load, load_its_tokenizer, make_checkpoint, some_ids
from nano_hindi.chat import template
from nano_hindi.export import command as export
from nano_hindi.inference.loading import build_model, load_for_inference
from nano_hindi.model import GPT

pytestmark = pytest.mark.slow
if missing := [name for name in ("trl", "peft", "accelerate") if not importlib.util.find_spec(name)]:
    pytest.skip(f"needs {', '.join(missing)}: bash tests/export_tools/run.sh", allow_module_level=True)

DOCUMENTS = [text for text in standin.documents(30) if len(text) < 90][:8]


@pytest.fixture(scope="module")
def ours(tmp_path_factory) -> GPT:
    return build_model(load_for_inference(make_checkpoint(tmp_path_factory.mktemp("checkpoint"), "bpe")), torch.device("cpu"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, modules_cache):
    checkpoint, folder = make_checkpoint(tmp_path_factory.mktemp("checkpoint"), "bpe"), tmp_path_factory.mktemp("export")
    assert export.main(["--checkpoint", str(checkpoint), "--output_dir", str(folder)]) == 0
    return folder


@pytest.fixture(autouse=True)
def own_precision(monkeypatch):
    """Undo the global state of accelerate, which keeps the precision of a trainer for the next
    one."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")


@torch.no_grad()
def nats(ours: GPT, ids: list[int]) -> torch.Tensor:
    """Return the loss of each token of a document but the first."""
    row = torch.tensor([ids])
    return ours(row[:, :-1], row[:, 1:], loss_reduction="none")[0]


def training(out, steps: int, learning_rate: float) -> dict:
    """Return the arguments of a trainer that logs the loss of each batch before its update."""
    return {
        "output_dir": str(out), "max_steps": steps, "per_device_train_batch_size": len(DOCUMENTS), "learning_rate": learning_rate,
        "lr_scheduler_type": "constant", "logging_steps": 1, "save_strategy": "no", "report_to": "none", "use_cpu": True, "disable_tqdm": True,
    }  # fmt: skip


def history(trainer, key: str = "loss") -> list[float]:
    return [float(entry[key]) for entry in trainer.state.log_history if key in entry]


def all_linear():
    from peft import LoraConfig

    return LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM")


# ---- TRL


@pytest.mark.parametrize(
    ("options", "lora"),
    [({}, False), ({"packing": True, "bf16": False}, False), ({"loss_type": "chunked_nll", "bf16": False}, False), ({"bf16": False}, True)],
    ids=["defaults", "packed", "chunked loss", "lora"],
)
def test_sft_starts_with_the_loss_of_our_model_and_lowers_it(folder, ours, tmp_path, options, lora):
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    model, tokenizer = load(folder, dtype=torch.float32), load_its_tokenizer(folder)
    arguments = SFTConfig(**training(tmp_path, 4, 1e-2 if lora else 1e-3), **options)
    texts = Dataset.from_dict({"text": DOCUMENTS})
    trainer = SFTTrainer(model=model, args=arguments, train_dataset=texts, processing_class=tokenizer, peft_config=all_linear() if lora else None)
    trainer.train()
    losses = torch.cat([nats(ours, [*tokenizer(text).input_ids, tokenizer.eos_token_id]) for text in DOCUMENTS])
    # transformers 4 counts the first token of a document as a target too
    n_targets = len(losses) + (len(DOCUMENTS) if transformers.__version__ < "5" and "packing" not in options else 0)
    found = history(trainer)
    assert found[0] == pytest.approx(losses.sum().item() / n_targets, abs=1e-3 if "bf16" in options else 0.05)
    assert found[-1] < found[0] - 0.2
    if lora:
        ids = some_ids(1, 40)
        with torch.no_grad(), trainer.model.disable_adapter():
            torch.testing.assert_close(trainer.model(ids).logits, ours(ids), rtol=0, atol=ATOL)


def test_sft_on_conversations_has_the_targets_of_our_fine_tuning(tmp_path, modules_cache):
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    file, folder = make_checkpoint(tmp_path, "bpe", dataclasses.replace(CONFIG, sequence_len=256)), tmp_path / "export"
    torch.save(torch.load(file) | {"chat": {"template": 1}}, file)
    assert export.main(["--checkpoint", str(file), "--output_dir", str(folder)]) == 0
    talks = [
        [{"role": role, "content": text} for role, text in zip(("user", "assistant") * 2, DOCUMENTS[i : i + 2 * turns], strict=False)]
        for i, turns in ((0, 1), (2, 2), (4, 1), (1, 2))
    ]
    arguments = SFTConfig(**training(tmp_path / "out", 4, 1e-3), bf16=False, assistant_only_loss=True)
    model, tokenizer = load(folder, dtype=torch.float32), load_its_tokenizer(folder)
    trainer = SFTTrainer(model=model, args=arguments, train_dataset=Dataset.from_dict({"messages": talks}), processing_class=tokenizer)
    trainer.train()
    trained = load_for_inference(file)
    ours, rendered = build_model(trained, torch.device("cpu")), template.render_batch(trained.tokenizer, talks)
    losses = torch.cat([nats(ours, talk.ids)[talk.is_target[1:]] for talk in rendered])
    found = history(trainer)
    assert found[0] == pytest.approx(losses.mean().item(), abs=1e-3)
    assert found[-1] < found[0] - 0.2


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_dpo_starts_from_the_log_probabilities_of_our_model(folder, ours, tmp_path, lora):
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    model, tokenizer = load(folder, dtype=torch.float32), load_its_tokenizer(folder)
    pairs = {"prompt": ["राम और"] * 8, "chosen": [f" {text}" for text in DOCUMENTS], "rejected": [" the river"] * 8}
    arguments = DPOConfig(**training(tmp_path, 4, 1e-2 if lora else 1e-4), bf16=False, trust_remote_code=True)
    trainer = DPOTrainer(
        model=model, args=arguments, train_dataset=Dataset.from_dict(pairs), processing_class=tokenizer, peft_config=all_linear() if lora else None
    )
    rows = [(row["prompt_ids"], row["chosen_ids"]) for row in trainer.train_dataset]
    trainer.train()
    losses = history(trainer)
    assert losses[0] == pytest.approx(math.log(2), abs=1e-4)  # the policy is the reference
    assert losses[-1] < losses[0] - 0.05
    expected = [-nats(ours, [*prompt, *chosen])[len(prompt) - 1 :].sum().item() for prompt, chosen in rows]
    assert history(trainer, "logps/chosen")[0] == pytest.approx(sum(expected) / len(expected), abs=1e-2)


# ---- PEFT


def steps(model, ids: torch.Tensor, n: int) -> list[float]:
    """Return the losses of n updates of the trained parameters."""
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-2)
    losses = []
    for _ in range(n):
        loss = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return losses


def test_merged_adapter_gives_the_logits_of_the_adapter(folder, tmp_path):
    from peft import PeftModel, get_peft_model

    model, ids = get_peft_model(load(folder, dtype=torch.float32), all_linear()), some_ids(2, 40)
    losses = steps(model, ids, 4)
    assert losses[-1] < losses[0] - 0.2
    model.eval().save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        expected = model(ids).logits
        again = PeftModel.from_pretrained(load(folder, dtype=torch.float32), tmp_path / "adapter")
        torch.testing.assert_close(again(ids).logits, expected, rtol=0, atol=ATOL)
        again.merge_and_unload().save_pretrained(tmp_path / "merged")
        torch.testing.assert_close(load(tmp_path / "merged", dtype=torch.float32)(ids).logits, expected, rtol=0, atol=1e-4)


def test_prefix_tuning_learns_and_generates(folder):
    from peft import PrefixTuningConfig, get_peft_model

    model, ids = get_peft_model(load(folder, dtype=torch.float32), PrefixTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM")), some_ids(2, 20)
    losses = steps(model, ids, 8)
    assert losses[-1] < losses[0] - 0.1
    with torch.no_grad():
        for weight in model.prompt_encoder.parameters():
            weight.normal_(std=30)  # so that the prefix decides
        out = model.eval().generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=3, eos_token_id=None)
        first = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, -1].argmax(dim=-1)
    assert torch.equal(out[:, 20], first)
    assert not torch.equal(first, model.get_base_model()(ids).logits[:, -1].argmax(dim=-1))


def test_prompt_tuning_is_refused_in_one_sentence(folder):
    from peft import PromptTuningConfig, get_peft_model

    model, ids = get_peft_model(load(folder, dtype=torch.float32), PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM")), some_ids(1, 20)
    with pytest.raises(ValueError, match="give input_ids in addition to inputs_embeds"):
        model(input_ids=ids)


# ---- ONNX


def test_onnx_program_gives_our_logits_at_any_length(folder, ours, tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime, onnxscript")
    ids, dynamic = some_ids(2, 20), {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    model = LogitsOnly(load(folder, dtype=torch.float32)).eval()
    torch.onnx.export(model, (ids, torch.ones_like(ids)), tmp_path / "model.onnx", dynamo=True, dynamic_shapes=(dynamic, dynamic), verbose=False)
    session = runtime.InferenceSession(tmp_path / "model.onnx")
    longer = some_ids(3, 70)
    names = [entry.name for entry in session.get_inputs()]
    (found,) = session.run(None, dict(zip(names, (longer.numpy(), torch.ones_like(longer).numpy()), strict=True)))
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), ours(longer), rtol=0, atol=ATOL)
