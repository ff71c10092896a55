"""Loaded into every Python program of a guest that will be copied (PYTHONPATH).

Python keeps random state of its own, which every copy of a running program would share: module
`random`, every `random.Random()` that was not given a seed, and NumPy's global generator. All of
them are seeded anew when the guest is copied. os.urandom, secrets and uuid4 ask the kernel; OpenSSL
is given new randomness besides the jump of the clock at which it seeds itself again.
"""

import os
import sys


def _osvm():
    import _thread
    import random
    import socket
    import weakref

    path = "/run/osvm/wake.sock"
    unseeded = weakref.WeakSet()
    plain = random.Random.seed

    def seed(self, a=None, version=2):
        if a is None:
            unseeded.add(self)
        else:
            unseeded.discard(self)
        plain(self, a, version)

    random.Random.seed = seed
    unseeded.add(random._inst)
    # Bound when the module was loaded.
    random.seed = random._inst.seed

    def wake():
        for generator in list(unseeded):
            plain(generator)
        numpy = sys.modules.get("numpy.random")
        if numpy is not None:
            numpy.seed()
        if "_ssl" in sys.modules:
            sys.modules["_ssl"].RAND_add(os.urandom(32), 32.0)

    def serve(connection):
        try:
            # Rehearsing is the same as being woken, and Python compiles nothing while it runs.
            while word := connection.recv(1):
                if word != b"x":
                    wake()
                connection.sendall(word)
        except OSError:
            pass

    def connect():
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(path)
        except OSError:
            connection.close()
            return
        _thread.start_new_thread(serve, (connection,))

    connect()
    os.register_at_fork(after_in_child=connect)


def _next():
    """Loads the sitecustomize that this one stands in front of, if there is one."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != here]
    mine = sys.modules.pop("sitecustomize", None)
    try:
        import sitecustomize  # noqa: F401
    except ImportError:
        if mine is not None:
            sys.modules["sitecustomize"] = mine


_osvm()
_next()
