"""Continue Hindi text with a trained model.

python generate.py --checkpoint checkpoints --prompt "भारत एक"
python generate.py --checkpoint checkpoints --interactive
"""

from __future__ import annotations

import argparse
import secrets
import sys
from pathlib import Path

from nano_hindi.command import Parser, command_line
from nano_hindi.common import pick_device
from nano_hindi.errors import UserError


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        may_be_empty=("--prompt",),
        prog="generate.py",
        description="Continue Hindi text with a trained model. Without a prompt: a few prompts of its own.",
    )
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FILE|DIR", help="a checkpoint, a model.pt, or a folder that holds them")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--prompt", metavar="TEXT", help="text to continue; - reads it from stdin, an empty one starts from nothing")
    what.add_argument("--interactive", action="store_true", help="ask for prompts until Ctrl-D")
    parser.add_argument("--max_tokens", type=int, default=200, metavar="N", help="tokens to write at most")
    parser.add_argument("--temperature", type=float, default=0.8, metavar="T", help="0 always takes the likeliest token; higher is more surprising")
    parser.add_argument("--top_k", type=int, default=50, metavar="K", help="draw from the K likeliest tokens; 0 draws from all")
    parser.add_argument("--seed", type=int, metavar="S", help="repeats a text; without it every text is new")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="without it: cuda where there is one")
    args = parser.parse_args(argv)
    if args.max_tokens < 1:
        raise UserError(f"--max_tokens must be at least 1, not {args.max_tokens}")
    if not 0 <= args.temperature < float("inf"):
        raise UserError(f"--temperature must be 0 or more, not {args.temperature}")
    if args.top_k < 0:
        raise UserError(f"--top_k must be 0 or more, not {args.top_k}")
    if args.seed is not None and abs(args.seed) >= 2**63:
        raise UserError(f"--seed must be below 2**63 and above -2**63, not {args.seed}")
    return args


@command_line
def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    from nano_hindi.checkpoint import load_for_inference

    trained = load_for_inference(args.checkpoint)
    model, tokenizer = build_model(trained, pick_device(args.device)), trained.tokenizer
    del trained  # its tensors are mapped from the file, and Windows would not let a training run delete that
    if args.interactive:
        talk(model, tokenizer, args)
    elif args.prompt is None:
        from nano_hindi.report import SAMPLE_PROMPTS

        for prompt in SAMPLE_PROMPTS:
            stream(model, tokenizer, prompt, args)
            print()
    else:
        stream(model, tokenizer, sys.stdin.read().rstrip("\r\n") if args.prompt == "-" else args.prompt, args)
    return 0


def build_model(trained, device):
    """The model of a checkpoint, on its device and ready to write."""
    import torch

    from nano_hindi.common import compute_dtype
    from nano_hindi.flash_attention import select_backend
    from nano_hindi.model import GPT

    config = trained.config
    with torch.device("meta"):
        model = GPT(config)
    model.to_empty(device=device)
    try:
        model.load_state_dict(trained.state_dict)
    except RuntimeError as error:
        raise UserError(f"the weights of {trained.path} do not fit its own configuration; use another checkpoint") from error
    model.eval()
    model.compute_dtype = compute_dtype(device)
    select_backend(device, model.compute_dtype, head_dim=config.head_dim, n_head=config.n_head, n_kv_head=config.n_kv_head, training=False)
    return model


def stream(model, tokenizer, prompt: str, args: argparse.Namespace) -> None:
    """Print the prompt and its continuation, whole characters as they come, up to eos."""
    from nano_hindi.engine import generate_tokens

    tokens = tokenizer.encode_prompt(prompt)
    text = tokenizer.text_stream(after=tokens)
    print(prompt, end="", flush=True)
    seed = secrets.randbits(32) if args.seed is None else args.seed
    try:
        for token in generate_tokens(model, tokens, args.max_tokens, args.temperature, args.top_k, seed, stop_ids=(tokenizer.eos_id,)):
            print(text.push(token), end="", flush=True)
    finally:
        print(text.flush(), flush=True)


def talk(model, tokenizer, args: argparse.Namespace) -> None:
    """Ask for a prompt, continue it, ask again. Ctrl-C stops a text, Ctrl-D or /quit ends the program."""
    print("Type the beginning of a text. Ctrl-C stops an answer, /quit or Ctrl-D leaves.")
    while True:
        try:
            prompt = input("\n> ")
        except EOFError:
            print()
            return
        if prompt.strip() == "/quit":
            return
        try:
            stream(model, tokenizer, prompt, args)
        except KeyboardInterrupt:
            print("[stopped]")


if __name__ == "__main__":
    sys.exit(main())
