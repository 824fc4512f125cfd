"""Check nano_hindi/distributed.py on the ranks that torchrun starts for test_distributed.py."""

import os
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from nano_hindi.distributed import World, from_main, joined_world, require_same
from nano_hindi.errors import UserError


def all_ranks_receive_the_result_of_rank_0(world: World) -> None:
    def work():
        assert world.is_main
        return {
            "weights": torch.arange(12.0).view(3, 4).T,
            "scalar": torch.tensor(7),
            "state": torch.get_rng_state(),
            "words": ["एक", {"none": torch.empty(0)}],
        }

    result = from_main(world, work)
    assert result["weights"].tolist() == torch.arange(12.0).view(3, 4).T.tolist()
    assert (result["scalar"].item(), result["scalar"].shape, result["state"].dtype) == (7, (), torch.uint8)
    assert result["words"][0] == "एक"
    assert result["words"][1]["none"].shape == (0,)


def all_ranks_raise_the_errors_of_rank_0(world: World) -> None:
    for error in (UserError("no data"), OSError(28, "No space left", "folder")):
        with pytest.raises(type(error), match=str(error.args[-1]) if isinstance(error, UserError) else "No space left"):
            from_main(world, lambda error=error: (_ for _ in ()).throw(error))


def equal_values_pass_and_others_are_named(world: World) -> None:
    require_same(world, "data", {"a": 1, "b": "x"}, "copy it")
    with pytest.raises(UserError, match=r"not the same data as rank 0 on \S+: rank 1 on \S+ \(b\); rank 2 on \S+ \(a, b\); copy it"):
        require_same(world, "data", {"a": max(1, world.rank), "b": world.rank}, "copy it")
    with pytest.raises(UserError, match=r"rank 1 on \S+ \(c\); copy it"):
        require_same(world, "data", {"a": 1, "c": 2} if world.rank == 1 else {"a": 1}, "copy it")


def main() -> None:
    with joined_world("cpu") as world:
        assert world.size == 3
        all_ranks_receive_the_result_of_rank_0(world)
        all_ranks_raise_the_errors_of_rank_0(world)
        equal_values_pass_and_others_are_named(world)


if __name__ == "__main__":
    pids = Path(sys.argv[1]) / "pids"
    pids.mkdir(exist_ok=True)
    (pids / str(os.getpid())).touch()
    main()
