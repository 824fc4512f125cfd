"""Shorten what takes most of the time of a run of a second, and what few tests look at."""

import functools


@functools.cache
def activation_bytes(*args, **kwargs) -> int:
    from nano_hindi.training import memory

    return memory.activation_bytes(*args, **kwargs)


def shorten_ends(patch=setattr, *, draws: bool = False) -> None:
    """Let the runs of this process print samples of few tokens, measure no matmul, count the memory
    of a network once, collect no garbage among the objects of all test modules, and, unless
    `draws`, write an empty curves.png. `patch` is called like setattr."""
    from nano_hindi.training import curves, loop, report, text_data

    patch(text_data, "SAMPLE_TOKENS", 2)
    patch(report, "matmul_flops", lambda device, dtype: 1e11)
    patch(report, "activation_bytes", activation_bytes)
    patch(loop, "collect_garbage", lambda freeze: None)
    if not draws:
        patch(curves, "draw_curves", lambda runs, picture: picture.touch())
