"""Python programs in processes that are forked from one which has imported what most of them need.

A fresh interpreter takes seconds to import PyTorch and Lightning, for programs that run for tenths. A forked one is as
independent: it has an environment, arguments, a folder and a `__main__` of its own, and can be killed. As in the fork
server of loaders, no libvips operation has run before; and huggingface_hub, which reads its environment when it is
imported, is imported afterwards. Programs that are about imports, or memory, need a fresh interpreter.
"""

from __future__ import annotations

import atexit
import gc
import io
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import IO, Any

MODULES = (
    "lightning.pytorch.cli", "torchmetrics.classification", "torchvision.models", "pyarrow.parquet", "pyarrow.dataset",
    "albumentationsxl", "wsidata.datamodules.wsi", "wsidata.datamodules.image_folder", "wsidata.stats.compute",
    "streammodels.training.streaming_resnet",
)  # fmt: skip
NEVER_BEFORE = ("huggingface_hub", "datasets")


@dataclass
class Program:
    """A program that was started.

    Attributes:
        arguments: Its command line, without the interpreter.
        pid: Number of its process.
        pipes: From which its "stdout" and "stderr" can be read.
        said: What was read from them.
    """

    arguments: list[str]
    pid: int
    pipes: dict[str, io.FileIO]
    said: dict[str, bytes]

    def output(self, name: str = "stdout") -> str:
        """What it has written so far to "stdout" or "stderr"."""
        for one, pipe in list(self.pipes.items()):
            while block := pipe.read(2**16):
                self.said[one] += block
            if block is not None:  # the end; None is only for now
                self.pipes.pop(one).close()
        return self.said[name].decode()

    def wait(self, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Its result when it has ended.

        Raises:
            subprocess.TimeoutExpired: if that takes more than `timeout` seconds; it is killed.
        """
        answers, deadline, status = _tell(self.pid), time.monotonic() + timeout, None
        while status is None and time.monotonic() < deadline:
            if answers in select.select([answers, *self.pipes.values()], [], [], deadline - time.monotonic())[0]:
                status = int(answers.readline())
            self.output()
        if status is None:
            os.kill(self.pid, signal.SIGKILL)
            answers.readline()
        said = self.output(), self.output("stderr")
        for pipe in self.pipes.values():  # which its own children may hold
            pipe.close()
        if status is None:
            raise subprocess.TimeoutExpired(self.arguments, timeout, *said)
        return subprocess.CompletedProcess(self.arguments, status, *said)


def start_python(
    *arguments: object, env: Mapping[str, str] | None = None, cwd: object = None, new_session: bool = False
) -> Program:
    """Start a program.

    Args:
        arguments: "-c", the code and `sys.argv[1:]`, or the path of a script and `sys.argv[1:]`.
        env: Its environment. None: that of this process.
        cwd: The folder it runs in. None: that of this process.
        new_session: Whether it leads a session and a group of its own.
    """
    told = [str(argument) for argument in arguments]
    with tempfile.TemporaryDirectory() as folder:
        pipes = {}
        for name in ("stdout", "stderr"):
            os.mkfifo(f"{folder}/{name}")
            pipes[name] = io.FileIO(os.open(f"{folder}/{name}", os.O_RDONLY | os.O_NONBLOCK))
        request = {
            "arguments": told,
            "env": dict(os.environ if env is None else env),
            "cwd": str(cwd or Path.cwd()),
            "pipes": [f"{folder}/{name}" for name in pipes],
            "new_session": new_session,
        }
        pid = int(_tell(request).readline())
    return Program(told, pid, pipes, dict.fromkeys(pipes, b""))


def run_python(*arguments: object, timeout: float = 300, check: bool = False, **options: Any) -> Any:
    """`subprocess.run` of a program, its output captured as text; arguments as for `start_python`."""
    done = start_python(*arguments, **options).wait(timeout)
    if check:
        done.check_returncode()
    return done


def run_group(processes: int, *arguments: object, timeout: float = 300, **options: Any) -> list[Any]:
    """Results of processes that train together, each as torchrun would start it, by rank.

    Lightning alone would start all but the first in interpreters that import everything again.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes), "NODE_RANK": "0"}
    ranks = [os.environ | group | {"LOCAL_RANK": str(rank)} for rank in range(processes)]
    return [one.wait(timeout) for one in [start_python(*arguments, env=rank, **options) for rank in ranks]]


@cache
def _server() -> subprocess.Popen[str]:
    """The process that forks; it ends with this one, whose end closes its input."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "VIPS_CONCURRENCY": "1"}
    server = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    atexit.register(server.communicate)
    assert server.stdout is not None
    if server.stdout.readline() != "ready\n":
        raise RuntimeError("the process that programs are forked from did not start; its error is above.")
    return server


def _tell(what: Any) -> IO[str]:
    """Tell the process that forks what to start, or which process to wait for. Returns where it answers, in a line."""
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(f"{json.dumps(what)}\n")
    server.stdin.flush()
    return server.stdout


def _serve() -> dict[str, Any] | None:
    """Fork a process for each request, and wait for it when told; returns the request in it, and None at the end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in MODULES:
            import_module(name)
    before = [name for name in NEVER_BEFORE if name in sys.modules]
    assert not before, f"{before} must be imported later"
    gc.freeze()
    print("ready", flush=True)
    running = set()
    for line in sys.stdin:
        told = json.loads(line)
        if isinstance(told, int):  # which to wait for
            print(os.waitstatus_to_exitcode(os.waitpid(told, 0)[1]), flush=True)
            running.remove(told)
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of threads, which are those of jemalloc, and survive
            pid = os.fork()
        if not pid:
            return dict(told)
        running.add(pid)
    for pid in running:  # of tests that failed
        os.kill(pid, signal.SIGKILL)
    return None


def _begin(told: dict[str, Any]) -> tuple[str, str]:
    """Become the process that was requested. Returns its code, and where that is from."""
    if told["new_session"]:
        os.setsid()
    streams = [os.open(os.devnull, os.O_RDONLY), *(os.open(pipe, os.O_WRONLY) for pipe in told["pipes"])]
    print(os.getpid(), flush=True)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(told["cwd"])
    os.environ.clear()
    os.environ.update(told["env"])
    sys.argv[:] = told["arguments"]
    if sys.argv[0] == "-c":
        sys.path[0] = ""
        return sys.argv.pop(1), "<string>"
    sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
    return Path(sys.argv[0]).read_text(), sys.argv[0]


def _run(code: str, path: str) -> int:
    """Run code as `__main__`, to its exit status; the end of the interpreter, which takes a second, is left out."""
    main = ModuleType("__main__")
    if path != "<string>":
        main.__file__ = path
    sys.modules["__main__"] = main
    try:
        exec(compile(code, path, "exec"), main.__dict__)
        status: Any = 0
    except SystemExit as end:
        status = end.code or 0
        if not isinstance(status, int):
            print(status, file=sys.stderr)
            status = 1
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]  # as `multiprocessing` ends its processes
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return status


if __name__ == "__main__" and (request := _serve()):
    os._exit(_run(*_begin(request)))
