"""Continue Hindi text with a trained model.

python generate.py --checkpoint checkpoints --prompt "भारत एक"
python generate.py --checkpoint checkpoints --interactive
python generate.py --checkpoint checkpoints_chat --chat
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from nano_hindi.cli import Parser, command_line
from nano_hindi.common import pick_device
from nano_hindi.errors import UserError
from nano_hindi.inference.settings import SAMPLE_PROMPTS, SETTINGS, Settings
from nano_hindi.ranges import whole


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the flags, with the sampling settings as `settings`. Raises UserError for a wrong
    value."""
    parser = Parser(
        may_be_empty=("--prompt",),
        prog="generate.py",
        description="Continue Hindi text with a trained model. Without --prompt: a few built-in prompts.",
    )
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FILE|DIR", help="a checkpoint, a model.pt, or a folder that holds them")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--prompt", metavar="TEXT", help="text to continue; - reads it from stdin; an empty text is allowed")
    source.add_argument(
        "--interactive", action="store_true", help="write a text together with the model, line by line; with a chat model the same as --chat"
    )
    parser.add_argument("--chat", action="store_true", help="talk to a chat model; with --prompt: print only the answer")
    parser.add_argument(
        "--num_samples", type=whole(1, 10_000), default=1, metavar="N", help="texts per prompt, generated in one batch, separated by a line ---"
    )
    for name, setting in SETTINGS.items():
        metadata = setting.metadata
        parser.add_argument(f"--{name}", type=metadata["valid"], default=setting.default, metavar=metadata["metavar"], help=metadata["help"])
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda if available")
    args = parser.parse_args(argv)
    args.settings = Settings(**{name: getattr(args, name) for name in SETTINGS})
    if (args.interactive or args.chat) and args.num_samples > 1:
        raise UserError(f"{'--chat' if args.chat else '--interactive'} writes one text; omit --num_samples")
    return args


@command_line
def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    from nano_hindi.inference.loading import build_model, load_for_inference
    from nano_hindi.inference.text import print_texts

    trained = load_for_inference(args.checkpoint)
    if args.chat and not trained.is_chat:
        raise UserError(f"{trained.path} is a base model, not a chat model; continue a text with --interactive, or fine-tune it with finetune.py")
    model, tokenizer, is_chat = build_model(trained, pick_device(args.device)), trained.tokenizer, trained.is_chat
    del trained  # its tensors are memory-mapped, and on Windows a training run could not delete the file
    if args.interactive or (args.chat and args.prompt is None):
        from nano_hindi.inference.conversation import ChatSession
        from nano_hindi.inference.session import run
        from nano_hindi.inference.write_together import TextSession

        run((ChatSession if is_chat else TextSession)(model, tokenizer, args.settings))
        return 0
    if args.chat:
        from nano_hindi.inference.conversation import print_answer

        [question] = read_prompts(args.prompt)
        print_answer(model, tokenizer, question, args.settings)
        return 0
    for number, prompt in enumerate(read_prompts(args.prompt)):
        if number > 0:
            print()
        print_texts(model, tokenizer, prompt, args.settings, args.num_samples)
    return 0


def read_prompts(prompt: str | None) -> tuple[str, ...]:
    """Return the prompts for `--prompt`: those built in if it is omitted, stdin for `-`."""
    if prompt is None:
        return SAMPLE_PROMPTS
    return (sys.stdin.read().removeprefix("\ufeff").rstrip("\r\n") if prompt == "-" else prompt,)  # PowerShell begins a pipe with U+FEFF


if __name__ == "__main__":
    sys.exit(main())
