"""Counting calls of a net's methods without giving up its fast loops."""

from zf_pyro.networks import with_fast_form

IN_LOOPS = ("posterior", "transition")
"""Step functions that fast loops stand for: their counted versions keep those loops."""


def count_calls(net, counts, *names):
    """Add the calls of these methods of ``net`` to ``counts``, by name."""
    kind = type(net)

    def counted(name):
        plain = getattr(kind, name)

        def call(self, *args):
            counts[name] += 1
            return plain(self, *args)

        return with_fast_form(call) if name in IN_LOOPS else call

    net.__class__ = type(kind.__name__, (kind,), {name: counted(name) for name in names})
