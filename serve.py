"""Serve a trained model: a page to talk to it, and OpenAI's API.

python serve.py --checkpoint checkpoints
"""

from __future__ import annotations

import argparse
import ipaddress
import re
import secrets
import socket
import sys
import urllib.parse
import webbrowser
from pathlib import Path

from nano_hindi.cli import Parser, command_line
from nano_hindi.common import has_display, pick_device
from nano_hindi.errors import UserError, require
from nano_hindi.ranges import whole


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the flags. Raises UserError for a wrong value."""
    parser = Parser(prog="serve.py", description="Serve a trained model: a page to talk to it, and OpenAI's API. Ctrl-C ends it.")
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FILE|DIR", help="a checkpoint, a model.pt, or a folder that holds them")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda if available")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 accepts other machines, with a token")
    parser.add_argument("--port", type=whole(0, 2**16), default=8000, metavar="N", help="port to listen on; 0: any free port")
    parser.add_argument(
        "--token", help="token that clients must send; default: none if only this machine can connect, else a random one, which is printed"
    )
    parser.add_argument("--open", action="store_true", help="open the page in the browser, if this machine has a screen")
    parser.add_argument("--max_tokens", type=whole(1, 2**20), default=1024, metavar="N", help="maximum number of tokens of an answer")
    args = parser.parse_args(argv)
    require(args.token is None or re.fullmatch("[!-~]+", args.token) is not None, "--token may hold only ASCII letters, digits and signs")
    return args


@command_line
def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    from nano_hindi.inference.loading import build_model, load_for_inference

    try:
        from nano_hindi.serving import api
    except ModuleNotFoundError as error:
        if error.name not in ("starlette", "uvicorn"):
            raise
        raise UserError(f"serve.py needs {error.name}; install it: pip install -r requirements-serve.txt") from None
    from nano_hindi.serving.scheduler import Scheduler

    with listen(args.host, args.port) as listener:
        trained = load_for_inference(args.checkpoint)
        model = build_model(trained, pick_device(args.device))
        hosts = None if args.token else local_names(args.host)  # with a token, a proxy may give this machine another name
        token = args.token or (None if hosts else secrets.token_urlsafe(24))
        with Scheduler(model) as scheduler:
            served = api.Served(scheduler, trained.tokenizer, trained.is_chat, trained.config.sequence_len, args.max_tokens)
            del trained  # its tensors are memory-mapped, and on Windows a training run could not delete the file
            address = page_address(args.host, listener, token)
            print(f"{address}  (Ctrl-C ends the server)", flush=True)
            if args.open and has_display():  # without one, webbrowser would start a browser in the terminal
                webbrowser.open(address)  # it waits: the port is open, and the server answers soon
            api.make_server(served, token, hosts).run(sockets=[listener])
    return 0


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on a TCP port. Raises UserError if that is not possible."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        is_dual = family == socket.AF_INET6 and socket.has_dualstack_ipv6()  # :: is for IPv4 too
        return socket.create_server(address, family=family, dualstack_ipv6=is_dual)
    except (OSError, UnicodeError) as error:
        reason = str(getattr(error, "strerror", None) or error).partition(" (while")[0]  # socket's words repeat the address
        raise UserError(f"cannot listen on port {port} of {host} ({reason}); choose another with --port or --host") from None


def local_names(host: str) -> set[str] | None:
    """Return the names under which a browser on this machine reaches the server; None if `host` is
    open to other machines."""
    try:
        is_local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_local = host == "localhost"
    return {host, "localhost", "127.0.0.1", "::1"} if is_local else None


def page_address(host: str, listener: socket.socket, token: str | None) -> str:
    """Return the URL of the page. The token is in its fragment, which browsers do not send."""
    name = own_address() if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    fragment = f"#token={urllib.parse.quote(token)}" if token else ""
    return f"http://{name}:{listener.getsockname()[1]}/{fragment}"


def own_address() -> str:
    """Return the IPv4 address of this machine in its network, or in its VPN, as a phone may not
    find its name; the name if there is no network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unsent:
        try:
            unsent.connect(("192.0.2.1", 9))  # chooses the network and sends nothing; RFC 5737 leaves the address unused
        except OSError:
            return socket.gethostname()
        return unsent.getsockname()[0]


if __name__ == "__main__":
    sys.exit(main())
