"""The losses of a text's tokens against the same model queried one token at a time, and the bytes
each token stands for."""

import itertools
import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch

import standin
from nano_hindi.config import GPTConfig
from nano_hindi.errors import UserError
from nano_hindi.eval import compute_token_bytes, evaluate_bpb
from nano_hindi.evaluation.report import Figures
from nano_hindi.evaluation.scoring import CheckpointScorer, HuggingFaceScorer, Scorer, Span, batches_by_length, span_bounds
from nano_hindi.inference.loading import TrainedModel
from nano_hindi.model import GPT
from nano_hindi.tokenizer import load_tokenizer

CONTEXT = 16
CPU = torch.device("cpu")
LONG = "\n".join(standin.documents(3, seed=7))  # several contexts
TEXTS = [*standin.documents(9, seed=5), LONG, "क", " दो  जगह ", "👩‍🌾 </s> <|endoftext|>", "", "राम"]


def random_gpt(tokenizer) -> TrainedModel:
    """Return a model in which every weight matters; a freshly initialized one predicts
    uniformly."""
    config = GPTConfig(vocab_size=tokenizer.vocab_size, sequence_len=CONTEXT, n_layer=2, n_head=2, n_kv_head=1, n_embd=16, window_pattern="SL")
    model, generator = GPT(config), torch.Generator().manual_seed(3)
    state = {name: torch.randn(weight.shape, generator=generator) * 0.5 for name, weight in model.state_dict().items()}
    return TrainedModel(config, state, 0, tokenizer, Path("model.pt"), is_chat=False)


def save_hugging_face(folder: Path, kind: str) -> Path:
    """Save a tiny Llama or GPT-2 with random weights, and a tokenizer of its kind."""
    import transformers

    tokenizer = load_tokenizer(standin.make_tokenizer(folder, vocab_size=520, kind={"llama": "bpe", "gpt2": "byte_level"}[kind]))
    torch.manual_seed(0)
    shape = {"vocab_size": tokenizer.vocab_size, "bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "initializer_range": 0.5}
    if kind == "llama":
        config = transformers.LlamaConfig(
            **shape,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=CONTEXT,
        )
        model = transformers.LlamaForCausalLM(config)
    else:
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape, n_embd=16, n_layer=2, n_head=2, n_positions=CONTEXT))
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["our bpe", "our byte_level", "llama", "gpt2"])
def scorer(request, tmp_path_factory) -> Scorer:
    folder = tmp_path_factory.mktemp("model")
    if request.param.startswith("our"):
        tokenizer = load_tokenizer(standin.make_tokenizer(folder, vocab_size=520, kind=request.param.split()[1]))
        return CheckpointScorer(random_gpt(tokenizer), CPU)
    return HuggingFaceScorer(save_hugging_face(folder, request.param), CPU)


def logits_after(scorer: Scorer, ids: list[int]) -> torch.Tensor:
    """Return the float64 logits (V,) for the token after `ids`."""
    with torch.no_grad():
        out = scorer.model(torch.tensor([ids]))
    return (out if isinstance(out, torch.Tensor) else out.logits)[0, -1].double()


@pytest.mark.slow
def test_loss_is_conditioned_on_bos_and_the_position_tokens_before_it(scorer):
    assert scorer.context == CONTEXT
    rng, tokenizer = random.Random(0), scorer.tokenizer
    for scored in scorer.score(TEXTS):
        (ids,) = tokenizer.encode_batch([scored.text])
        assert scored.losses.shape == scored.sizes.shape == scored.positions.shape == (len(ids),)
        assert scored.losses.dtype == np.float64
        for j in rng.sample(range(len(ids)), min(len(ids), 20)):
            position = scored.positions[j]
            assert position == j if j < CONTEXT else CONTEXT / 2 <= position < CONTEXT
            before = [tokenizer.bos_id, *ids[j - position : j]]
            expected = -torch.log_softmax(logits_after(scorer, before), 0)[ids[j]].item()
            assert scored.losses[j] == pytest.approx(expected, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_loss_equals_that_of_hugging_face(kind, tmp_path):
    scorer = HuggingFaceScorer(save_hugging_face(tmp_path, kind), CPU)
    text = standin.documents(1, seed=2)[0][:12]
    ids = torch.tensor([scorer.tokenizer.encode_prompt(text)])
    assert ids.size(1) <= CONTEXT
    assert scorer.batch_tokens * scorer.tokenizer.vocab_size * 4 <= 2**28  # bytes of the logits
    (scored,) = scorer.score([text])
    with torch.no_grad():
        mean = scorer.model(ids, labels=ids).loss.item()
    assert scored.losses.mean() == pytest.approx(mean, rel=1e-5)


def test_weights_in_a_file_of_pytorch_are_read(tmp_path):
    from safetensors.torch import load_file

    folder = save_hugging_face(tmp_path, "llama")
    (expected,) = HuggingFaceScorer(folder, CPU).score(TEXTS[:1])
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    (scored,) = HuggingFaceScorer(folder, CPU).score(TEXTS[:1])
    assert (scored.losses == expected.losses).all()


@pytest.mark.parametrize("context", [2, 3, 4, 7, 16])
def test_windows_score_each_token_once_with_at_least_half_a_context(context):
    for tokens in range(5 * context + 2):
        spans = list(span_bounds(tokens, context))
        assert [j for _, first, end in spans for j in range(first, end)] == list(range(tokens))
        for begin, first, end in spans:
            assert 0 <= begin <= first < end <= begin + context
            assert begin == 0 or first - begin >= context / 2


def test_batches_have_every_window_once_within_the_token_limit():
    rng = random.Random(1)
    spans = [Span(i, 0, 0, rng.randint(1, 50)) for i in range(200)]
    batches = list(batches_by_length(spans, 120))
    assert sorted(itertools.chain.from_iterable(batches)) == sorted(spans)
    assert all(len(batch) == 1 or len(batch) * max(span.end for span in batch) <= 120 for batch in batches)
    assert len(batches) < 60


def test_batching_changes_losses_only_by_rounding(scorer):
    together = list(scorer.score(TEXTS))
    assert [scored.text for scored in together] == TEXTS
    usual, scorer.batch_tokens = scorer.batch_tokens, 1
    try:
        alone = [scored for text in TEXTS for scored in scorer.score([text])]
    finally:
        scorer.batch_tokens = usual
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one.losses, other.losses, rtol=1e-4, atol=1e-4)
        assert (one.positions == other.positions).all()


def test_sizes_are_the_bytes_of_the_text_without_the_dummy_space(scorer):
    for scored in scorer.score(TEXTS):
        raw, end = scored.text.encode(), 0
        (ids,) = scorer.tokenizer.encode_batch([scored.text])
        assert scored.lost == 0
        for number, (i, size) in enumerate(zip(ids, scored.sizes.tolist(), strict=True)):
            piece = scorer.tokenizer.piece_bytes[i]
            assert raw[end : end + size] == (piece[1:] if number == 0 and size < len(piece) else piece)
            end += size
        assert end == len(raw)
    (scored,) = scorer.score(["\u095b"])  # in NFC it is two letters
    assert (scored.text, scored.sizes.sum()) == ("ज\u093c", 6)


def test_uniform_model_costs_ln_v_per_token(tmp_path):
    tokenizer = load_tokenizer(standin.make_tokenizer(tmp_path))
    trained = random_gpt(tokenizer)
    trained.state_dict["lm_head.weight"].zero_()
    found = list(CheckpointScorer(trained, CPU).score(TEXTS))
    tokens, size = sum(map(len, tokenizer.encode_batch(TEXTS))), sum(len(text.encode()) for text in TEXTS)
    figures = Figures()
    for scored in found:
        figures.add(scored)
    assert figures.bits_per_byte().value == pytest.approx(tokens * math.log(tokenizer.vocab_size) / (math.log(2) * size), rel=1e-6)
    assert figures.perplexity_per_token().value == pytest.approx(tokenizer.vocab_size, rel=1e-5)


@pytest.mark.parametrize("kind", ["bpe", "byte_level"])
def test_bits_per_byte_equal_evaluate_bpb_on_documents_within_one_context(kind, tmp_path):
    """`evaluate_bpb` counts a byte for the dummy space, which the text does not have; everything
    else is equal."""
    tokenizer = load_tokenizer(standin.make_tokenizer(tmp_path, vocab_size=520, kind=kind))
    scorer = CheckpointScorer(random_gpt(tokenizer), CPU)
    texts = [text for text in (document[:14] for document in standin.documents(30, seed=8)) if len(tokenizer.encode_prompt(text)) <= CONTEXT]
    rows = [torch.tensor([tokenizer.document(ids)]) for ids in tokenizer.encode_batch(texts)]
    expected = evaluate_bpb(scorer.model, [(row[:, :-1], row[:, 1:]) for row in rows], compute_token_bytes(tokenizer))
    size = sum(len(text.encode()) for text in texts)
    counted = tokenizer.bytes_of_tokens([text.encode() for text in texts])
    found = sum(scored.losses.sum() for scored in scorer.score(texts)) / math.log(2) / size
    assert len(texts) > 10
    assert found == pytest.approx(expected * counted / size, rel=1e-5)


def test_text_that_the_tokenizer_loses_is_reported_and_keeps_its_bytes(tmp_path):
    folder = standin.make_tokenizer(tmp_path)
    file = folder / "tokenizer.json"
    description = json.loads(file.read_text(encoding="utf-8"))
    description["model"]["byte_fallback"] = False
    file.write_text(json.dumps(description), encoding="utf-8")
    tokenizer = load_tokenizer(folder)
    texts = ["राम 🙂🙂 घर में", "राम घर में", "🙂", "राम▁घर"]  # the last is encoded as with a space
    found = list(CheckpointScorer(random_gpt(tokenizer), CPU).score(texts))
    assert [scored.lost for scored in found] == [2, 0, 1, 0]
    assert [scored.sizes.sum() for scored in found] == [len(text.encode()) for text in texts]
    assert all((scored.sizes >= 0).all() for scored in found)


def test_very_long_or_missing_context_length_is_replaced_with_a_notice(tmp_path, capsys):
    import transformers

    folder = save_hugging_face(tmp_path, "llama")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 1_000_000}))
    assert HuggingFaceScorer(folder, CPU).context == 4096
    assert "has a context of 1,000,000 tokens; using a context of 4,096 tokens" in capsys.readouterr().out
    transformers.BloomForCausalLM(transformers.BloomConfig(vocab_size=520, hidden_size=16, n_layer=1, n_head=2)).save_pretrained(folder)
    scorer = HuggingFaceScorer(folder, CPU)
    assert scorer.context == 1024
    assert "has no max_position_embeddings; using a context of 1,024 tokens" in capsys.readouterr().out
    assert all(np.isfinite(scored.losses).all() for scored in scorer.score(TEXTS))


@pytest.mark.parametrize("harm", ["no model", "weights missing", "not causal", "foreign tokenizer", "no tokenizer"])
def test_folder_that_cannot_be_scored_is_a_user_error(harm, tmp_path):
    from safetensors.torch import load, save_file

    folder = save_hugging_face(tmp_path, "llama")
    if harm == "no model":
        (folder / "config.json").unlink()
    elif harm == "weights missing":
        weights = load((folder / "model.safetensors").read_bytes())
        del weights["model.layers.1.mlp.up_proj.weight"]
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    elif harm == "not causal":
        (folder / "config.json").write_text(json.dumps({"model_type": "t5"}))
    elif harm == "foreign tokenizer":
        standin.make_tokenizer(folder, vocab_size=700)
    else:
        (folder / "tokenizer.json").unlink()
    words = {"weights missing": "lacks weights", "foreign tokenizer": "700 tokens", "no tokenizer": "holds no readable tokenizer"}
    with pytest.raises(UserError, match=words.get(harm, "no causal language model")):
        HuggingFaceScorer(folder, CPU)
