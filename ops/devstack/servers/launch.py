"""Executes a program that cannot outlive its parent; run as a script, as the first step of a child process.

A script rather than a `preexec_fn`, which is not safe with threads. The order matters: first the account, then the
death signal (a change of account clears it), then the check whether the parent died meanwhile.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
"""From linux/prctl.h."""


def main(parent: int, death_signal: int, uid: int, gid: int, *command: str) -> None:
    """Change the account unless `uid` is negative, set the death signal unless it is 0, and execute `command`."""
    if uid >= 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if death_signal and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, death_signal)
    if os.getppid() != parent:
        sys.exit("The process that started this one is gone.")
    # Python ignores these two, and the program would inherit that.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execv(command[0], command)  # noqa: S606 - deliberately without a shell
    except OSError as problem:
        sys.exit(f"{command[0]} cannot be run: {problem.strerror}.")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), *sys.argv[5:])
