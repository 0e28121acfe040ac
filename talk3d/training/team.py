"""Several processes train one avatar: each computes some parts of a step, and all take the step together.

A step has ``parts`` parts, each a batch of its own with random numbers of its own; its gradient is their mean. One
process computes them one after the other; with ``torchrun`` each process computes every so-many-th. Gradients are
gathered, and added in the order of the processes, never in the order in which they come: with one part to a process the
sum is, number for number, the one that a single process computes. Where a process has several, its own are added first,
and the last bits may differ.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch._C._distributed_c10d import PrefixStore, TCPStore

__all__ = ["SOLO", "Parts", "Team", "TeamBroken", "join"]

_PATIENCE = 40.0  # seconds after which a process that does not answer is given up
_BEAT = 1.0  # seconds between signs of life
_LOOK = 0.1  # seconds between looks for who is late
_LISTEN = 6.0  # seconds in which a process that lives gives one


class TeamBroken(RuntimeError):
    """A process of the team is gone; the message names it."""


class Parts:
    """Which part of a step is being computed, of how many.

    Attributes:
        count: How many a step has.
        now: Which, from 0 on.
    """

    def __init__(self) -> None:
        self.count, self.now = 1, 0

    def turn(self, step: int) -> int:
        """Number the batches of all parts of all steps."""
        return step * self.count + self.now


class Team:
    """The processes that train together; of one process it does nothing.

    Args:
        rank: Which this is.
        size: How many there are.
        store: Where they leave signs of life; None for one.
    """

    def __init__(self, rank: int = 0, size: int = 1, store: Any = None) -> None:
        self.rank, self.size, self._store = rank, size, store
        self._over, self._meetings = threading.Event(), 0
        if store is not None:
            threading.Thread(target=self._live, daemon=True).start()

    @property
    def leads(self) -> bool:
        """Whether this process writes files, and speaks."""
        return self.rank == 0

    def mine(self, parts: int) -> range:
        """Which parts of a step are this process's.

        Raises:
            ValueError: If they cannot be shared out evenly.
        """
        if parts % self.size:
            raise ValueError(
                f"{self.size} processes share out the parts of a step: --parts must be a multiple of "
                f"{self.size}, got {parts}"
            )
        return range(self.rank, parts, self.size)

    def gather(self, parameters: Sequence[nn.Parameter], parts: int, *, stop: bool, step: int) -> bool:
        """Turn the sums of the parts' gradients into their mean over all processes.

        Args:
            parameters: Whose gradients there are; None where no part has one.
            parts: How many a step has.
            stop: Whether this process was asked to stop.
            step: For the message.

        Returns:
            Whether any was asked to stop.

        Raises:
            TeamBroken: If a process is gone.
        """
        if self.size > 1:
            stop = self._gather(parameters, stop, step)
        if parts > 1:
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad /= parts
        return stop

    def wait(self) -> None:
        """Wait for the others, however late they are, as long as they live.

        Raises:
            TeamBroken: If a process is gone.
        """
        if self.size > 1:
            try:
                gone = self._late()
                if not gone:
                    dist.barrier()  # nobody leaves, and takes the store with it, while another looks into it
            except RuntimeError as error:
                raise self._broken("between two steps") from error
            if gone:
                raise self._broken("between two steps")

    def leave(self) -> None:
        """End it."""
        self._over.set()
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def _gather(self, parameters: Sequence[nn.Parameter], stop: bool, step: int) -> bool:
        first = parameters[0]
        there = [float(parameter.grad is not None) for parameter in parameters]
        flags = torch.tensor([float(stop), *there], dtype=first.dtype).to(first.device)
        flat = [
            torch.zeros_like(parameter).flatten() if parameter.grad is None else parameter.grad.flatten()
            for parameter in parameters
        ]
        mine = torch.cat([flags, *flat])
        found = [torch.empty_like(mine) for _ in range(self.size)]
        try:
            dist.all_gather(found, mine)
            total = found[0].clone()
            for other in found[1:]:
                total += other
            asked, *have = total[: len(flags)].tolist()
        except RuntimeError as error:
            raise self._broken(f"in step {step}") from error
        numbers = total[len(flags) :].split([parameter.numel() for parameter in parameters])
        for parameter, number, any_has in zip(parameters, numbers, have, strict=True):
            parameter.grad = number.view_as(parameter).clone() if any_has else None
        return asked > 0

    def _late(self) -> list[int]:
        """Wait until all are here; returns who is not, and gives no sign of life any more.

        Whoever lives may take long, such as the leader to convert a checkpoint, and longer than the backend allows.
        """
        self._meetings += 1
        meeting = f"talk3d/meeting/{self._meetings}"
        self._store.set(f"{meeting}/{self.rank}", "")
        late = [rank for rank in range(self.size) if rank != self.rank]
        last: dict[int, tuple[bytes, float]] = {}
        while late := [rank for rank in late if not self._store.check([f"{meeting}/{rank}"])]:
            now = time.monotonic()
            for rank, sign in self._signs(late).items():
                if rank not in last or last[rank][0] != sign:
                    last[rank] = sign, now
            if gone := [rank for rank in late if now - last[rank][1] > _PATIENCE]:
                return gone
            time.sleep(_LOOK)
        return []

    def _live(self) -> None:
        """Leave signs of life until the process ends."""
        count = 0
        while not self._over.wait(_BEAT):
            count += 1
            try:
                self._store.set(f"talk3d/{self.rank}", str(count))
            except RuntimeError:
                return

    def _broken(self, when: str) -> TeamBroken:
        """Find out who gives no signs of life any more."""
        others = [rank for rank in range(self.size) if rank != self.rank]
        try:
            before = self._signs(others)
            time.sleep(_LISTEN)
            gone = [rank for rank, sign in self._signs(others).items() if sign == before[rank]]
        except RuntimeError:
            gone = [0]  # with it went the store
        names = ", ".join(f"process {rank}" for rank in gone) or "another process"
        return TeamBroken(
            f"{names} of {self.size} is gone {when}; process {self.rank} stops, too. The last checkpoint is there: "
            "go on with --resume"
        )

    def _signs(self, others: Sequence[int]) -> dict[int, bytes]:
        store, found = self._store, {}
        for rank in others:
            key = f"talk3d/{rank}"
            found[rank] = store.get(key) if store.check([key]) else b""
        return found


SOLO = Team()


def join(device: torch.device) -> Team:
    """Join the processes that ``torchrun`` started: gloo on a CPU, NCCL on a GPU; alone where it did not."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return SOLO
    rank = int(os.environ["RANK"])
    wait = timedelta(seconds=_PATIENCE)
    host, port = os.environ.get("MASTER_ADDR", "127.0.0.1"), int(os.environ["MASTER_PORT"])
    # the agent of torchrun keeps a store already
    keeps = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    store = TCPStore(host, port, None, keeps, timeout=wait, wait_for_workers=False)
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    shared = PrefixStore(f"talk3d/{attempt}", store)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo", store=shared, rank=rank, world_size=size, timeout=wait
    )
    return Team(rank, size, shared)
