"""Opens the API's listening sockets, one for each slot of a worker, which the workers inherit.

Invariants: the supervisor never closes them while it runs, so connections that wait in the kernel's queue outlive any
worker: the next worker of that slot accepts them. Accepted connections inherit a socket's options.
"""

import ctypes
import os
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, Final

from projections.errors import MembershipError

BACKLOG: Final = 1_024
"""Connections that wait in the kernel's queue until a worker accepts them."""
UNREAD_MAX_MS: Final = 5_000
"""How long a caller may take none of the bytes sent to it before the kernel resets its connection. granian has no write
timeout and buffers a megabyte per connection, which a caller that never reads would hold as long as it likes."""


SO_ATTACH_REUSEPORT_CBPF: Final = 51
INSTRUCTION: Final = struct.Struct("HBBI")
BPF_LD_W_ABS: Final = 0x20
BPF_ALU_MOD_K: Final = 0x94
BPF_JMP_JEQ_K: Final = 0x15
BPF_RET_K: Final = 0x06
SKF_AD_RANDOM: Final = 0xFFFF_F000 + 56
"""From asm-generic/socket.h, linux/bpf_common.h and linux/filter.h."""


class AddressTaken(MembershipError):
    """Another process already listens on the configured address."""

    code = "address_taken"

    def __init__(self, host: str, port: int, problem: OSError) -> None:
        super().__init__(
            f"Cannot listen on {host}:{port}: {problem.strerror}. "
            "Choose another address with MEMBERSHIP_HTTP_HOST and MEMBERSHIP_HTTP_PORT."
        )


def open_listeners(host: str, port: int, count: int) -> list[socket.socket]:
    """Return `count` sockets that listen on the same address; raise `AddressTaken`.

    Linux shares new connections out among them. Elsewhere all are the same socket, from which each worker accepts.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    try:
        # Without SO_REUSEPORT: a leftover process that listens with it would otherwise get a share of the requests.
        first = _bound(socket.socket(family, kind, protocol), address)
        if count == 1 or sys.platform != "linux":
            listeners = [first] * count
        else:
            with first:
                address = first.getsockname()  # has the number of a port that was given as 0
            listeners = [_bound(socket.socket(family, kind, protocol), address, shared=True) for _ in range(count)]
        for listener in listeners:
            listener.listen(BACKLOG)
    except OSError as problem:
        raise AddressTaken(host, port, problem) from None
    return listeners


def _bound(listener: socket.socket, address: Any, *, shared: bool = False) -> socket.socket:  # noqa: ANN401 - by family
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_MAX_MS)
    listener.setblocking(False)
    listener.bind(address)
    return listener


def distribute(listeners: Sequence[socket.socket], indexes: Sequence[int]) -> None:
    """Share new connections out at random among the listeners with these indexes, so that no other gets one.

    Without it, Linux would give a dead worker's listener its share, to wait there until the worker is replaced.
    """
    if len(listeners) < 2 or listeners[0] is listeners[1] or not indexes:  # noqa: PLR2004 - one has no share
        return
    program = ctypes.create_string_buffer(b"".join(_selecting(indexes)))
    instructions = len(program.raw) // INSTRUCTION.size
    with suppress(OSError):  # a sandbox without it: the kernel's own distribution remains
        listeners[0].setsockopt(
            socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, struct.pack("HP", instructions, ctypes.addressof(program))
        )


def _selecting(indexes: Sequence[int]) -> Iterator[bytes]:
    """Return a program in classic BPF: a random number modulo their count selects one of the indexes."""
    yield INSTRUCTION.pack(BPF_LD_W_ABS, 0, 0, SKF_AD_RANDOM)
    yield INSTRUCTION.pack(BPF_ALU_MOD_K, 0, 0, len(indexes))
    for number, index in enumerate(indexes):
        yield INSTRUCTION.pack(BPF_JMP_JEQ_K, 0, 1, number)  # if equal, continue; else skip one instruction
        yield INSTRUCTION.pack(BPF_RET_K, 0, 0, index)
    yield INSTRUCTION.pack(BPF_RET_K, 0, 0, indexes[0])


def stop_accepting(descriptor: int) -> None:
    """Replace this process's descriptor of the listening socket by one without an address.

    So this process accepts no more connections, without closing those it has accepted; the other processes, which share
    the listening socket, accept them. Linux only; elsewhere it accepts until it stops.
    """
    if sys.platform != "linux":
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as unreachable:
        unreachable.bind("")  # an abstract name that nobody is told
        unreachable.listen(1)
        unreachable.setblocking(False)
        os.dup2(unreachable.fileno(), descriptor, inheritable=False)
